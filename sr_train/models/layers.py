"""Layers and functions that several networks use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

#: luma of RGB (ITU-R BT.601, full range), the weights of sr_train.data.images.to_channels
GRAY = (0.299, 0.587, 0.114)


def check_image_channels(image_channels: int) -> None:
    """Raise ValueError unless a number of image channels is at least 1."""
    if image_channels < 1:
        raise ValueError(f"image_channels={image_channels} must be at least 1: 3 for RGB, 1 for gray images")


def scaled_kaiming_(module: nn.Module, factor: float) -> None:
    """Initialize all convolutions in ``module``: Kaiming normal (fan in) times ``factor``, biases 0 (ESRGAN supp. 2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            with torch.no_grad():
                layer.weight.mul_(factor)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """Residual block x + conv2(relu(conv1(x))) of MSRResNet and EDVR: [B, channels, h, w] -> [B, channels, h, w]."""

    checkpoint_unit = True  # recomputed by activation checkpointing
    residual_end = "conv2"  # if it is zero, the block is an identity

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + conv2(relu(conv1(x)))."""
        return x + self.conv2(self.relu(self.conv1(x)))


def leaky(x: torch.Tensor) -> torch.Tensor:
    """Apply leaky ReLU with slope 0.1 to ``x`` in place, and return ``x``."""
    return F.leaky_relu_(x, 0.1)


def upscaled(x: torch.Tensor, factor: int = 2) -> torch.Tensor:
    """Upscale bilinearly: [B, C, h, w] -> [B, C, factor * h, factor * w]."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def frames_joined(x: torch.Tensor) -> torch.Tensor:
    """Join the frames' channels: [B, T, C, h, w] -> [B, T * C, h, w] in channels-last memory."""
    return x.permute(0, 3, 4, 1, 2).flatten(3).permute(0, 3, 1, 2)


def as_images(x: torch.Tensor) -> torch.Tensor:
    """Join windows and frames: [B, T, C, h, w] -> [B T, C, h, w]. All sizes may change after tracing."""
    return x.reshape(-1, *x.shape[2:])


def as_windows(x: torch.Tensor, batch: int) -> torch.Tensor:
    """Split images into windows: [B T, C, h, w] -> [B, T, C, h, w]. All sizes may change after tracing."""
    return x.reshape(batch, -1, *x.shape[1:])
