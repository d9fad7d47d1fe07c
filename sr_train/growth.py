"""``init.grow``: a network of more residual blocks than the one it starts from, computing the same to begin with.

EDVR's authors initialised deeper networks from shallower ones. Blocks are added at the end of a numbered list; each starts as
identity, because its last layer (``residual_end`` of its class) is zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from sr_train.layouts import WeightsError


def residual_ends(network: nn.Module, grow: Sequence[str], *, where: str) -> dict[str, str]:
    """For each list of blocks to grow, the layer in a block (``residual_end``) that makes it identity where it is zero.

    Raises WeightsError for a name that is no list of such blocks.
    """
    lists = {n: m for n, m in network.named_modules() if isinstance(m, nn.Sequential) and len(m)}
    ends = {n: {getattr(block, "residual_end", None) for block in m} for n, m in lists.items()}
    usable = {n: str(found.pop()) for n, found in ends.items() if len(found) == 1 and None not in found}
    for name in grow:
        if name not in usable:
            known = f"can grow are {', '.join(usable)}" if usable else f"no blocks of {type(network).__name__} can"
            raise WeightsError(f"{where}: init.grow: {name!r} is no list of blocks that can start as identity; {known}")
    return {name: usable[name] for name in grow}


def grown_tensors(network: Iterable[str], source: Iterable[str], lists: Iterable[str], *, where: str) -> list[str]:
    """Tensors of the blocks that the network has beyond the source's, in each of the lists."""
    grown: list[str] = []
    for name in lists:
        numbered = re.compile(rf"{re.escape(name)}\.(\d+)\.")
        had = {int(m[1]) for m in map(numbered.match, source) if m}
        new = [k for k in network if (m := numbered.match(k)) and int(m[1]) >= len(had)]
        if not had or had != set(range(len(had))):
            raise WeightsError(f"{where}: init.grow: the source has no blocks {name}.0, {name}.1, ...")
        if not new:
            raise WeightsError(
                f"{where}: init.grow: the source has {len(had)} blocks {name}.* already; nothing to grow"
            )
        grown += new
    return grown


@torch.no_grad()
def zero_ends(network: nn.Module, grown: Iterable[str], ends: Mapping[str, str]) -> None:
    """Zero weight and bias of the last layer of every grown block; ``ends`` as :func:`residual_ends` tells them."""
    last = [re.compile(rf"{re.escape(name)}\.\d+\.{re.escape(end)}\.(weight|bias)") for name, end in ends.items()]
    tensors = network.state_dict()
    for name in grown:
        if any(pattern.fullmatch(name) for pattern in last):
            tensors[name].zero_()
