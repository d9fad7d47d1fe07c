"""Copying of one network's weights into another, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn

from sr_train.weights.foreign.base import WeightsError, count_tensors
from sr_train.weights.growth import grown_tensors, residual_ends, with_frames, zero_ends
from sr_train.weights.recoloring import with_channels


class WarmStart(NamedTuple):
    """Names of tensors in four groups: copied, newly initialized, unused and grown by a warm start."""

    copied: list[str]
    initialized: list[str]  #: tensors of the network that stay newly initialized
    unused: list[str]  #: tensors of the source that are not copied
    grown: list[str]  #: tensors in blocks that the source does not have; these blocks start as an identity


def match_warm_start(
    network: Mapping[str, torch.Tensor],
    source: Mapping[str, torch.Tensor],
    skip: Sequence[str],
    *,
    grow: Iterable[str] = (),
    where: str,
) -> WarmStart:
    """Decide which tensors a network copies from ``source``. Tensors may be on the meta device.

    ``skip`` contains glob patterns of names of tensors that are not copied. ``grow`` contains names of lists of blocks
    that may be longer in the network than in the source. All other tensors must have the same names and shapes in both.
    Raises WeightsError that lists all tensors that do not match, and all patterns that match nothing.
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
        remedy = "list the tensors to re-initialize, e.g. init.skip=['upsample.*']"
        count = count_tensors(len(problems), "does not", "do not")
        raise WeightsError(f"{where}: {count} match; {remedy}:\n  {shown}")
    copied = [k for k in network if k not in skipped | beyond]
    return WarmStart(copied, [k for k in network if k in skipped], [k for k in source if k in skipped], grown)


def warm_start(
    network: nn.Module, source: Mapping[str, torch.Tensor], skip: Sequence[str], *, grow: Sequence[str] = (), where: str
) -> WarmStart:
    """Copy a source's tensors into a network, except tensors that match ``skip``; see :func:`match_warm_start`.

    Blocks that ``grow`` adds start as an identity, and weights of added frames start at zero. So the grown network has
    the same outputs as the source. A source for RGB images is converted for a network for gray images, and vice versa
    (:mod:`sr_train.weights.recoloring`).
    """
    ends = residual_ends(network, grow, where=where)
    source = with_channels(network, with_frames(network, source, grow, where=where), skip, where=where)
    decided = match_warm_start(network.state_dict(), source, skip, grow=ends, where=where)
    if not decided.copied:
        raise WeightsError(f"{where}: init.skip matches all tensors, so nothing is copied; give fewer patterns")
    network.load_state_dict({k: source[k] for k in decided.copied}, strict=False)
    zero_ends(network, decided.grown, ends)
    return decided
