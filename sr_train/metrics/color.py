"""Luma and gray values of RGB images, as in MATLAB.

Luma is computed as in ``rgb2ycbcr`` (ITU-R BT.601, studio range 16 to 235), gray as in ``rgb2gray`` (0 to 255). OpenCV
is not used, because its luma has the full range of JPEG.
"""

from __future__ import annotations

import torch

_LUMA = (65.481, 128.553, 24.966)

_GRAY = (0.298936021293775, 0.587043074451121, 0.114020904255103)  # first row of the inverse of NTSC's YIQ matrix


def luma(image: torch.Tensor, *, rounded: bool = False) -> torch.Tensor:
    """Return luma (Y) of RGB pixels: [..., 3, H, W] with values in [0, 255] -> [..., 1, H, W] float64 in [16, 235].

    If ``rounded`` is true, the values are rounded (half up) to integers, as MATLAB does for uint8 images.
    """
    if image.shape[-3] != 3:
        raise ValueError(f"luma needs RGB, [..., 3, H, W], but got {tuple(image.shape)}")
    red, green, blue = torch.split(image.double(), 1, dim=-3)
    y = 16 + (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue) / 255
    return torch.floor(y + 0.5) if rounded else y


def gray(image: torch.Tensor) -> torch.Tensor:
    """Return gray values of RGB pixels, rounded to integers, as MATLAB's ``rgb2gray`` does for uint8 images.

    [..., 3, H, W] in [0, 255] -> [..., 1, H, W] float64. If the three channels are equal, their value is returned
    unchanged.
    """
    if image.shape[-3] != 3:
        raise ValueError(f"gray needs RGB, [..., 3, H, W], but got {tuple(image.shape)}")
    red, green, blue = torch.split(image.double(), 1, dim=-3)
    return torch.floor(_GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue + 0.5)
