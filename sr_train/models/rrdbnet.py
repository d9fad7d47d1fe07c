"""RRDBNet (ESRGAN, Wang et al. 2018, section 3.1): residual in residual dense blocks without batch normalization."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.layers import check_image_channels, scaled_kaiming_

_BETA = 0.2  # residual scaling, within each dense block and again around each RRDB (Fig. 4)

_STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # factors of nearest-neighbor upscaling


class DenseBlock(nn.Module):
    """Five convolutions, each on all features before it, the last without activation: [B, channels, h, w] -> the same."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(channels + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(channels + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(channels + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)
        scaled_kaiming_(self, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + 0.2 * conv5 of all features."""
        x1 = self.lrelu(self.conv1(x))
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.lrelu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.lrelu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5 = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return torch.add(x, x5, alpha=_BETA)


class RRDB(nn.Module):
    """Three dense blocks, times 0.2, plus the input (Fig. 4): [B, channels, h, w] -> the same."""

    checkpoint_unit = True  # recomputed by activation checkpointing

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(channels, growth)
        self.rdb2 = DenseBlock(channels, growth)
        self.rdb3 = DenseBlock(channels, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + 0.2 * rdb3(rdb2(rdb1(x)))."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=_BETA)


class RRDBNet(nn.Module):
    """RRDBNet: [B, C, h, w] in [0, 1] -> [B, C, scale h, scale w], not clamped. State-dict keys are BasicSR's.

    The paper has x4. At x2 and x1 2x2 or 4x4 pixels are first folded into channels and then upscaled by four, as in BasicSR
    (Real-ESRGAN), so h and w must be multiples of 2 or 4. x3 is one step by three and x8 is three steps by two, as in the
    authors' first code. Convolutions of the dense blocks are initialized with a tenth of Kaiming's values (supp. 2), the
    others as in torch. BasicSR does the same; the paper scales all of them.

    Args:
        scale: 1, 2, 3, 4 or 8.
        channels: features.
        growth: features that each convolution of a dense block adds.
        blocks: RRDBs; 23 in the paper.
        unshuffle: fold pixels at x1 and x2. If false, x1 has no upscaling step and x2 has one, as in the authors' first
            code and many published weights. It has no effect at other scales.
        image_channels: channels C of input and output images; 3 for RGB, 1 for gray.
    """

    image_convs = (("conv_first",), ("conv_last",))

    def __init__(
        self,
        *,
        scale: int = 4,
        channels: int = 64,
        growth: int = 32,
        blocks: int = 23,
        unshuffle: bool = True,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if scale not in _STEPS:
            raise ValueError(f"scale={scale} is not supported; RRDBNet supports {', '.join(map(str, _STEPS))}")
        if channels < 1 or growth < 1 or blocks < 0:
            raise ValueError(f"channels={channels} and growth={growth} must be at least 1, blocks={blocks} at least 0")
        self.scale, self.image_channels = scale, image_channels
        self.multiple_of = 4 // scale if unshuffle and scale < 3 else 1
        self.steps = _STEPS[scale * self.multiple_of]
        self.conv_first = nn.Conv2d(image_channels * self.multiple_of**2, channels, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(channels, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(channels, channels, 3, padding=1)
        for i in range(len(self.steps)):
            self.add_module(f"conv_up{i + 1}", nn.Conv2d(channels, channels, 3, padding=1))
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, image_channels, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        if self.multiple_of > 1:
            height, width = lr.shape[-2:]
            if height % self.multiple_of or width % self.multiple_of:
                raise ValueError(
                    f"RRDBNet x{self.scale} takes multiples of {self.multiple_of}, but got {width}x{height}"
                )
            lr = F.pixel_unshuffle(lr, self.multiple_of)
        x = self.conv_first(lr)
        x = x + self.conv_body(self.body(x))
        for i, step in enumerate(self.steps):
            x = F.interpolate(x, scale_factor=step, mode="nearest")
            x = self.lrelu(self.get_submodule(f"conv_up{i + 1}")(x))
        return self.conv_last(self.lrelu(self.conv_hr(x))).float()
