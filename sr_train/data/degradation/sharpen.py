"""Unsharp masking (USM), by which Real-ESRGAN sharpens its HR images before it degrades them and as targets of losses."""

from __future__ import annotations

import cv2
import numpy as np

from sr_train.batch import Image
from sr_train.data.degradation.pixels import clip, with_channels


def usm_sharpen(image: Image, *, radius: int = 50, weight: float = 0.5, threshold: float = 10.0) -> Image:
    """Sharpen edges and leave flat parts as they are: float32 [H, W, C] in [0, 1] -> the same.

    B is the image I blurred by a Gaussian, R = I - B. M is 1 where abs(R) > threshold / 255 and 0 elsewhere, and is
    blurred by the same Gaussian. The result is M * limit(I + weight * R) + (1 - M) * I; limit is to [0, 1]. Channels are
    independent.

    Args:
        image: image or patch. Pixels up to ``radius`` away have an influence (two blurs of half the radius), so a patch
            should be cut with this margin. Images are mirrored at the border.
        radius: side of the Gaussian's kernel in pixels; the next odd number is used. Its standard deviation is OpenCV's
            0.3 * ((side - 1) / 2 - 1) + 0.8, 8 pixels for 50.
        weight: amount of sharpening.
        threshold: smallest abs(R) that is an edge, in 1/255.
    """
    if radius < 1 or threshold < 0:
        raise ValueError(f"radius={radius}, threshold={threshold}: expected a radius of at least 1, a threshold from 0")
    side = radius | 1

    def blur(x: Image) -> Image:
        return with_channels(cv2.GaussianBlur(x, (side, side), 0, borderType=cv2.BORDER_REFLECT_101))

    residual: Image = image - blur(image)
    mask = blur((np.abs(residual) * 255 > threshold).astype(np.float32))
    sharpened = image + residual * weight
    return image + mask * (clip(sharpened) - image)
