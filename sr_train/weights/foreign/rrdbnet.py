"""The three published key formats (schemes of tensor names) of RRDBNet.

They are the authors' formats of 2018 and of 2019, and BasicSR's format, which sr-train also uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sr_train.weights.foreign.base import KeyFormat, Shapes, stated

_DENSE_2018 = re.compile(r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(weight|bias)")

_TRUNK_2018 = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")

_PLAIN_2018 = re.compile(r"model\.(\d+)\.(weight|bias)")

_DENSE_2019 = re.compile(r"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5])\.(weight|bias)")

_PLAIN_2019 = re.compile(r"(conv_first|trunk_conv|upconv[123]|HRconv|conv_last)\.(weight|bias)")

_NAMES_2019 = {"trunk_conv": "conv_body", "HRconv": "conv_hr"}


def names_2018(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Return {name in ESRGAN's code of 2018: sr-train's name} for the tensors of an RRDBNet; None for another network.

    Names of 2018 are ``model.0.weight``, ``model.1.sub.N.RDB1.conv1.0.weight``, ... The body is ``model.1``; the last
    item of ``model.1.sub`` is the convolution after the body. The following layers are numbered. Only convolutions
    among them have tensors: first the upsampling convolutions, then conv_hr, then conv_last.
    """
    if "model.1.sub.0.RDB1.conv1.0.weight" not in shapes:
        return None
    blocks = {int(m[1]) for m in map(_DENSE_2018.fullmatch, shapes) if m}
    later = sorted({int(m[1]) for m in map(_PLAIN_2018.fullmatch, shapes) if m and m[1] != "0"})
    ends = ["conv_hr", "conv_last"]
    tail = [f"conv_up{i + 1}" for i in range(len(later) - len(ends))] + ends
    plain = {0: "conv_first", **dict(zip(later, tail, strict=False))}

    def ours(name: str) -> str | None:
        if m := _DENSE_2018.fullmatch(name):
            return f"body.{m[1]}.rdb{m[2]}.conv{m[3]}.{m[4]}"
        if (m := _TRUNK_2018.fullmatch(name)) and int(m[1]) == len(blocks):
            return f"conv_body.{m[2]}"
        if m := _PLAIN_2018.fullmatch(name):
            return f"{plain[int(m[1])]}.{m[2]}"
        return None

    return {name: ours(name) for name in shapes}


def names_2019(shapes: Shapes) -> Mapping[str, str | None] | None:
    """Return {name in ESRGAN's code of 2019: sr-train's name} for the tensors of an RRDBNet; None for another network.

    Names of 2019 are ``RRDB_trunk.N.RDB1.conv1.weight``, ``trunk_conv``, ``upconv1``, ``HRconv``, ...
    """
    if "RRDB_trunk.0.RDB1.conv1.weight" not in shapes:
        return None

    def ours(name: str) -> str | None:
        if m := _DENSE_2019.fullmatch(name):
            return f"body.{m[1]}.rdb{m[2]}.conv{m[3]}.{m[4]}"
        if m := _PLAIN_2019.fullmatch(name):
            return f"{_NAMES_2019.get(m[1], m[1].replace('upconv', 'conv_up'))}.{m[2]}"
        return None

    return {name: ours(name) for name in shapes}


def infer_rrdbnet(shapes: Shapes, scale: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of an RRDBNet from shapes of tensors; None for another network.

    With 4 times as many input channels as output channels (2x2 pixels) the network has scale 2, with 16 times as many
    (4x4 pixels) scale 1. With equally many, the scale depends on the number of upsampling convolutions: 1 for none, 4
    for two, 8 for three. With one upsampling convolution the scale is 2 or 3, and the argument ``scale`` decides. Raises
    ValueError if ``scale`` is then neither 2 nor 3.
    """
    first, dense = shapes.get("conv_first.weight"), shapes.get("body.0.rdb1.conv1.weight")
    last = shapes.get("conv_last.weight")
    if first is None or dense is None or last is None or any(len(s) != 4 for s in (first, dense, last)):
        return None
    ups = sum(f"conv_up{i}.weight" in shapes for i in (1, 2, 3))
    folded, rest = divmod(first[1], last[0]) if last[0] else (0, 0)
    possible = {(1, 0): [1], (1, 1): [2, 3], (1, 2): [4], (1, 3): [8], (4, 2): [2], (16, 2): [1]}.get((folded, ups))
    if possible is None or rest:
        return None
    if len(possible) > 1 and scale not in possible:
        raise ValueError(
            f"one upsampling convolution and {first[1]} input channels fit both an RRDBNet x2 and an RRDBNet x3; give "
            "scale=2 or scale=3"
        )
    blocks = {int(m[1]) for m in (re.match(r"body\.(\d+)\.", name) for name in shapes) if m}
    scale = scale if scale in possible else possible[0]
    return {
        "_target_": "sr_train.models.rrdbnet.RRDBNet",
        "scale": scale,
        "channels": first[0],
        "growth": dense[0],
        "blocks": len(blocks),
        "unshuffle": folded > 1 or scale > 2,
        **stated(last[0]),
    }


KEY_FORMATS = (
    KeyFormat(name="BasicSR's RRDBNet", match=infer_rrdbnet),
    KeyFormat(name="ESRGAN's RRDBNet of 2019", names=names_2019, match=infer_rrdbnet),
    KeyFormat(name="ESRGAN's RRDBNet of 2018", names=names_2018, match=infer_rrdbnet),
)
