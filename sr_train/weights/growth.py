"""``init.grow``: initialize a network from a smaller network, so that both networks have the same outputs at first.

More residual blocks: EDVR's authors initialized deeper networks from shallower networks. Blocks are added at the end of
a numbered list. A new block starts as an identity, because its last layer (``residual_end`` of its class) is zero.

More frames (``frames``): the smaller network's weights are used for the innermost frames. Weights of the outer frames
start at zero, in the convolutions whose input is the features of all frames (``joins_frames`` of the network).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import nn

from sr_train.models import contract
from sr_train.weights.foreign.base import WeightsError

FRAMES = "frames"  #: in init.grow: adds frames to the window instead of blocks to a list


def residual_ends(network: nn.Module, grow: Sequence[str], *, where: str) -> dict[str, str]:
    """Return {list of blocks: name of a block's layer that makes the block an identity if this layer is zero}.

    The lists of blocks are the names in ``grow``. The name ``frames`` is ignored here; see :func:`with_frames`. Raises
    WeightsError for a name that is not a list of residual blocks with the attribute ``residual_end``.
    """
    modules = cast("Iterable[tuple[str, nn.Module]]", network.named_modules())
    lists = {n: m for n, m in modules if isinstance(m, nn.Sequential) and len(m)}
    ends = {n: {contract.residual_end(block) for block in m} for n, m in lists.items()}
    usable = {n: str(found.pop()) for n, found in ends.items() if len(found) == 1 and None not in found}
    blocks = [name for name in grow if name != FRAMES]
    for name in blocks:
        if name not in usable:
            usable = [*usable, *([FRAMES] if contract.joins_frames(network) else [])]
            known = f"choose from {', '.join(usable)}" if usable else f"{type(network).__name__} has none"
            raise WeightsError(
                f"{where}: init.grow: {name!r} is not a list of blocks that can start as identity; {known}"
            )
    return {name: usable[name] for name in blocks}


def grown_tensors(network: Iterable[str], source: Iterable[str], lists: Iterable[str], *, where: str) -> list[str]:
    """Return the names of tensors in new blocks: blocks of ``lists`` that the network has and the source does not have."""
    grown: list[str] = []
    for name in lists:
        numbered = re.compile(rf"{re.escape(name)}\.(\d+)\.")
        had = {int(m[1]) for m in map(numbered.match, source) if m}
        new = [k for k in network if (m := numbered.match(k)) and int(m[1]) >= len(had)]
        if not had or had != set(range(len(had))):
            raise WeightsError(f"{where}: init.grow: the source has no blocks {name}.0, {name}.1, ...")
        if not new:
            raise WeightsError(
                f"{where}: init.grow: the source already has {len(had)} blocks {name}.*; there is nothing to grow"
            )
        grown += new
    return grown


def with_frames(
    network: nn.Module, source: Mapping[str, torch.Tensor], grow: Sequence[str], *, where: str
) -> dict[str, torch.Tensor]:
    """Return initial weights for a video network that has more frames than the network that they come from.

    Without ``frames`` in ``grow``, the tensors of ``source`` are returned unchanged.

    The center frame is the middle frame in both networks, so frames are added in pairs. Tensors may be on the meta
    device. Raises WeightsError if ``source`` has as many frames as the network, or if its tensors belong to another network.
    """
    found = dict(source)
    if FRAMES not in grow:
        return found
    joins, count = contract.joins_frames(network), contract.frames(network)
    if not joins or count is None:
        raise WeightsError(f"{where}: init.grow: {type(network).__name__} has no window that frames can be added to")
    own = network.state_dict()
    for name in (f"{conv}.weight" for conv in joins):
        here, there = own[name], found.get(name)
        each = here.shape[1] // count
        if there is None:
            raise WeightsError(f"{where}: init.grow: frames: {name} is not in the source")
        had, rest = divmod(there.shape[1], each)
        if rest or (there.shape[0], *there.shape[2:]) != (here.shape[0], *here.shape[2:]) or had % 2 == 0:
            raise WeightsError(
                f"{where}: init.grow: frames: {name} is {list(there.shape)} in the source; expected "
                f"[{here.shape[0]}, frames * {each}, ...] with an odd number of frames ({each} features per frame)"
            )
        if had >= count:
            raise WeightsError(f"{where}: init.grow: the source already takes {had} frames; the network takes {count}")
        margin = (count - had) // 2 * each
        found[name] = there.new_zeros(here.shape)
        found[name][:, margin : margin + there.shape[1]] = there
    return found


@torch.no_grad()
def zero_ends(network: nn.Module, grown: Iterable[str], ends: Mapping[str, str]) -> None:
    """Set weight and bias of the last layer of every grown block to zero. ``ends`` is the result of :func:`residual_ends`."""
    last = [re.compile(rf"{re.escape(name)}\.\d+\.{re.escape(end)}\.(weight|bias)") for name, end in ends.items()]
    tensors = network.state_dict()
    for name in grown:
        if any(pattern.fullmatch(name) for pattern in last):
            tensors[name].zero_()
