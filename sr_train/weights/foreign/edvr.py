"""Published key formats (schemes of tensor names) of EDVR: the authors' of 2019, MMagic's, and BasicSR's.

sr-train uses BasicSR's names.
The authors and BasicSR number the two temporal attentions in opposite order, and both attentions have the same shapes.
Therefore the test of this file compares outputs, to prove that the names are converted correctly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sr_train.weights.foreign.base import KeyFormat, Shapes, stated

_RENAMED = {  # 2019 -> BasicSR: complete names without .weight and .bias
    "pre_deblur.conv_first_1": "predeblur.conv_first",  # with hr_in
    "pre_deblur.conv_first_2": "predeblur.stride_conv_hr1",
    "pre_deblur.conv_first_3": "predeblur.stride_conv_hr2",
    "pre_deblur.conv_first": "predeblur.conv_first",
    "pre_deblur.deblur_L2_conv": "predeblur.stride_conv_l2",
    "pre_deblur.deblur_L3_conv": "predeblur.stride_conv_l3",
    "tsa_fusion": "fusion",  # without attention
    "tsa_fusion.fea_fusion": "fusion.feat_fusion",
    "tsa_fusion.tAtt_2": "fusion.temporal_attn1",  # for the center frame
    "tsa_fusion.tAtt_1": "fusion.temporal_attn2",  # for every frame; the numbers are swapped
    "HRconv": "conv_hr",
}

_RULES = (  # 2019 -> BasicSR: patterns
    (r"fea_L([23])_conv([12])", r"conv_l\1_\2"),
    (r"pcd_align\.L([123])_offset_conv([123])", r"pcd_align.offset_conv\2.l\1"),
    (r"pcd_align\.L([123])_dcnpack", r"pcd_align.dcn_pack.l\1"),
    (r"pcd_align\.L([123])_dcnpack\.conv_offset_mask", r"pcd_align.dcn_pack.l\1.conv_offset"),
    (r"pcd_align\.L([12])_fea_conv", r"pcd_align.feat_conv.l\1"),
    (r"pcd_align\.cas_dcnpack\.conv_offset_mask", r"pcd_align.cas_dcnpack.conv_offset"),
    (r"tsa_fusion\.sAtt_([1-5])", r"fusion.spatial_attn\1"),
    (r"tsa_fusion\.sAtt_L([123])", r"fusion.spatial_attn_l\1"),
    (r"tsa_fusion\.sAtt_add_([12])", r"fusion.spatial_attn_add\1"),
    (r"recon_trunk\.(.+)", r"reconstruction.\1"),
    (r"pre_deblur\.RB_L2_([12])\.(.+)", r"predeblur.resblock_l2_\1.\2"),
    (r"pre_deblur\.RB_L3_1\.(.+)", r"predeblur.resblock_l3.\1"),
)

_SAME = re.compile(
    r"(conv_first(_[123])?|feature_extraction\..+|pcd_align\.cas_offset_conv[12]|pcd_align\.cas_dcnpack"
    r"|upconv[12]|conv_last|conv_1x1)"
)


def rename_2019(name: str) -> str | None:
    """Convert a tensor's name in EDVR's code of 2019 to sr-train's name; None for a name that EDVR does not have."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if m := re.fullmatch(r"pre_deblur\.RB_L1_([1-5])\.(.+)", stem):
        return f"predeblur.resblock_l1.{int(m[1]) - 1}.{m[2]}.{kind}"
    for pattern, new in _RULES:
        if re.fullmatch(pattern, stem):
            return f"{re.sub(pattern, new, stem)}.{kind}"
    if stem in _RENAMED or _SAME.fullmatch(stem):
        return f"{_RENAMED.get(stem, stem)}.{kind}"
    return None


def names_2019(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Return {name in EDVR's code of 2019: sr-train's name}; None if the names belong to another network."""
    return {name: rename_2019(name) for name in shapes} if "pcd_align.L3_offset_conv1.weight" in shapes else None


_MMAGIC = (  # MMagic -> BasicSR: patterns of complete names without .weight and .bias; a ConvModule adds ".conv"
    (r"feat_l([23])_conv([12])\.conv", r"conv_l\1_\2"),
    (r"pcd_alignment\.(offset_conv[123]|feat_conv)\.(l[123])\.conv", r"pcd_align.\1.\2"),
    (r"pcd_alignment\.(cas_offset_conv[12])\.conv", r"pcd_align.\1"),
    (r"pcd_alignment\.(dcn_pack\.l[123]|cas_dcnpack)(\.conv_offset)?", r"pcd_align.\1\2"),
    (r"fusion\.(feat_fusion|spatial_attn(?:[1-4]|_l[123]|_add1))\.conv", r"fusion.\1"),
    (r"(fusion(?:\.(?:temporal_attn[12]|spatial_attn5|spatial_attn_add2))?)", r"\1"),
    (r"upsample([12])\.upsample_conv", r"upconv\1"),
    (r"(conv_first|conv_hr|conv_last|(?:feature_extraction|reconstruction)\.\d+\.conv[12])", r"\1"),
)


def rename_mmagic(name: str) -> str | None:
    """Return our name for a tensor's name of MMagic; None for a name that EDVR does not have."""
    stem, _, kind = name.rpartition(".")
    for pattern, new in _MMAGIC:
        if kind in ("weight", "bias") and (found := re.fullmatch(pattern, stem)):
            return f"{found.expand(new)}.{kind}"
    return None


def names_mmagic(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Map MMagic's names to ours; None if they belong to another network."""
    return {name: rename_mmagic(name) for name in shapes} if "pcd_alignment.dcn_pack.l1.weight" in shapes else None


def infer_edvr(shapes: Shapes, _: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of an EDVR from shapes of tensors; None for another network."""
    channels = _outputs(shapes, "pcd_align.cas_dcnpack.weight")
    offsets = _outputs(shapes, "pcd_align.cas_dcnpack.conv_offset.weight")
    fused = shapes.get("fusion.feat_fusion.weight", shapes.get("fusion.weight", ()))
    image = _outputs(shapes, "conv_last.weight")
    if not channels or not image or offsets % 27 or len(fused) != 4 or fused[1] % channels:
        return None
    predeblur = "predeblur.conv_first.weight" in shapes
    hr_in = "predeblur.stride_conv_hr1.weight" in shapes or "conv_first_1.weight" in shapes
    return {
        "_target_": "sr_train.models.edvr.EDVR",
        "scale": 1 if hr_in else 4,
        "channels": channels,
        "frames": fused[1] // channels,
        "groups": offsets // 27,
        "front_blocks": _blocks(shapes, "feature_extraction"),
        "back_blocks": _blocks(shapes, "reconstruction"),
        "tsa": "fusion.feat_fusion.weight" in shapes,
        "predeblur": predeblur,
        "hr_in": hr_in,
        **stated(image),
    }


def _outputs(shapes: Shapes, name: str) -> int:
    shape = shapes.get(name, ())
    return shape[0] if len(shape) == 4 else 0


def _blocks(shapes: Shapes, name: str) -> int:
    return len({m[1] for m in (re.match(rf"{name}\.(\d+)\.", key) for key in shapes) if m})


KEY_FORMATS = (
    KeyFormat(name="BasicSR's EDVR", match=infer_edvr),
    KeyFormat(name="EDVR's of 2019", names=names_2019, match=infer_edvr),
    KeyFormat(name="MMagic's EDVR", names=names_mmagic, match=infer_edvr),
)
