"""MSRResNet: a modified SRResNet, which ESRGAN's authors and BasicSR train instead of SRResNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.layers import ResidualBlock, check_image_channels, scaled_kaiming_


class MSRResNet(nn.Module):
    """MSRResNet: [B, C, h, w] in [0, 1] -> [B, C, scale * h, scale * w], not clamped. State-dict keys are BasicSR's.

    The network has no BN and no skip around the body. The output is added to the bilinearly upscaled input.

    Args:
        scale: 2, 3 or 4.
        channels: number of features.
        blocks: number of residual blocks.
        image_channels: number of channels C of input and output images; 3 for RGB, 1 for gray.
    """

    multiple_of = 1
    image_convs = (("conv_first",), ("conv_last",))

    def __init__(self, *, scale: int = 4, channels: int = 64, blocks: int = 16, image_channels: int = 3) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if scale not in (2, 3, 4):
            raise ValueError(f"scale={scale} is not supported; MSRResNet supports 2, 3, 4")
        if channels < 1 or blocks < 0:
            raise ValueError(f"channels={channels} must be at least 1, blocks={blocks} at least 0")
        self.scale, self.image_channels = scale, image_channels
        step = 3 if scale == 3 else 2
        self.conv_first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.upconv1 = nn.Conv2d(channels, channels * step**2, 3, padding=1)
        self.upconv2 = nn.Conv2d(channels, channels * step**2, 3, padding=1) if scale == 4 else None
        self.pixel_shuffle = nn.PixelShuffle(step)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, image_channels, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)
        scaled_kaiming_(self, 0.1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        x = self.body(self.lrelu(self.conv_first(lr)))
        x = self.lrelu(self.pixel_shuffle(self.upconv1(x)))
        if self.upconv2 is not None:
            x = self.lrelu(self.pixel_shuffle(self.upconv2(x)))
        x = self.conv_last(self.lrelu(self.conv_hr(x)))
        return x.float() + F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
