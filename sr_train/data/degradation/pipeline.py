"""Degradation that is composed of operators."""

from __future__ import annotations

import numpy as np

from sr_train.batch import Image
from sr_train.data.degradation.base import Degraded, check_image
from sr_train.data.degradation.context import Context, Operators, apply, check_operators
from sr_train.data.degradation.pixels import clip
from sr_train.data.degradation.words import Words


class Pipeline:
    """Degradation that applies operators in order, limits the result to [0, 1], and rounds it to 8 bits.

    Args:
        operators: operators by name; null switches one off. Each has random numbers of its own, which depend on the
            sample and on the operator's name: switching one off does not change the draws of the others.
        margin: HR pixels around a patch that are degraded with it and then cut off.
        levels: number of steps from black to white to which the result is rounded, 255 for 8 bits; null: not rounded.
    """

    def __init__(self, *, operators: Operators, margin: int = 32, levels: int | None = 255) -> None:
        self.operators = check_operators(operators)
        if margin < 0:
            raise ValueError(f"margin={margin}: expected at least 0 pixels")
        if levels is not None and levels < 1:
            raise ValueError(f"levels={levels}: expected at least 1, or null")
        self.margin = margin
        self.levels = levels

    def __call__(self, hr: Image, scale: int, words: Words) -> Degraded:
        """Degrade float32 [H, W, C] in [0, 1]; H and W are multiples of ``scale``."""
        check_image(hr, scale)
        size = hr.shape[0] // scale, hr.shape[1] // scale
        context = Context(lr_size=size, scale=scale)
        image = hr
        for name, operator in self.operators.items():
            image = apply(name, operator, image, words, context)
        if image.shape[:2] != size:
            raise ValueError(
                f"the operators ({', '.join(self.operators)}) give an image of {image.shape[0]} x {image.shape[1]} pixels, "
                f"expected {size[0]} x {size[1]} (LR): add sr_train.data.degradation.resize.ToSize as the last resize"
            )
        return Degraded(self._rounded(image), context.drawn)

    def _rounded(self, image: Image) -> Image:
        out = clip(image).astype(np.float32, copy=False)
        if self.levels is not None:
            out = np.rint(out * np.float32(self.levels)) / np.float32(self.levels)
        return np.ascontiguousarray(out)
