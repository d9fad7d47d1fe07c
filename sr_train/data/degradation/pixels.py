"""Conversions of pixels, and resizing to a size, for operators."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image

METHODS = {
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}
"""Interpolations of :func:`resize`."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B, as in JPEG (ITU-R BT.601)


def with_channels(image: NDArray[Any]) -> Image:
    """Return [H, W, C] for the result of an OpenCV function, which drops the axis of a gray image."""
    return image[:, :, None] if image.ndim == 2 else image


def clip(image: Image) -> Image:
    """Return the image with values limited to [0, 1]."""
    return np.minimum(np.maximum(image, 0), 1)


def to_bytes(image: Image) -> NDArray[np.uint8]:
    """Convert float32 to uint8: values are multiplied by 255, rounded (half to even), and limited to [0, 255]."""
    out = cv2.addWeighted(image, 255.0, image, 0.0, 0.0, dtype=cv2.CV_8U)
    return cast("NDArray[np.uint8]", with_channels(out))


def from_bytes(image: NDArray[np.uint8]) -> Image:
    """Convert uint8 to float32 in [0, 1]."""
    return image.astype(np.float32) * np.float32(1 / 255)


def luma(image: Image) -> Image:
    """Return the gray image [H, W, 1] of an image: 0.299 R + 0.587 G + 0.114 B."""
    return image if image.shape[2] == 1 else (image @ _LUMA)[:, :, None]


def resize(image: Image, size: tuple[int, int], method: str) -> Image:
    """Resize [H, W, C] to ``size`` (h, w). The borders of both images coincide.

    area: average over the area of the new pixel (pixels at its border with their part); where it upscales, bilinear.
    bilinear and bicubic (Keys 1981 with a = -0.75) interpolate at the center of the new pixel from 2 x 2 and 4 x 4
    pixels; no low-pass filter is applied first, so reducing by these creates aliasing. The three are the same in torch's
    ``interpolate`` without ``antialias``, except that its area averages whole pixels.
    """
    if image.shape[:2] == size:
        return image
    return with_channels(cv2.resize(image, (size[1], size[0]), interpolation=METHODS[method]))
