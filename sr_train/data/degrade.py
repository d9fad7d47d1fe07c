"""Low-resolution images from high-resolution ones: MATLAB's bicubic reduction of a whole image or of one window."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from sr_train.batch import Image
from sr_train.resampling import Arithmetic, apply_taps, imresize, reduce_taps, round_half_up


def modcrop(image: Image, scale: int) -> Image:
    """Crop [H, W, C] at the bottom and at the right, so that height and width are multiples of ``scale``."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def reduce_image(image: Image, scale: int, arithmetic: str = "float") -> Image:
    """Reduce a whole image: [H, W, C] uint8|uint16 -> [H // scale, W // scale, C] of the same type."""
    return imresize(modcrop(image, scale), 1.0 / scale, arithmetic=cast("Arithmetic", arithmetic))


def reduce_window(
    fetch: Callable[[int, int, int, int], Image],
    size: tuple[int, int],
    scale: int,
    top: int,
    left: int,
    height: int,
    width: int,
    arithmetic: str = "float",
) -> Image:
    """Compute the window [top:top+height, left:left+width] of :func:`reduce_image`, bit for bit, from the needed pixels only.

    Args:
        fetch: function of (top, left, height, width) that returns this window of the HR image, [height, width, C].
        size: (H, W) of the whole HR image. Pixels are mirrored only at the border of this image after :func:`modcrop`,
            not at the border of the window.
        scale: factor of the reduction.
        top: first LR row of the window.
        left: first LR column of the window.
        height: number of LR rows.
        width: number of LR columns.
        arithmetic: name of the rounding rules, see :mod:`sr_train.resampling`.
    """
    mirror = arithmetic != "uint8_replicate"
    rows = reduce_taps(size[0] - size[0] % scale, scale, top, height, mirror)
    columns = reduce_taps(size[1] - size[1] % scale, scale, left, width, mirror)
    y, x = int(rows.pixel.min()), int(columns.pixel.min())
    patch = fetch(y, x, int(rows.pixel.max()) + 1 - y, int(columns.pixel.max()) + 1 - x)
    out = apply_taps(patch.astype(np.float64), rows._replace(pixel=rows.pixel - y), 0)
    if arithmetic != "float":
        out = round_half_up(out, patch.dtype).astype(np.float64)
    out = apply_taps(out, columns._replace(pixel=columns.pixel - x), 1)
    return round_half_up(out, patch.dtype) if np.issubdtype(patch.dtype, np.integer) else out.astype(patch.dtype)
