"""RRDBNet (ESRGAN, Wang et al. 2018, section 3.1): residual in residual dense blocks without batch normalization."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.layers import check_image_channels, scaled_kaiming_

_BETA = 0.2  # residual scaling, within each dense block and again around each RRDB (Fig. 4)

_STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # factors of nearest-neighbor upscaling


class DenseBlock(nn.Module):
    """Residual block of five convolutions: [B, channels, h, w] -> [B, channels, h, w].

    The input of each convolution is all features before this convolution. The last convolution has no activation.
    """

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
        """Return x + 0.2 * conv5(x and the outputs of conv1 to conv4)."""
        if _fits_one_buffer(x):
            return self._in_one_buffer(x)
        x1 = self.lrelu(self.conv1(x))
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.lrelu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.lrelu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5 = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return torch.add(x, x5, alpha=_BETA)

    def _in_one_buffer(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output for one image; features are written next to each other instead of being joined again and again."""
        count, growth = x.shape[1], self.conv1.out_channels
        features = x.new_empty((1, count + 4 * growth, *x.shape[2:]))
        features[:, :count] = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features[:, count : count + growth] = self.lrelu(conv(features[:, :count]))
            count += growth
        return torch.add(x, self.conv5(features), alpha=_BETA)


def _fits_one_buffer(x: torch.Tensor) -> bool:
    """Return true for one fp32 image on a CPU, without gradients, whose channels lie one after the other in memory."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and len(x) == 1 and x.is_contiguous()
    return not traced and plain and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


class RRDB(nn.Module):
    """Residual block x + 0.2 * (three dense blocks of x) (Fig. 4): [B, channels, h, w] -> [B, channels, h, w]."""

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
    """RRDBNet: [B, C, h, w] in [0, 1] -> [B, C, scale * h, scale * w], not clamped. State-dict keys are BasicSR's.

    The paper has scale 4. For scale 2, blocks of 2x2 pixels are first folded into channels; for scale 1, blocks of 4x4
    pixels. The network then upscales by four, as in BasicSR (Real-ESRGAN). So h and w must be multiples of 2 (scale 2)
    or 4 (scale 1). Scale 3 is one step by three and scale 8 is three steps by two, as in the authors' first code.
    Convolutions of the dense blocks are initialized with a tenth of Kaiming's values (supp. 2), the other convolutions
    as in torch. BasicSR does the same; the paper scales all convolutions.

    Args:
        scale: 1, 2, 3, 4 or 8.
        channels: number of features.
        growth: number of features that each convolution of a dense block adds.
        blocks: number of RRDBs; 23 in the paper.
        unshuffle: true to fold pixels into channels for scales 1 and 2. If false, scale 1 has no upscaling step and
            scale 2 has one step, as in the authors' first code and many published weights. There is no effect for other
            scales.
        image_channels: number of channels C of input and output images; 3 for RGB, 1 for gray.
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
                    f"RRDBNet x{self.scale} takes sides that are multiples of {self.multiple_of}, but got {width}x{height}"
                )
            lr = F.pixel_unshuffle(lr, self.multiple_of)
        x = self.conv_first(lr)
        x = x + self.conv_body(self.body(x))
        for i, step in enumerate(self.steps):
            x = F.interpolate(x, scale_factor=step, mode="nearest")
            x = self.lrelu(self.get_submodule(f"conv_up{i + 1}")(x))
        return self.conv_last(self.lrelu(self.conv_hr(x))).float()
