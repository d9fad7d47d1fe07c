"""RRDBNet's weights in the three layouts they are published in: by the authors in 2018 and 2019, and BasicSR's, which is ours.

All functions are pure: names in, names out, the tensors themselves untouched. Wrappers (``params_ema``, a leading
``module.``) are the caller's to remove.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

Layout = Literal["2018", "2019", "basicsr"]

Value = TypeVar("Value")

_DENSE_2018 = re.compile(r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(weight|bias)")

_TRUNK_2018 = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")

_PLAIN_2018 = re.compile(r"model\.(\d+)\.(weight|bias)")

_DENSE_2019 = re.compile(r"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5])\.(weight|bias)")

_PLAIN_2019 = re.compile(r"(conv_first|trunk_conv|upconv[123]|HRconv|conv_last)\.(weight|bias)")

_NAMES_2019 = {"trunk_conv": "conv_body", "HRconv": "conv_hr"}


def layout_of(state: Mapping[str, Any]) -> Layout | None:
    """Which layout an RRDBNet's names are in; ``None`` where it is no RRDBNet of at least one block."""
    marks: dict[Layout, str] = {
        "2018": "model.1.sub.0.RDB1.conv1.0.weight",
        "2019": "RRDB_trunk.0.RDB1.conv1.weight",
        "basicsr": "body.0.rdb1.conv1.weight",
    }
    return next((layout for layout, mark in marks.items() if mark in state), None)


def rename(state: Mapping[str, Value]) -> dict[str, Value]:
    """An RRDBNet's names in any of the layouts -> BasicSR's. Raises ValueError with every name that does not belong."""
    layout = layout_of(state)
    if layout is None:
        raise ValueError("these tensors are no RRDBNet in a layout of 2018, of 2019 or of BasicSR")
    if layout == "basicsr":
        return dict(state)
    return rename_2018(state) if layout == "2018" else rename_2019(state)


def rename_2018(state: Mapping[str, Value]) -> dict[str, Value]:
    """``model.0.weight``, ``model.1.sub.N.RDB1.conv1.0.weight``, ... -> BasicSR's names.

    ``model.1`` is the body and, as the last of its ``sub``, the convolution after it. What follows are numbered layers
    of which only convolutions have tensors: enlargements, then conv_hr, then conv_last.
    """
    blocks = {int(m[1]) for m in map(_DENSE_2018.fullmatch, state) if m}
    later = sorted({int(m[1]) for m in map(_PLAIN_2018.fullmatch, state) if m and m[1] != "0"})
    ends = ["conv_hr", "conv_last"]
    tail = [f"conv_up{i + 1}" for i in range(len(later) - len(ends))] + ends
    plain = {0: "conv_first", **dict(zip(later, tail, strict=False))}

    def new(name: str) -> str | None:
        if m := _DENSE_2018.fullmatch(name):
            return f"body.{m[1]}.rdb{m[2]}.conv{m[3]}.{m[4]}"
        if (m := _TRUNK_2018.fullmatch(name)) and int(m[1]) == len(blocks):
            return f"conv_body.{m[2]}"
        if m := _PLAIN_2018.fullmatch(name):
            return f"{plain[int(m[1])]}.{m[2]}"
        return None

    return _renamed(state, new, "2018")


def rename_2019(state: Mapping[str, Value]) -> dict[str, Value]:
    """``RRDB_trunk.N.RDB1.conv1.weight``, ``trunk_conv``, ``upconv1``, ``HRconv``, ... -> BasicSR's names."""

    def new(name: str) -> str | None:
        if m := _DENSE_2019.fullmatch(name):
            return f"body.{m[1]}.rdb{m[2]}.conv{m[3]}.{m[4]}"
        if m := _PLAIN_2019.fullmatch(name):
            return f"{_NAMES_2019.get(m[1], m[1].replace('upconv', 'conv_up'))}.{m[2]}"
        return None

    return _renamed(state, new, "2019")


def _renamed(state: Mapping[str, Value], new: Callable[[str], str | None], layout: str) -> dict[str, Value]:
    names = {name: new(name) for name in state}
    foreign = [name for name, to in names.items() if to is None]
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ValueError(f"RRDBNet's layout of {layout} has no {shown} ({len(foreign)} of {len(state)} names)")
    return {to: state[name] for name, to in names.items() if to is not None}


def infer_rrdbnet(shapes: Mapping[str, tuple[int, ...]], *, scale: int | None = None) -> dict[str, Any] | None:
    """The arguments, with ``_target_``, of the RRDBNet that BasicSR-named shapes are of; ``None`` where they are of none.

    Read off the shapes: 12 input channels are x2 and 48 are x1, folded; with 3, no enlargement is x1, two are x4 and three
    x8. A single one is x2 or x3, which no shape tells: ``scale`` decides, and only here. Whether every tensor fits is
    for whoever builds the network to check. Raises ValueError where ``scale`` is needed and is neither.
    """
    first, dense = shapes.get("conv_first.weight"), shapes.get("body.0.rdb1.conv1.weight")
    last = shapes.get("conv_last.weight")
    if first is None or dense is None or last is None or any(len(s) != 4 for s in (first, dense, last)):
        return None
    ups = sum(f"conv_up{i}.weight" in shapes for i in (1, 2, 3))
    possible = {(3, 0): [1], (3, 1): [2, 3], (3, 2): [4], (3, 3): [8], (12, 2): [2], (48, 2): [1]}.get((first[1], ups))
    if possible is None or last[0] != 3:
        return None
    if len(possible) > 1 and scale not in possible:
        raise ValueError(
            "one enlarging convolution and 3 input channels are an RRDBNet x2 or x3, and nothing tells which: give scale=2 "
            "or scale=3"
        )
    blocks = {int(m[1]) for m in (re.match(r"body\.(\d+)\.", name) for name in shapes) if m}
    scale = scale if scale in possible else possible[0]
    return {
        "_target_": "sr_train.models.rrdbnet.RRDBNet",
        "scale": scale,
        "channels": first[0],
        "growth": dense[0],
        "blocks": len(blocks),
        "unshuffle": first[1] > 3 or scale > 2,
    }
