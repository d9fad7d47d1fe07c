"""Other programs' weights: the network and its arguments, read from the names and shapes of the tensors.

A layout is one function in ``LAYOUTS`` that looks at names and shapes alone. Files of torch (``.pth``, ``.pt``, ``.ckpt``) are
read with its restricted loader, and no tensor is copied before its size was compared with the file's.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr_train.torch_files import archive_problem
from sr_train.weights.foreign import edsr, edvr, rrdbnet

Shapes = Mapping[str, "tuple[int, ...]"]

_WRAPPERS = ("params_ema", "params", "state_dict")  # the first one that holds tensors is taken: the EMA before the rest

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_ASKS_FOR = re.compile(r"GLOBAL ([\w.]+)|unrecognized function (.+)|but got (<.+>)")


class WeightsError(ValueError):
    """A weights file that cannot be used, and why."""


class Match(NamedTuple):
    """What a layout makes of a file."""

    model: dict[str, Any]  #: ``_target_`` and the constructor's arguments
    assumed: str = ""  #: what the file does not say
    names: Mapping[str, str] | None = None  #: our name of each tensor -> the file's; None where they are the same


class Layout(NamedTuple):
    """A network's tensors as some program names them."""

    name: str
    #: (shapes, the scale if the user said one); None where the tensors are another network's
    match: Callable[[Shapes, int | None], Match | None]
    #: looks at values as well, once the names have matched; raises ValueError
    check: Callable[[Mapping[str, torch.Tensor]], None] = lambda tensors: None


class Foreign(NamedTuple):
    """A network out of another program's file."""

    model: dict[str, Any]
    state: dict[str, torch.Tensor]
    origin: dict[str, Any]


def _residual_body(shapes: Shapes, *others: str) -> tuple[int, int] | None:
    """(features, blocks) where there are RGB convolutions, ``body.N.conv1`` and the ``others``; else None."""
    needed = ("conv_first", "body.0.conv1", "body.0.conv2", "conv_last", *others)
    if any(f"{name}.weight" not in shapes for name in needed):
        return None
    features = shapes["conv_first.weight"][0] if shapes["conv_first.weight"] else 0
    if shapes["conv_first.weight"] != (features, 3, 3, 3) or shapes["conv_last.weight"] != (3, features, 3, 3):
        return None
    return features, sum(re.fullmatch(r"body\.\d+\.conv1\.weight", name) is not None for name in shapes)


def _shuffled(shapes: Shapes, features: int, convolutions: tuple[str, ...]) -> int | None:
    """Scale of a sub-pixel upsampler: one convolution to 9F channels is x3, each one to 4F is x2."""
    found = [shapes[f"{name}.weight"] for name in convolutions if f"{name}.weight" in shapes]
    if found == [(9 * features, features, 3, 3)]:
        return 3
    return 2 ** len(found) if all(s == (4 * features, features, 3, 3) for s in found) else None


def _edsr(shapes: Shapes, _: int | None) -> Match | None:
    """BasicSR's EDSR, whose keys are ours. Residual scaling and range are not in the file; the paper's are taken."""
    body = _residual_body(shapes, "conv_after_body", "upsample.0")
    scale = _shuffled(shapes, body[0], ("upsample.0", "upsample.2", "upsample.4")) if body else None
    if body is None or scale is None:
        return None
    features, blocks = body
    res_scale = 0.1 if features >= 256 else 1.0  # EDSR section 3.1 and its baseline
    model = {"scale": scale, "channels": features, "blocks": blocks, "res_scale": res_scale}
    assumed = f"res_scale={res_scale:g} for {features} channels, range 0 to 255, mean of DIV2K"
    return Match({"_target_": "sr_train.models.edsr.EDSR", **model}, assumed)


def _msrresnet(shapes: Shapes, _: int | None) -> Match | None:
    """BasicSR's MSRResNet, whose keys are ours."""
    body = _residual_body(shapes, "upconv1", "conv_hr")
    scale = _shuffled(shapes, body[0], ("upconv1", "upconv2")) if body else None
    if body is None or scale is None:
        return None
    model = {"scale": scale, "channels": body[0], "blocks": body[1]}
    return Match({"_target_": "sr_train.models.msrresnet.MSRResNet", **model})


def _authors_edsr(shapes: Shapes, _: int | None) -> Match | None:
    """EDSR as its authors' PyTorch code names it."""
    found = edsr.edsr(shapes)
    if found is None:
        return None
    model, names = found
    return Match(model, f"res_scale={model['res_scale']:g} for {model['channels']} channels", names)


def _authors_mdsr(shapes: Shapes, _: int | None) -> Match | None:
    """MDSR as its authors' PyTorch code names it."""
    found = edsr.mdsr(shapes)
    return None if found is None else Match(found[0], names=found[1])


def _rrdbnet(layout: rrdbnet.Layout) -> Callable[[Shapes, int | None], Match | None]:
    """RRDBNet as its authors or BasicSR name it. Raises ValueError for names that do not belong, or x2 or x3 not told apart."""

    def match(shapes: Shapes, scale: int | None) -> Match | None:
        if rrdbnet.layout_of(shapes) != layout:
            return None
        names = rrdbnet.rename({name: name for name in shapes})
        model = rrdbnet.infer_rrdbnet({new: shapes[old] for new, old in names.items()}, scale=scale)
        return None if model is None else Match(model, names=names)

    return match


def _edvr(layout: str) -> Callable[[Shapes, int | None], Match | None]:
    """EDVR as its authors or BasicSR name it. The centre frame is the middle one. Raises ValueError for foreign names."""

    def match(shapes: Shapes, _: int | None) -> Match | None:
        if edvr.layout_of(shapes) != layout:
            return None
        names = edvr.rename(shapes)
        model = edvr.infer_edvr({new: shapes[old] for new, old in names.items()})
        return None if model is None else Match(model, names=names)

    return match


LAYOUTS = (
    Layout("BasicSR's EDSR", _edsr),
    Layout("BasicSR's MSRResNet", _msrresnet),
    Layout("EDSR-PyTorch's EDSR", _authors_edsr, edsr.check_means),
    Layout("EDSR-PyTorch's MDSR", _authors_mdsr, edsr.check_means),
    Layout("BasicSR's RRDBNet", _rrdbnet("basicsr")),
    Layout("ESRGAN's RRDBNet of 2019", _rrdbnet("2019")),
    Layout("ESRGAN's RRDBNet of 2018", _rrdbnet("2018")),
    Layout("BasicSR's EDVR", _edvr("basicsr")),
    Layout("EDVR's of 2019", _edvr("2019")),
)


def recognize(path: Path, content: object, *, scale: int | None = None) -> Foreign:
    """The network in what a file holds: tensors by name, bare or wrapped, with ``module.`` before all names or without.

    ``scale`` decides where the tensors leave it open, and only there.
    Tensors become float32 copies, independent of the file. Raises WeightsError where no layout fits.
    """
    wrapper, tensors = _unwrap(path, content)
    if all(name.startswith("module.") for name in tensors):  # of DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    _check_tensors(path, tensors)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    for layout in LAYOUTS:
        try:
            match = layout.match(shapes, scale)
            if match is not None:
                layout.check(tensors)
        except ValueError as error:
            raise WeightsError(f"{path}: {error}") from None
        if match is None:
            continue
        names = match.names or {name: name for name in tensors}
        _check_numbers(path, {name: tensors[name] for name in names.values()})
        state = {new: _copy(tensors[old]) for new, old in names.items()}
        origin = {"file": path.name, "layout": layout.name, "wrapper": wrapper, "assumed": match.assumed}
        return Foreign(match.model, state, {k: v for k, v in origin.items() if v})
    shown = ", ".join(f"{name[:60]} {list(shape)}" for name, shape in list(shapes.items())[:4])
    known = ", ".join(layout.name for layout in LAYOUTS)
    count = f"{len(shapes)} tensors" if len(shapes) > 1 else "1 tensor"
    raise WeightsError(
        f"{path}: does not say which network it is for, and no key format fits its {count} "
        f"({shown}{', ...' if len(shapes) > 4 else ''}); known are {known}"
    )


def _unwrap(path: Path, content: object) -> tuple[str, dict[str, torch.Tensor]]:
    """The name of the wrapper that was taken off, "" for none, and the tensors; what lies beside them is not looked at."""
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}; expected a network's state dict")
    for wrapper in (*_WRAPPERS, ""):
        inner = content.get(wrapper) if wrapper else content
        if not isinstance(inner, dict):
            continue
        tensors = {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if wrapper == "state_dict" and "global_step" in content and any(k.startswith("model.") for k in tensors):
            folder = path.parent.parent if path.parent.name == "checkpoints" else "runs/NAME/STAGE"
            raise WeightsError(f"{path}: is a checkpoint to resume training from; give its stage's folder, {folder}")
        if tensors:
            return wrapper, tensors
    keys = ", ".join(str(k)[:60] for k in list(content)[:5] if isinstance(k, (str, int)))
    raise WeightsError(
        f"{path}: holds no tensors by name, bare or under {', '.join(_WRAPPERS)} (its keys: {keys or 'none'}); "
        "give the file with the network's state dict"
    )


def _check_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse what is no plain array of numbers in the file: a stride of 0 makes a terabyte out of four bytes.

    Integers pass: they are buffers of networks that no key format may fit, and that is what the user is told.
    """
    for name, value in tensors.items():
        plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        integers = not value.dtype.is_floating_point and not value.dtype.is_complex
        if not (plain and (value.dtype in _FLOATS or integers)):
            raise _kind_error(path, name, value)
    claimed, size = sum(v.numel() * v.element_size() for v in tensors.values()), path.stat().st_size
    if claimed > size:
        raise WeightsError(
            f"{path}: its tensors claim {claimed:,} bytes in a file of {size:,}; it is damaged or forged"
        )


def _check_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are integers, but for BatchNorm's ``num_batches_tracked``."""
    for name, value in tensors.items():
        if value.dtype not in _FLOATS and not (value.dtype is torch.int64 and value.dim() == 0):
            raise _kind_error(path, name, value)


def _kind_error(path: Path, name: str, value: torch.Tensor) -> WeightsError:
    kind = f"{value.dtype}, {value.layout}, {value.device}".replace("torch.", "")
    return WeightsError(f"{path}: tensor {name[:60]} is of {kind}; expected plain floating-point numbers")


def _copy(value: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)


def is_torch_file(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (16 bytes or so) is torch's: a zip, or a pickle as before torch 1.6.

    A safetensors file may begin with a pickle's first byte too, but its ninth opens the header.
    """
    return head.startswith(b"PK\x03\x04") or (head.startswith(b"\x80") and head[8:9] != b"{")


def read_torch(path: Path) -> object:
    """What a file of torch holds, if that is tensors and plain values: asked for anything else, the loader refuses.

    Tensors of a zip stay mapped to the file: copy what is kept. Raises WeightsError naming the file.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"  # as torch decides it, so that no archive goes unchecked
        problem = archive_problem(path) if zipped else None
        if problem is not None:
            raise WeightsError(f"{path}: {problem}")
        # A bare pickle is read from memory: a file object takes as much of it as a damaged length asks for.
        content = path if zipped else io.BytesIO(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; the error says it
            return torch.load(content, map_location="cpu", weights_only=True, mmap=zipped)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        asked = _ASKS_FOR.search(str(error))
        what = f"it asks for {next(filter(None, asked.groups()))[:100]}" if asked else _short(error)
        raise WeightsError(
            f"{path}: refused: it holds more than tensors ({what}), and unpickling that could run code; save the network's "
            "state_dict() alone where it comes from"
        ) from None
    except Exception as error:  # a damaged file raises whatever its reader meets
        raise WeightsError(
            f"{path}: not a readable torch file ({type(error).__name__}: {_short(error)}); copy or download it again"
        ) from None


def _short(error: BaseException) -> str:
    """The first lines of torch's long explanations."""
    return " ".join(str(error).split())[:200]
