"""Weights files: safetensors files whose header contains the network's config, so the network can be built from the file alone.

Reading a weights file runs no code from the file. Files of other programs have no such header;
:mod:`sr_train.weights.foreign.recognize` recognizes their networks by names and shapes of tensors.

Header fields, all strings: ``format``, ``version``, ``model`` (JSON: ``_target_`` and plain arguments), ``scale``
(``2,3,4`` for a network with three scales), ``channels`` (of the network's images: ``3`` for RGB, ``1`` for gray),
``origin`` (JSON: run, stage and step, or the other program's file), ``scores`` (JSON: ``{"set/protocol/psnr": dB}``).
For a network in which one tensor has several names, there is also ``shared`` (JSON: ``{name of a tensor: name under
which the same tensor is stored}``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from sr_train.files import write_bytes
from sr_train.torch_files import TorchFileError, is_dict, is_list, read_header, storable
from sr_train.weights.foreign.base import WeightsError, count_tensors
from sr_train.weights.foreign.content import read_any
from sr_train.weights.foreign.recognize import recognize

FORMAT = "sr-train weights"

DISCRIMINATOR = "sr-train discriminator"  #: format of the files of :mod:`sr_train.weights.discriminator`

VERSION = "1"

MODELS = "sr_train.models"

CHANNELS = "image_channels"  #: argument of networks: channels of their images; 3 if it is missing

ANY = "*"  #: in ``allow``: accept any package; only for reading tensors without building the network

_LARGEST = 10_000  # largest number in a model's arguments

_LONGEST = 100  # most entries of a list or mapping, most characters of a string

_DEEPEST = 10  # most levels of nested lists and mappings


@dataclass
class Weights:
    """A network's weights, its config, its origin and its scores."""

    model: dict[str, Any]  #: ``_target_`` and the constructor's arguments
    state: dict[str, torch.Tensor]
    origin: dict[str, Any] = field(
        default_factory=dict[str, Any]
    )  #: run, stage, step, version, ancestors (digests of the networks it started from); or another program's file, layout
    scores: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def scales(self) -> tuple[int, ...]:
        """Scales of the network: one for each branch of an MDSR, a single scale for other networks."""
        return tuple(self.model["scales"]) if "scales" in self.model else (int(self.model["scale"]),)

    @property
    def channels(self) -> int:
        """Channels of the network's images: 3 for RGB, 1 for gray."""
        return int(self.model.get(CHANNELS, 3))

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel along a side, for a network with one scale."""
        (scale,) = self.scales
        return scale


def save_weights(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write a weights file atomically."""
    write_bytes(path, pack(weights, where=str(path)))


def pack(weights: Weights, *, where: str) -> bytes:
    """Return weights as the bytes of a weights file. A tensor with several names is written once."""
    check_model_config(weights.model, where=where, allow=(str(weights.model.get("_target_")).partition(".")[0],))
    check_finite(weights.state, where=f"{where}: not written")
    tensors, shared = storable(weights.state)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": json.dumps(weights.model),
        "scale": ",".join(map(str, weights.scales)),
        "channels": str(weights.channels),
        "origin": json.dumps(weights.origin),
        "scores": json.dumps(weights.scores),
    }
    if shared:
        header["shared"] = json.dumps(shared)
    try:
        return to_bytes(tensors, metadata=header)
    except (SafetensorError, KeyError, ValueError) as error:  # e.g. a dtype that safetensors does not support
        raise WeightsError(f"{where}: not written: safetensors cannot hold these tensors ({error})") from None


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors that contain NaN or infinity."""
    return [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]


def check_finite(state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Raise WeightsError with the names of the tensors that contain NaN or infinity."""
    bad = not_finite(state)
    if bad:
        raise WeightsError(
            f"{where}: {count_tensors(len(bad), 'contains', 'contain')} NaN or infinity: {', '.join(bad[:5])}"
        )


def load_weights(path: str | os.PathLike[str], *, allow: Sequence[str] = (), scale: int | None = None) -> Weights:
    """Read a weights file of sr-train or of another program.

    The kind of file is recognized by its content, not its suffix. Raises WeightsError with the file's name if the file
    contains no weights, is damaged or has another version. ``allow`` lists packages besides ``sr_train.models`` that
    the class of the network may come from. ``scale`` is needed only for a file of another program whose tensors fit
    networks of several scales.
    """
    path = Path(path)
    content, header = read_any(path)
    if header.get("format") == DISCRIMINATOR:
        raise WeightsError(
            f"{path}: contains a discriminator, not a network that upscales; give {path.with_name('weights.safetensors')}, or "
            "use this file as init.discriminator"
        )
    try:
        if header.get("format") == FORMAT:
            weights = _described(header, cast("dict[str, torch.Tensor]", content), str(path))
        else:
            weights = Weights(*recognize(path, content, scale=scale))
    except TorchFileError as error:
        raise WeightsError(str(error)) from None
    check_model_config(weights.model, where=str(path), allow=allow)
    check_finite(weights.state, where=str(path))
    return weights


def unpack(data: bytes, *, where: str, allow: Sequence[str] = ()) -> Weights:
    """Read weights from the bytes of a weights file, the inverse of :func:`pack`."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    weights = _described(header, from_bytes(data), where)
    check_model_config(weights.model, where=where, allow=allow)
    return weights


def _described(header: Mapping[str, str], state: dict[str, torch.Tensor], where: str) -> Weights:
    """Return the weights in a file of sr-train, from the file's tensors and header.

    Raise WeightsError for a wrong header.
    """
    if header.get("version") != VERSION:
        raise WeightsError(f"{where}: has version {header.get('version')}; this sr-train reads version {VERSION}")
    try:
        model, origin, scores = (json.loads(header[name]) for name in ("model", "origin", "scores"))
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: damaged header ({error!r})") from None
    state = state | _shared(where, header.get("shared", "{}"), state)
    if not (is_dict(origin) and is_dict(scores)):
        raise WeightsError(f"{where}: damaged header (origin and scores must be mappings)")
    return Weights(model=model, state=state, origin=origin, scores=scores)


def _shared(where: str, field: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return {name: tensor} for names of tensors that a file stores under another name.

    A tensor that has several names in a network is stored once. ``field`` is the header's field ``shared``, ``state``
    contains the stored tensors.
    """
    try:
        names = json.loads(field)
        return {str(name): state[stored] for name, stored in names.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: damaged header (shared: {error!r})") from None


def origin_of(path: Path) -> dict[str, Any]:
    """Return the field ``origin`` of a file's header, without reading tensors; an empty dict if it cannot be read."""
    try:
        origin = json.loads(read_header(path)["origin"])
    except (KeyError, ValueError, RecursionError):
        return {}
    return origin if is_dict(origin) else {}


def _check_plain(value: object, where: str, depth: int = 0) -> None:
    """Raise WeightsError unless a value of a header is plain and not too large or too deep.

    Without this check, a network that is built from a hostile header could need a terabyte of memory.
    """
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        if not (math.isfinite(value) and abs(value) <= _LARGEST):
            raise WeightsError(f"{where}={value} is beyond {_LARGEST}")
    elif isinstance(value, str):
        if len(value) > _LONGEST:
            raise WeightsError(f"{where} is a string of {len(value)} characters; at most {_LONGEST} are allowed")
    elif is_list(value):
        if len(value) > _LONGEST or depth > _DEEPEST:
            raise WeightsError(
                f"{where} is a list of {len(value)} items at depth {depth}; "
                f"at most {_LONGEST} items and depth {_DEEPEST} are allowed"
            )
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]", depth + 1)
    elif is_dict(value) and "_target_" not in value:
        _check_mapping(value, where, depth)
    else:
        kind = "an object with its own _target_" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise WeightsError(
            f"{where} is {kind}; a network's arguments are stored in its weights file and must be plain values "
            "(numbers, strings, lists and mappings of them)"
        )


def _check_mapping(value: dict[Any, Any], where: str, depth: int) -> None:
    """Raise WeightsError for a mapping that is too large or nested too deeply, or that has keys other than strings."""
    if len(value) > _LONGEST or depth > _DEEPEST:
        raise WeightsError(
            f"{where} is a mapping of {len(value)} entries at depth {depth}; "
            f"at most {_LONGEST} entries and depth {_DEEPEST} are allowed"
        )
    for key, item in value.items():
        if not isinstance(key, str):
            raise WeightsError(f"{where} has the key {key!r}; keys of mappings in a weights file must be strings")
        _check_plain(key, f"{where}, a key")
        _check_plain(item, f"{where}.{key}", depth + 1)


def plain(value: object) -> bool:
    """Return true for a value that can be stored in a header and is read back unchanged."""
    if type(value) not in (type(None), bool, int, float, str, list, dict):  # an IntEnum would be read as an int
        return False
    try:
        _check_plain(value, "")
    except WeightsError:
        return False
    return True


def _is_scale(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 16


def check_target(model: object, *, where: str, allow: Sequence[str] = ()) -> None:
    """Raise WeightsError unless ``_target_`` in ``model`` is a class in sr_train.models or in a package in ``allow``.

    Nothing is imported.
    """
    if not is_dict(model) or not isinstance(model.get("_target_"), str):
        raise WeightsError(f"{where}: contains no name of a network (model._target_)")
    target = model["_target_"]
    packages = (MODELS, *allow)
    known = ANY in packages or any(target.startswith(f"{p}.") for p in packages)
    if not known or not all(part.isidentifier() for part in target.split(".")):
        raise WeightsError(
            f"{where}: names the network {target!r}; only networks of {', '.join(packages)} are built from a file "
            f"(if you trust this package: allow=[{target.rpartition('.')[0]}])"
        )


def check_model_config(model: object, *, where: str, allow: Sequence[str] = ()) -> None:
    """Raise WeightsError unless the config ``model`` passes :func:`check_target` and all its arguments are plain values."""
    check_target(model, where=where, allow=allow)
    assert is_dict(model)
    scale, scales = model.get("scale"), model.get("scales")
    if "scales" in model and (not is_list(scales) or not scales or not all(map(_is_scale, scales))):
        raise WeightsError(f"{where}: model.scales={scales!r} is not a list of integers from 1 to 16")
    if "scales" not in model and not _is_scale(scale):
        raise WeightsError(f"{where}: model.scale={scale!r} is not an integer from 1 to 16")
    channels = model.get(CHANNELS, 3)
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise WeightsError(f"{where}: model.{CHANNELS}={channels!r} is not an integer of at least 1")
    check_arguments(model, where=where, allow=allow)


def check_arguments(model: object, *, where: str, allow: Sequence[str] = ()) -> None:
    """Raise WeightsError unless ``model`` names an allowed class (:func:`check_target`) and all its arguments are plain."""
    check_target(model, where=where, allow=allow)
    assert is_dict(model)
    for name, value in model.items():
        _check_plain(value, f"{where}: model.{name}")
