"""Recognition of other programs' weights: the network and its arguments are found by names and shapes of the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sr_train.torch_files import check_numbers, check_tensors, is_dict
from sr_train.weights.foreign.base import Foreign, KeyFormat, Shapes, WeightsError
from sr_train.weights.foreign.edsr import KEY_FORMATS as EDSR
from sr_train.weights.foreign.edvr import KEY_FORMATS as EDVR
from sr_train.weights.foreign.rrdbnet import KEY_FORMATS as RRDBNET

KEY_FORMATS = (*EDSR, *RRDBNET, *EDVR)

_WRAPPERS = ("params_ema", "params", "state_dict")  # the first one with tensors is used, so the EMA is preferred


def recognize(path: Path, content: object, *, scale: int | None = None) -> Foreign:
    """Return the network that another program's file contains, recognized by the names and shapes of its tensors.

    The result contains the config, the weights and the origin of the network. ``content`` is {name: tensor}, or a
    wrapper such as {"params": {name: tensor}}. The prefix ``module.`` is removed if all names have this prefix.
    ``scale`` is used only if the tensors fit networks of several scales. The returned tensors are float32 copies,
    independent of the file. Raises WeightsError if no key format (scheme of tensor names) matches. Raises
    TorchFileError for tensors that are not plain floating-point arrays; BatchNorm's counters may be integers.
    """
    wrapper, tensors = _unwrap(path, content)
    if all(name.startswith("module.") for name in tensors):  # added by DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    check_tensors(path, tensors)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    for form in KEY_FORMATS:
        try:
            found = _fit(form, shapes, scale)
            if found is not None:
                form.check(tensors)
        except ValueError as error:
            raise WeightsError(f"{path}: {error}") from None
        if found is not None:
            model, names = found
            check_numbers(path, {name: tensors[name] for name in names.values()})
            origin = {
                "file": path.name,
                "layout": form.name,
                "wrapper": wrapper,
                "assumed": form.assumed.format(**model),
            }
            state = {ours: _copy(tensors[theirs]) for ours, theirs in names.items()}
            return Foreign(model, state, {k: v for k, v in origin.items() if v})
    shown = ", ".join(f"{name[:60]} {list(shape)}" for name, shape in list(shapes.items())[:4])
    known = ", ".join(form.name for form in KEY_FORMATS)
    count = f"{len(shapes)} tensors" if len(shapes) > 1 else "1 tensor"
    raise WeightsError(
        f"{path}: the file does not contain the name of its network, and no key format matches its "
        f"{count} ({shown}{', ...' if len(shapes) > 4 else ''}); known key formats are {known}"
    )


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


def _unwrap(path: Path, content: object) -> tuple[str, dict[str, torch.Tensor]]:
    """Return (name of the wrapper around the tensors, {name: tensor}). The name is "" without a wrapper.

    Entries of the file that are no tensors are ignored.
    """
    if not is_dict(content):
        raise WeightsError(f"{path}: contains a {type(content).__name__}; expected a network's state dict")
    for wrapper in (*_WRAPPERS, ""):
        inner = content.get(wrapper) if wrapper else content
        if not is_dict(inner):
            continue
        tensors = {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if wrapper == "state_dict" and "global_step" in content and any(k.startswith("model.") for k in tensors):
            folder = path.parent.parent if path.parent.name == "checkpoints" else "runs/NAME/STAGE"
            raise WeightsError(
                f"{path}: this is a checkpoint to resume training from; give the folder of its stage, {folder}"
            )
        if tensors:
            return wrapper, tensors
    keys = ", ".join(str(k)[:60] for k in list(content)[:5] if isinstance(k, (str, int)))
    raise WeightsError(
        f"{path}: contains no named tensors, neither at the top nor under {', '.join(_WRAPPERS)} (its keys: {keys or 'none'}); "
        "give the file with the network's state dict"
    )


def _copy(value: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)
