"""Weights of one network copied into another, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn

from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.growth import grown_tensors, residual_ends, with_frames, zero_ends


class WarmStart(NamedTuple):
    """What a warm start does with each tensor, by name."""

    copied: list[str]
    afresh: list[str]  #: of the network, left as initialized
    unused: list[str]  #: of the source
    grown: list[str]  #: of blocks that the source does not have, which start as identity


def match_warm_start(
    network: Mapping[str, torch.Tensor],
    source: Mapping[str, torch.Tensor],
    skip: Sequence[str],
    *,
    grow: Iterable[str] = (),
    where: str,
) -> WarmStart:
    """Decide what a network (tensors may be on meta) takes from ``source``.

    ``skip`` are globs on names, ``grow`` names of lists of blocks that may be longer than the source's; everything else
    must agree in name and shape. Raises WeightsError with every difference, or where a glob matches nothing.
    """
    grown = [
        k for k in grown_tensors(network, source, grow, where=where) if not any(fnmatchcase(k, glob) for glob in skip)
    ]
    beyond = set(grown)
    skipped = {k for k in (*network, *source) if any(fnmatchcase(k, glob) for glob in skip)}
    idle = [glob for glob in skip if not any(fnmatchcase(k, glob) for k in (*network, *source))]
    problems = [f"skip {glob!r} matches nothing" for glob in idle]
    problems += [f"{k}: not in the source" for k in network if k not in source and k not in skipped | beyond]
    problems += [f"{k}: not in the network" for k in source if k not in network and k not in skipped]
    problems += [
        f"{k}: {list(source[k].shape)} in the source, {list(v.shape)} in the network"
        for k, v in network.items()
        if k in source and k not in skipped and source[k].shape != v.shape
    ]
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        remedy = "name what shall start afresh, e.g. init.skip=['upsample.*']"
        raise WeightsError(f"{where}: {len(problems)} tensors do not fit; {remedy}:\n  {shown}")
    copied = [k for k in network if k not in skipped | beyond]
    return WarmStart(copied, [k for k in network if k in skipped], [k for k in source if k in skipped], grown)


def warm_start(
    network: nn.Module, source: Mapping[str, torch.Tensor], skip: Sequence[str], *, grow: Sequence[str] = (), where: str
) -> WarmStart:
    """Copy a source's tensors into a network but for those that ``skip`` names; see :func:`match_warm_start`.

    Blocks that ``grow`` adds start as identity, frames that it adds weigh nothing: the grown network computes what the
    source's does.
    """
    ends = residual_ends(network, grow, where=where)
    source = with_frames(network, source, grow, where=where)
    decided = match_warm_start(network.state_dict(), source, skip, grow=ends, where=where)
    if not decided.copied:
        raise WeightsError(f"{where}: init.skip leaves nothing to copy")
    network.load_state_dict({k: source[k] for k in decided.copied}, strict=False)
    zero_ends(network, decided.grown, ends)
    return decided
