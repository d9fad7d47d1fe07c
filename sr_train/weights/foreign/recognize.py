"""Recognition of other programs' weights: the network and its arguments are found by names and shapes of the tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr_train.torch_files import TorchFileError, check_numbers, check_tensors, is_dict
from sr_train.weights.foreign.base import Foreign, KeyFormat, Shapes, WeightsError, count_tensors
from sr_train.weights.foreign.content import read_any
from sr_train.weights.foreign.discriminators import KEY_FORMATS as DISCRIMINATORS
from sr_train.weights.foreign.edsr import KEY_FORMATS as EDSR
from sr_train.weights.foreign.edvr import KEY_FORMATS as EDVR
from sr_train.weights.foreign.rrdbnet import KEY_FORMATS as RRDBNET
from sr_train.weights.foreign.spandrel import HINT, recognize_by_spandrel, spandrel
from sr_train.weights.foreign.unwrap import Part, Tensors, Unwrapped, unwrap

KEY_FORMATS = (*EDSR, *RRDBNET, *EDVR)

_CHECKPOINT = ("state_dict", "optimizer_states", "loops", "callbacks", "global_step")  # Lightning's

_OURS = ("guard", "trained")  # also written by sr-train

_TRAINING_STATE = {"optimizers", "optimizer", "schedulers", "optimizer_states", "optimizer_state_dict"}


class Match(NamedTuple):
    """A key format that fits a file's names and shapes; with ``error``, it fits and cannot be used."""

    form: KeyFormat
    model: dict[str, Any]
    names: dict[str, str]  #: our name -> the file's
    error: str = ""

    @property
    def discriminates(self) -> bool:
        """True for a discriminator."""
        return self.form in DISCRIMINATORS


def recognize(path: Path, content: object, *, scale: int | None = None) -> Foreign:
    """Return the network that another program's file contains, recognized by the names and shapes of its tensors.

    The result contains the config, the weights and the origin of the network. Wrappers and prefixes that programs add
    around the tensors are removed (see :mod:`sr_train.weights.foreign.unwrap`). ``scale`` is used only if the tensors
    fit networks of several scales. The returned tensors are float32 copies, independent of the file. Raises
    WeightsError if no key format (scheme of tensor names) matches. Raises TorchFileError for tensors that are not plain
    floating-point arrays; BatchNorm's counters may be integers.
    """
    found = unwrap_file(path, content, scale=scale)
    networks = [p for p in found.parts if p.match is not None and not p.companion and not p.match.discriminates]
    if not networks:
        return _by_spandrel(path, content, found)
    return _read(path, networks[0], networks, found.aside)


def _by_spandrel(path: Path, content: object, found: Unwrapped) -> Foreign:
    """Return the network of the first part that spandrel recognizes. Raises WeightsError if there is none."""
    unknown = [part for part in found.parts if part.match is None and not part.companion]
    for part in unknown:
        foreign = recognize_by_spandrel(path, part)
        if foreign is not None:
            aside = set_aside(part, [], found.aside)
            return foreign._replace(origin=foreign.origin | ({"aside": aside} if aside else {}))
    reason = _nothing_fits(path, content, found)
    raise WeightsError(f"{path}: {reason}" + (f"; {HINT}" if unknown and spandrel() is None else ""))


def recognize_discriminator(path: Path, content: object) -> Foreign:
    """Return the discriminator in a file, alone or together with its generator. See :func:`recognize` for the errors."""
    found = unwrap_file(path, content)
    networks = [p for p in found.parts if p.match is not None and p.match.discriminates]
    if not networks:
        known = ", ".join(form.name for form in DISCRIMINATORS)
        raise WeightsError(f"{path}: contains no discriminator of a known key format; known are {known}")
    networks.sort(key=lambda part: part.average)  # an averaged discriminator does not continue a training
    return _read(path, networks[0], networks, [label for label in found.aside if label not in networks[0].path])


def read_discriminator(path: Path) -> Foreign:
    """Read a file as :func:`recognize_discriminator` does."""
    try:
        return recognize_discriminator(path, read_any(path)[0])
    except TorchFileError as error:
        raise WeightsError(str(error)) from None


def unwrap_file(path: Path, content: object, *, scale: int | None = None) -> Unwrapped:
    """Return the parts of a file that may be networks, matched with all key formats, the preferred one first."""
    if not is_dict(content):
        raise WeightsError(f"{path}: contains a {type(content).__name__}; expected a network's state dict")
    if all(key in content for key in _CHECKPOINT) and _is_ours(path, content):
        folder = path.parent.parent if path.parent.name == "checkpoints" else "runs/NAME/STAGE"
        raise WeightsError(
            f"{path}: this is a checkpoint to resume training from; give the folder of its stage, {folder}"
        )
    found = unwrap(content, _matcher(scale))
    if not found.parts:
        raise WeightsError(f"{path}: {_no_tensors(content)}")
    return found


def _is_ours(path: Path, content: dict[Any, Any]) -> bool:
    stage = path.resolve().parent.parent
    return any(key in content for key in _OURS) or (
        path.parent.name == "checkpoints" and (stage / "config.yaml").exists()
    )


def _matcher(scale: int | None) -> Callable[[Tensors], Match | None]:
    def match(tensors: Tensors) -> Match | None:
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        for form in (*KEY_FORMATS, *DISCRIMINATORS):
            try:
                found = _fit(form, shapes, scale)
            except ValueError as error:
                return Match(form, {}, {}, str(error))
            if found is not None:
                return Match(form, *found)
        return None

    return match


def _read(path: Path, part: Part, others: Sequence[Part], aside: Sequence[str]) -> Foreign:
    """Return the network of the preferred part. Raises WeightsError if another one is as good, or if it is unusable."""
    same = [p for p in others if p is not part and p.rank == part.rank and p.path != part.path]
    if same:
        raise WeightsError(
            f"{path}: contains several networks ({', '.join(p.where for p in (part, *same))}); write the one that you need "
            "to a file of its own"
        )
    if part.doubt:
        raise WeightsError(
            f"{path}: {part.where} is {part.match.form.name}, but the file has other tensors next to it whose use is unknown "
            f"({', '.join(part.doubt[:5])}); if the network works without them, write it to a file of its own"
        )
    check_tensors(path, part.tensors)
    match: Match = part.match
    if match.error:
        raise WeightsError(f"{path}: {match.error}")
    try:
        match.form.check(part.tensors)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    check_numbers(path, {name: part.tensors[name] for name in match.names.values()})
    state = {ours: _copy(part.tensors[theirs]) for ours, theirs in match.names.items()}
    origin = {
        "file": path.name,
        "layout": match.form.name,
        "wrapper": part.where,
        "aside": set_aside(part, others, aside),
        "assumed": match.form.assumed.format(**match.model),
    }
    return Foreign(match.model, match.form.convert(state), {k: v for k, v in origin.items() if v})


def set_aside(part: Part, others: Sequence[Part], aside: Sequence[str]) -> str:
    """Return the labels of what a file contains besides the chosen part, in one line."""
    labels = [_difference(part.path, other.path) for other in others if other is not part]
    return ", ".join(label[:60] for label in list(dict.fromkeys([*filter(None, labels), *aside]))[:8])


def _difference(chosen: tuple[str, ...], other: tuple[str, ...]) -> str:
    """Return the first label of a path that differs from the chosen path."""
    depth = next(
        (i for i, (a, b) in enumerate(zip(chosen, other, strict=False)) if a != b), min(len(chosen), len(other))
    )
    return other[depth] if depth < len(other) else "tensors without a wrapper"


def _nothing_fits(path: Path, content: object, found: Unwrapped) -> str:
    """Return why a file with tensors is refused."""
    first = next((part for part in found.parts if not part.companion), found.parts[0])
    check_tensors(path, first.tensors)
    discriminator = next((part.match for part in found.parts if part.match is not None), None)
    if discriminator is not None and (first.match is discriminator or first.companion):
        return (
            f"contains {discriminator.form.name}, which is a discriminator, and no network that upscales; give the "
            "generator's file (of BasicSR: net_g_*.pth)"
        )
    shown = ", ".join(f"{name[:60]} {list(value.shape)}" for name, value in list(first.tensors.items())[:4])
    known = ", ".join(form.name for form in KEY_FORMATS)
    return (
        f"the file does not contain the name of its network, and no key format matches its {_count(len(first.tensors))} "
        f"({shown}{', ...' if len(first.tensors) > 4 else ''}); known key formats are {known}"
    )


def _count(number: int) -> str:
    return count_tensors(number, "", "").strip()


def _no_tensors(content: dict[Any, Any]) -> str:
    """Return why a dict without tensors is refused."""
    keys = ", ".join(str(k)[:60] for k in list(content)[:5] if isinstance(k, (str, int)))
    if _TRAINING_STATE.intersection(k for k in content if isinstance(k, str)):
        return (
            f"contains no named tensors of a network, but the state of a training (its keys: {keys}); give the network's "
            "file (of BasicSR: models/net_g_*.pth)"
        )
    return f"contains no named tensors (its keys: {keys or 'none'}); give the file with the network's state dict"


def _fit(form: KeyFormat, shapes: Shapes, scale: int | None) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Return (config of the network, {sr-train's name: the file's name}) for a key format; None if the tensors do not match.

    Raises ValueError if the file contains names that the network does not have.
    """
    named = form.names(shapes)
    if named is None:
        return None
    unknown = [name for name, ours in named.items() if ours is None]
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(f"{form.name} has no {shown} ({len(unknown)} of {len(named)} names)")
    names = {ours: name for name, ours in named.items() if ours is not None}
    model = form.match({ours: shapes[name] for ours, name in names.items()}, scale)
    return None if model is None else (model, names)


def _copy(value: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)
