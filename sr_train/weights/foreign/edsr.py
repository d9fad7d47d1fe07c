"""EDSR and MDSR as their authors' PyTorch code names them (EDSR-PyTorch); names in, our names out.

``head.0``, ``body.I.body.0|2``, ``body.N`` after the N blocks, ``sub_mean`` and ``add_mean`` in both; EDSR's upsampler is
``tail.0`` and its last convolution ``tail.1``; MDSR has ``pre_process.S.J.body.0|2`` and ``upsample.S`` for the S-th scale and
``tail.0`` for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from sr_train.models.edsr import DIV2K_MEAN

Shapes = Mapping[str, "tuple[int, ...]"]

Found = tuple[dict[str, Any], dict[str, str]]

_BLOCK = re.compile(r"body\.(\d+)\.body\.([02])\.(weight|bias)")

_PRE = re.compile(r"pre_process\.(\d+)\.([01])\.body\.([02])\.(weight|bias)")

_UP = re.compile(r"upsample\.(\d+)\.(\d+)\.(weight|bias)")

_MEANS = re.compile(r"(sub|add)_mean\.(weight|bias)")

_CONV = {"0": "conv1", "2": "conv2"}


def _body_size(shapes: Shapes) -> tuple[int, int] | None:
    """(features, blocks) of a network of theirs; ``None`` where the names are another's."""
    head = shapes.get("head.0.weight", ())
    blocks = {int(m[1]) for m in map(_BLOCK.fullmatch, shapes) if m}
    if len(head) != 4 or head[1:] != (3, 3, 3) or f"body.{len(blocks)}.weight" not in shapes:
        return None
    return head[0], len(blocks)


def scale_of(shapes: Shapes, upsampler: str, features: int) -> int | None:
    """Scale of a sub-pixel upsampler ``NAME.0``, ``NAME.2``: one convolution to 9F channels is x3, each one to 4F is x2."""
    found = [shapes[k] for k in (f"{upsampler}.0.weight", f"{upsampler}.2.weight") if k in shapes]
    if found == [(9 * features, features, 3, 3)]:
        return 3
    return 2 ** len(found) if found and all(s == (4 * features, features, 3, 3) for s in found) else None


def _shared(name: str, blocks: int) -> str | None:
    """Our name of what both networks have."""
    if m := _BLOCK.fullmatch(name):
        return f"body.{m[1]}.{_CONV[m[2]]}.{m[3]}"
    start, _, kind = name.rpartition(".")
    ours = {"head.0": "conv_first", f"body.{blocks}": "conv_after_body"}.get(start)
    return None if ours is None else f"{ours}.{kind}"


def _check_all(names: Mapping[str, str | None], network: str) -> dict[str, str]:
    """{theirs: ours} -> {ours: theirs}. Raises ValueError with what has no place; the mean shift is part of our network."""
    foreign = [k for k, ours in names.items() if ours is None and not _MEANS.fullmatch(k)]
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ValueError(f"EDSR-PyTorch's {network} has no {shown} ({len(foreign)} of {len(names)} names)")
    return {ours: theirs for theirs, ours in names.items() if ours is not None}


def edsr(shapes: Shapes) -> Found | None:
    """(arguments, our name -> theirs) of an EDSR, ``None`` for another network. Residual scaling is not in the file."""
    size = _body_size(shapes)
    scale = None if size is None or "tail.1.weight" not in shapes else scale_of(shapes, "tail.0", size[0])
    if size is None or scale is None:
        return None
    features, blocks = size

    def ours(name: str) -> str | None:
        for theirs, new in (("tail.0.", "upsample."), ("tail.1.", "conv_last.")):
            if name.startswith(theirs):
                return new + name.removeprefix(theirs)
        return _shared(name, blocks)

    model = {"scale": scale, "channels": features, "blocks": blocks, "res_scale": 0.1 if features >= 256 else 1.0}
    names = _check_all({name: ours(name) for name in shapes}, "EDSR")
    return {"_target_": "sr_train.models.edsr.EDSR", **model}, names


def mdsr(shapes: Shapes) -> Found | None:
    """(arguments, our name -> theirs) of an MDSR, ``None`` for another network. Raises ValueError for scales that are none."""
    size = _body_size(shapes)
    places = sorted({int(m[1]) for m in map(_UP.fullmatch, shapes) if m})
    if size is None or not places or "tail.0.weight" not in shapes:
        return None
    features, blocks = size
    found = [scale_of(shapes, f"upsample.{place}", features) for place in places]
    scales = [s for s in found if s is not None]
    if len(set(scales)) < len(found):
        raise ValueError(f"EDSR-PyTorch's MDSR has one upsampler a scale; those of this file are of scales {found}")
    at = dict(zip(map(str, places), scales, strict=True))

    def ours(name: str) -> str | None:
        if (m := _PRE.fullmatch(name)) and m[1] in at:
            return f"pre_process.{at[m[1]]}.{m[2]}.{_CONV[m[3]]}.{m[4]}"
        if m := _UP.fullmatch(name):
            return f"upsample.{at[m[1]]}.{m[2]}.{m[3]}"
        return name.replace("tail.0.", "conv_last.") if name.startswith("tail.0.") else _shared(name, blocks)

    model = {"scales": scales, "channels": features, "blocks": blocks, "shared_tail": True}
    names = _check_all({name: ours(name) for name in shapes}, "MDSR")
    return {"_target_": "sr_train.models.mdsr.MDSR", **model}, names


def check_means(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError where the file shifts its images otherwise than our networks do, whose weights it could not be."""
    mean = torch.tensor(DIV2K_MEAN) * 255
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        fits = (weight is None or _equal(weight.flatten(), torch.eye(3).flatten())) and (
            bias is None or _equal(bias, sign * mean)
        )
        if not fits:
            shown = "" if bias is None else f": {name}.bias is {[round(v, 4) for v in bias.flatten().tolist()[:3]]}"
            raise ValueError(
                f"works on another range or mean than [0, 255] and DIV2K's{shown}; only networks trained with --rgb_range 255 "
                "fit"
            )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b, rtol=1e-3, atol=1e-3)
