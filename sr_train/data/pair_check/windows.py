"""PSNR of an LR image against HR reduced by each known kernel.

Large images are compared in windows: a detailed one inside the image, and one at each border, where mirrored and replicated
edges differ. A window is computed from a crop of HR whose phase is exact, so it equals the same window of the whole reduced
image, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.pair_check.kernels import MARGIN, Reduce

_WHOLE = 128 * 128  # LR pixels up to which an image is compared as a whole
_INSIDE = 240  # side in HR pixels of the window inside a larger image; at least 64 LR pixels
_BORDER = (24, 64)  # depth and length of the windows at its borders


class Window(NamedTuple):
    """A window of LR, the crop of HR with its margin, the size of the reduced crop, and its part to keep."""

    lr: tuple[slice, slice]
    hr: tuple[slice, slice]
    size: tuple[int, int]
    keep: tuple[slice, slice]


def single_window(top: int, left: int, height: int, width: int, size: tuple[int, int], scale: int) -> Window:
    """Return a window of an LR image of ``size``."""

    def axis(start: int, length: int, limit: int) -> tuple[slice, slice, int, slice]:
        first, last = max(0, start - MARGIN), min(limit, start + length + MARGIN)
        keep = slice(start - first, start - first + length)
        return slice(start, start + length), slice(first * scale, last * scale), last - first, keep

    y, x = axis(top, height, size[0]), axis(left, width, size[1])
    return Window((y[0], x[0]), (y[1], x[1]), (y[2], x[2]), (y[3], x[3]))


def _detail(lr: Image, top: int, left: int, height: int, width: int) -> float:
    """Return how much texture a window has: the mean absolute difference of horizontal neighbors, in every second row."""
    cell = lr[top : top + height : 2, left : left + width, lr.shape[2] // 2].astype(np.float32)
    return float(np.abs(np.diff(cell, axis=1)).mean()) if min(cell.shape) > 1 else 0.0


def _best(lr: Image, tops: Sequence[int], lefts: Sequence[int], height: int, width: int) -> tuple[int, int]:
    return max(((y, x) for y in tops for x in lefts), key=lambda at: _detail(lr, *at, height, width))


def _steps(length: int, side: int, count: int) -> list[int]:
    """Return starts of ``count`` windows, the one in the middle first."""
    starts = [int(n) for n in np.linspace(0, length - side, count)]
    return sorted(set(starts), key=lambda start: abs(start - (length - side) // 2))


def windows(lr: Image, scale: int) -> list[Window]:
    """Choose the windows of an LR image: the whole image if it is small, otherwise detailed ones inside and at each border."""
    size = (lr.shape[0], lr.shape[1])
    if size[0] * size[1] <= _WHOLE:
        return [single_window(0, 0, *size, size, scale)]
    side = max(64, _INSIDE // scale)
    height, width = min(side, size[0]), min(side, size[1])
    places = [(_steps(size[0], height, 5), _steps(size[1], width, 5), height, width)]
    depth, long = min(_BORDER[0], *size), (min(_BORDER[1], size[0]), min(_BORDER[1], size[1]))
    for start in (0, size[0] - depth):
        places.append(([start], _steps(size[1], long[1], 7), depth, long[1]))
    for start in (0, size[1] - depth):
        places.append((_steps(size[0], long[0], 7), [start], long[0], depth))
    return [single_window(*_best(lr, tops, lefts, h, w), h, w, size, scale) for tops, lefts, h, w in places]


def psnr(error: float, top: float) -> float:
    """Return the PSNR in dB of a mean squared error, infinite for 0."""
    return float(10 * np.log10(top * top / error)) if error > 0 else float("inf")


def reduce_windows(hr: Image, chosen: Sequence[Window], reduce: Reduce) -> list[Image]:
    """Return the windows of HR reduced by ``reduce``."""
    return [reduce(hr[w.hr], w.size)[w.keep] for w in chosen]


def score(
    hr: Image, lr: Image, scale: int, known: Mapping[str, Reduce], tone: NDArray[Any] | None = None
) -> dict[str, float]:
    """Return the PSNR in dB between LR and HR reduced by each of ``known``, best first.

    Args:
        hr: [h * scale, w * scale, C] uint8 or uint16; more rows and columns are ignored.
        lr: [h, w, C] of the same type.
        scale: HR pixels per LR pixel.
        known: reductions by name.
        tone: value after a change of gamma or range, by value; applied to the reduced images.
    """
    chosen = windows(lr, scale)
    top = float(np.iinfo(lr.dtype).max)
    scores: dict[str, float] = {}
    for name, reduce in known.items():
        total, count = 0.0, 0
        for w, made in zip(chosen, reduce_windows(hr, chosen, reduce), strict=True):
            made = made if tone is None else tone[made]
            difference = made.astype(np.int32) - lr[w.lr]
            total += float(np.square(difference, dtype=np.float64).sum())
            count += difference.size
        scores[name] = psnr(total / count, top)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
