"""Key formats (schemes of tensor names) of EDSR, MDSR and MSRResNet: those of BasicSR, EDSR-PyTorch, MMagic and KAIR.

sr-train uses BasicSR's names. EDSR-PyTorch is the program of EDSR's authors.

Names of the authors in EDSR and MDSR: ``head.0``, ``body.I.body.0|2``, ``body.N`` after the N blocks, ``sub_mean`` and
``add_mean``. EDSR's upsampler is ``tail.0`` and its last convolution ``tail.1``. MDSR has ``pre_process.S.J.body.0|2``
and ``upsample.S`` for scale number S, and ``tail.0`` for all scales.

MMagic's EDSR works on pixels in [0, 1], all other EDSRs, also sr-train's, on pixels in [0, 255]. So the first and last
convolutions of MMagic's EDSR are scaled. MMagic's MSRResNet has no activation after a pixel shuffle, so it is another
network. KAIR's MSRResNet1 has the names of ESRGAN's code of 2019.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from sr_train.models.edsr import DIV2K_MEAN
from sr_train.weights.foreign.base import KeyFormat, Shapes, stated

_BLOCK = re.compile(r"body\.(\d+)\.body\.([02])\.(weight|bias)")

_PRE = re.compile(r"pre_process\.(\d+)\.([01])\.body\.([02])\.(weight|bias)")

_UP = re.compile(r"upsample\.(\d+)\.(\d+)\.(weight|bias)")

_MEANS = re.compile(r"(sub|add)_mean\.(weight|bias)")

_CONV = {"0": "conv1", "2": "conv2"}


def _body(shapes: Shapes, *others: str) -> dict[str, int] | None:
    """Return arguments of a network: channels, blocks and image channels; None for tensors without the expected form.

    Expected are a convolution ``conv_first`` from C image channels, a convolution ``conv_last`` to C channels, blocks
    ``body.N`` with ``conv1`` and ``conv2``, and all layers in ``others``.
    """
    needed = ("conv_first", "body.0.conv1", "body.0.conv2", "conv_last", *others)
    if any(f"{name}.weight" not in shapes for name in needed):
        return None
    features, channels = (*shapes["conv_first.weight"], 0, 0)[:2]
    ends = (features, channels, 3, 3), (channels, features, 3, 3)
    if not channels or (shapes["conv_first.weight"], shapes["conv_last.weight"]) != ends:
        return None
    blocks = sum(re.fullmatch(r"body\.\d+\.conv1\.weight", name) is not None for name in shapes)
    return {"channels": features, "blocks": blocks, **stated(channels)}


def _scale(shapes: Shapes, features: int, *convolutions: str) -> int | None:
    """Return the scale of a sub-pixel upsampler from the shapes of its convolutions; None for other shapes.

    With F features, the scale is 3 for one convolution to 9 * F channels, and 2^n for n convolutions to 4 * F channels.
    """
    found = [shapes[f"{name}.weight"] for name in convolutions if f"{name}.weight" in shapes]
    if found == [(9 * features, features, 3, 3)]:
        return 3
    return 2 ** len(found) if found and all(s == (4 * features, features, 3, 3) for s in found) else None


def infer_edsr(shapes: Shapes, _: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of an EDSR from shapes of tensors; None for another network.

    The shapes do not show the residual scaling, so the paper's value is assumed.
    """
    body = _body(shapes, "conv_after_body", "upsample.0")
    scale = _scale(shapes, body["channels"], "upsample.0", "upsample.2", "upsample.4") if body else None
    if body is None or scale is None:
        return None
    res_scale = 0.1 if body["channels"] >= 256 else 1.0  # EDSR section 3.1 and its baseline
    return {"_target_": "sr_train.models.edsr.EDSR", "scale": scale, **body, "res_scale": res_scale}


def infer_msrresnet(shapes: Shapes, _: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of an MSRResNet from shapes of tensors; None for another network."""
    body = _body(shapes, "upconv1", "conv_hr")
    scale = _scale(shapes, body["channels"], "upconv1", "upconv2") if body else None
    if body is None or scale is None:
        return None
    return {"_target_": "sr_train.models.msrresnet.MSRResNet", "scale": scale, **body}


def infer_mdsr(shapes: Shapes, _: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of an MDSR with one last convolution for all scales, from shapes of tensors; None if not an MDSR."""
    body = _body(shapes, "conv_after_body")
    if body is None:
        return None
    scales = list(dict.fromkeys(int(m[1]) for m in map(_UP.fullmatch, shapes) if m))
    return {"_target_": "sr_train.models.mdsr.MDSR", "scales": scales, **body, "shared_tail": True}


def _authors_body(shapes: Shapes) -> tuple[int, int] | None:
    """Return (number of features, number of blocks) of an EDSR or MDSR with EDSR-PyTorch's names; None for other names."""
    head = shapes.get("head.0.weight", ())
    blocks = {int(m[1]) for m in map(_BLOCK.fullmatch, shapes) if m}
    if len(head) != 4 or head[1:] != (3, 3, 3) or f"body.{len(blocks)}.weight" not in shapes:
        return None
    return head[0], len(blocks)


def _shared(name: str, blocks: int) -> str | None:
    """Convert EDSR-PyTorch's name of a tensor that EDSR and MDSR have in common to sr-train's name; None for other names."""
    if m := _BLOCK.fullmatch(name):
        return f"body.{m[1]}.{_CONV[m[2]]}.{m[3]}"
    start, _, kind = name.rpartition(".")
    ours = {"head.0": "conv_first", f"body.{blocks}": "conv_after_body"}.get(start)
    return None if ours is None else f"{ours}.{kind}"


def _authors_edsr(shapes: Shapes) -> Mapping[str, str | None] | None:
    body = _authors_body(shapes)
    if body is None or "tail.1.weight" not in shapes or _scale(shapes, body[0], "tail.0.0", "tail.0.2") is None:
        return None

    def ours(name: str) -> str | None:
        for theirs, new in (("tail.0.", "upsample."), ("tail.1.", "conv_last.")):
            if name.startswith(theirs):
                return new + name.removeprefix(theirs)
        return _shared(name, body[1])

    return {name: ours(name) for name in shapes if not _MEANS.fullmatch(name)}


def _authors_mdsr(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Return {EDSR-PyTorch's name: sr-train's name} for the tensors of an MDSR; None for another network.

    EDSR-PyTorch numbers the upsamplers of an MDSR. Their scales are found by their shapes. Raises ValueError if a shape
    does not fit a scale, or if two upsamplers have the same scale.
    """
    body = _authors_body(shapes)
    places = sorted({int(m[1]) for m in map(_UP.fullmatch, shapes) if m})
    if body is None or not places or "tail.0.weight" not in shapes:
        return None
    found = [_scale(shapes, body[0], f"upsample.{place}.0", f"upsample.{place}.2") for place in places]
    if None in found or len(set(found)) < len(found):
        raise ValueError(
            f"EDSR-PyTorch's MDSR has one upsampler for each scale; the scales of the upsamplers in this file are {found}"
        )
    at = dict(zip(map(str, places), found, strict=True))

    def ours(name: str) -> str | None:
        if (m := _PRE.fullmatch(name)) and m[1] in at:
            return f"pre_process.{at[m[1]]}.{m[2]}.{_CONV[m[3]]}.{m[4]}"
        if m := _UP.fullmatch(name):
            return f"upsample.{at[m[1]]}.{m[2]}.{m[3]}"
        return name.replace("tail.0.", "conv_last.") if name.startswith("tail.0.") else _shared(name, body[1])

    return {name: ours(name) for name in shapes if not _MEANS.fullmatch(name)}


_UP_MMAGIC = re.compile(r"upsample\.(\d)\.upsample_conv\.(weight|bias)")

_OF_2019 = re.compile(r"recon_trunk\.(\d+\.conv[12]\.(?:weight|bias))")


def _mmagic_edsr(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Map ``upsample.K.upsample_conv`` to ``upsample.2K``; the other names are ours."""
    if "upsample.0.upsample_conv.weight" not in shapes or "conv_after_body.weight" not in shapes:
        return None

    def ours(name: str) -> str:
        m = _UP_MMAGIC.fullmatch(name)
        return name if m is None else f"upsample.{2 * int(m[1])}.{m[2]}"

    return {name: ours(name) for name in shapes}


def _to_255(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a network on [0, 1] for ours on [0, 255]; between the two ends nothing changes."""
    factors = {"conv_first.weight": 1 / 255, "conv_last.weight": 255, "conv_last.bias": 255}
    return {name: value * factors[name] if name in factors else value for name, value in state.items()}


def _mmagic_msrresnet(shapes: Shapes) -> None:
    if "trunk_net.0.conv1.weight" in shapes and "upsample1.upsample_conv.weight" in shapes:
        raise ValueError(
            "is MMagic's MSRResNet, which has no activation after its pixel shuffles; sr-train has BasicSR's, which has one, "
            "and the weights do not fit it"
        )


def _names_2019(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Map ``recon_trunk.I`` to ``body.I`` and ``HRconv`` to ``conv_hr``; None for EDVR, which has these names as well."""
    if "recon_trunk.0.conv1.weight" not in shapes or any(name.startswith("pcd_align.") for name in shapes):
        return None

    def ours(name: str) -> str:
        m = _OF_2019.fullmatch(name)
        return name.replace("HRconv.", "conv_hr.") if m is None else f"body.{m[1]}"

    return {name: ours(name) for name in shapes}


def check_means(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if a file's mean shift (``sub_mean``, ``add_mean``) differs from the mean shift in sr-train's networks.

    In this case, sr-train's networks cannot use the file's weights.
    """
    mean = torch.tensor(DIV2K_MEAN) * 255
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        fits = (weight is None or _equal(weight.flatten(), torch.eye(3).flatten())) and (
            bias is None or _equal(bias, sign * mean)
        )
        if not fits:
            numbers = [] if bias is None else [round(float(v), 4) for v in bias.flatten()[:3]]
            shown = "" if bias is None else f": {name}.bias is {numbers}"
            raise ValueError(
                f"the network in this file uses another range than [0, 255], or another mean than DIV2K's{shown}; "
                "only networks trained with --rgb_range 255 can be used"
            )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b, rtol=1e-3, atol=1e-3)


_RES_SCALE = "res_scale={res_scale:g} for {channels} channels"

_MMAGIC = f"{_RES_SCALE}, range 0 to 1 (converted to 0 to 255), mean of DIV2K"

KEY_FORMATS = (
    KeyFormat(name="BasicSR's EDSR", match=infer_edsr, assumed=f"{_RES_SCALE}, range 0 to 255, mean of DIV2K"),
    KeyFormat(name="BasicSR's MSRResNet", match=infer_msrresnet),
    KeyFormat(name="EDSR-PyTorch's EDSR", names=_authors_edsr, match=infer_edsr, check=check_means, assumed=_RES_SCALE),
    KeyFormat(name="MMagic's EDSR", names=_mmagic_edsr, match=infer_edsr, convert=_to_255, assumed=_MMAGIC),
    KeyFormat(name="MMagic's MSRResNet", names=_mmagic_msrresnet, match=infer_msrresnet),
    KeyFormat(name="MSRResNet of 2019", names=_names_2019, match=infer_msrresnet),
    KeyFormat(name="EDSR-PyTorch's MDSR", names=_authors_mdsr, match=infer_mdsr, check=check_means),
)
