"""Spans of an image along one axis that tiles read and write, and the weights of seams between tiles."""

from __future__ import annotations

import math

import torch

from sr_train.inference.tiling import Tiling


def pixels(span: tuple[int, int], origin: int, scale: int) -> slice:
    """Return the output pixels of a span of LR pixels, counted from the LR pixel ``origin``."""
    return slice((span[0] - origin) * scale, (span[1] - origin) * scale)


def cuts(size: int, tiling: Tiling, multiple: int) -> list[tuple[int, int]]:
    """Divide an axis of ``size`` pixels into nearly equal parts, one for each tile. Return (start, stop) of each part.

    Starts are multiples of ``multiple``. A part is at most as long as a tile's side, and at least as long as a seam
    (the zone in which two tiles are blended).
    """
    assert tiling.tile is not None
    parts = min(math.ceil(size / tiling.tile), max(1, size // (2 * tiling.blend + multiple)))
    starts = [i * size // parts // multiple * multiple for i in range(parts)]
    return list(zip(starts, [*starts[1:], size], strict=True))


def spans(start: int, stop: int, size: int, tiling: Tiling, multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return two spans along an axis in LR pixels: the pixels that a tile reads, and the pixels that the tile writes.

    The span that is read starts at a multiple of ``multiple`` (``multiple_of`` of the network).
    """
    seen = max(0, (start - tiling.overlap) // multiple * multiple), min(size, stop + tiling.overlap)
    return seen, (max(0, start - tiling.blend), min(size, stop + tiling.blend))


def ramp(span: tuple[int, int], core: tuple[int, int], size: int, blend: int, scale: int) -> torch.Tensor:
    """Return the weights with which a tile is added to the image, along one axis.

    The weights are 1, except in the seams (zones in which two tiles are blended). There they are ramps, and the weights
    of both tiles add up to 1.
    """
    weights = torch.ones((span[1] - span[0]) * scale)
    seam = 2 * blend * scale
    if seam:
        rising = (torch.arange(seam) + 0.5) / seam
        if core[0] > 0:
            weights[:seam] = rising
        if core[1] < size:
            weights[-seam:] *= rising.flip(0)
    return weights
