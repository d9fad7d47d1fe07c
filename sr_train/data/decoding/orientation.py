"""Orientation of an image: the flips and rotations that EXIF and TIFF number 1 (upright) to 8."""

from __future__ import annotations

import numpy as np

from sr_train.batch import Image


def turn(pixels: Image, orientation: int) -> Image:
    """Return stored pixels [H, W, C] upright. Numbers other than 2 to 8 change nothing."""
    if orientation not in range(2, 9):
        return pixels
    pixels = np.swapaxes(pixels, 0, 1) if orientation in (5, 6, 7, 8) else pixels
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if vertical else 1, :: -1 if horizontal else 1])
