"""SSIM as a loss."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

_WINDOW, _SIGMA = 11, 1.5

_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # ITU-R BT.601, as in sr_train.metrics.color


class SSIMLoss(nn.Module):
    """1 - SSIM (Wang et al. 2004): sr and hr, [B, C, H, W] each in [0, 1] -> scalar, 0 for equal images, at most 2.

    SSIM is that of :func:`sr_train.metrics.functional.ssim` without rounding to 8 bits: an 11x11 Gaussian window with sigma
    1.5 on each channel, only where the window lies inside the image, the mean over pixels, channels and batch. It is
    computed in float32, also under autocast. Zhao et al. 2017 ("Loss Functions for Image Restoration with Neural Networks")
    add it to L1.

    Args:
        color: ``rgb`` for the SSIM of each channel, as in the protocol ``rgb``; ``y`` for the SSIM of luma, as in the
            protocol ``y``. Images with other numbers of channels than 3 are compared by channel in both cases.

    Raises:
        ValueError: images of less than 11x11 pixels.
    """

    def __init__(self, *, color: Literal["rgb", "y"] = "rgb") -> None:
        super().__init__()
        if color not in ("rgb", "y"):
            raise ValueError(f"color={color!r}: expected rgb or y")
        self.color = color
        offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
        kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        if min(sr.shape[-2:]) < _WINDOW:
            raise ValueError(f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels, got {list(sr.shape)}")
        with torch.autocast(sr.device.type, enabled=False):
            a, b = (self._values(image.float()) for image in (sr, hr))
            moments = self._blurred(torch.cat([a, b, a * a, b * b, a * b]))
            mean_a, mean_b, square_a, square_b, product = moments.chunk(5)
            c1, c2 = 0.01**2, 0.03**2
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            variance = square_a - mean_a**2 + square_b - mean_b**2
            structure = (2 * (product - mean_a * mean_b) + c2) / (variance + c2)
            return 1 - (luminance * structure).mean()

    def _values(self, image: torch.Tensor) -> torch.Tensor:
        """Return the values that are compared: the channels, or luma in [16/255, 235/255], [B, 1, H, W]."""
        if self.color == "rgb" or image.shape[1] != 3:
            return image
        return (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) + 16 / 255

    def _blurred(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the Gaussian window to every channel, without padding."""
        kernel = self.get_buffer("kernel").to(x.device)
        flat = x.reshape(-1, 1, *x.shape[-2:])
        flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        return flat.view(*x.shape[:2], *flat.shape[-2:])
