"""Pairs of which one image is gray and the other has colors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sr_train.batch import Image
from sr_train.data.pair_check.kernels import Reduce
from sr_train.data.pair_check.search import FaultSearch
from sr_train.data.pair_check.verdict import GOOD, PairVerdict, best_kernels, made_by
from sr_train.data.pair_check.windows import score
from sr_train.resampling import round_half_up

_CONVERSIONS = {  # weights of red, green and blue, and the offset, for values in [0, 255]
    "luma of BT.601": (0.299, 0.587, 0.114, 0.0),
    "Y of MATLAB's rgb2ycbcr, 16-235": (65.481 / 255, 128.553 / 255, 24.966 / 255, 16.0),
    "mean of red, green and blue": (1 / 3, 1 / 3, 1 / 3, 0.0),
    "luma of BT.709": (0.2126, 0.7152, 0.0722, 0.0),
    "luma with red and blue swapped": (0.114, 0.587, 0.299, 0.0),
    "red channel": (1.0, 0.0, 0.0, 0.0),
    "green channel": (0.0, 1.0, 0.0, 0.0),
    "blue channel": (0.0, 0.0, 1.0, 0.0),
}


def _spread(image: Image) -> tuple[float, float]:
    """Return the mean and the maximum difference of the channels of a pixel, in levels of 255."""
    steps = (max(1, image.shape[0] // 128), max(1, image.shape[1] // 128))
    some = image[:: steps[0], :: steps[1]].astype(np.int32)
    spread = (some.max(axis=2) - some.min(axis=2)) * 255 / np.iinfo(image.dtype).max
    return float(spread.mean()), float(spread.max())


def to_gray(image: Image, conversion: str) -> Image:
    """Return [H, W, 1] of [H, W, 3] by the name of a conversion."""
    red, green, blue, offset = _CONVERSIONS[conversion]
    real = image[..., :3].astype(np.float64) @ np.array([red, green, blue])
    level = float(np.iinfo(image.dtype).max) / 255
    return round_half_up(real + offset * level, image.dtype)[..., None]


def gray_verdict(
    hr: Image, lr: Image, scale: int, known: Mapping[str, Reduce], scores: Mapping[str, float]
) -> PairVerdict | None:
    """Return the verdict if one image of a pair is gray and the other has colors; otherwise None."""
    if hr.shape[2] == 1:
        return None
    (mean, most), (low_mean, low_most) = _spread(hr), _spread(lr)
    if most <= 1 and low_mean > 4:
        return PairVerdict("gray", "HR is gray, LR has colors", True, (), 0.0, scores, "colored, but HR is gray")
    if not (mean > 4 and low_most <= 1):
        return None
    single = np.ascontiguousarray(lr[..., 1:2])
    best: tuple[str, Mapping[str, float], float] = ("", {}, 0.0)
    for name in _CONVERSIONS:
        found = score(to_gray(hr, name), single, scale, known)
        value = best_kernels(found)[1]
        best = (name, found, value) if value > best[2] else best
    if best[2] >= GOOD:
        change = f"gray ({best[0]}), but HR has colors"
        kernels, value = best_kernels(best[1])
        return PairVerdict("gray", f"LR is {change}; {made_by(best[1])}", True, kernels, value, scores, change)
    gray = to_gray(hr, "luma of BT.601")
    other = FaultSearch(gray, single, scale, known, score(gray, single, scale, known), 1).run()
    if other.kind == "other":
        return other
    change = "gray, but HR has colors"
    return PairVerdict("gray", f"LR is {change}", True, (), best[2], scores, change)
