"""EDSR (Lim et al., CVPRW 2017): residual blocks without batch normalization, residual scaling, sub-pixel upsampler."""

from __future__ import annotations

import torch
from torch import nn

from sr_train.models.layers import GRAY, check_image_channels

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB, in [0, 1]


def mean_shift(channels: int) -> tuple[float, ...]:
    """Return the mean of DIV2K for each channel, in [0, 1]. For other numbers than 3 it is the luma of the RGB mean, 0.4368."""
    if channels == 3:
        return DIV2K_MEAN
    return (sum(weight * mean for weight, mean in zip(GRAY, DIV2K_MEAN, strict=True)),) * channels


class ResidualBlock(nn.Module):
    """Residual block x + res_scale * conv2(relu(conv1(x))) (EDSR Fig. 2c): [B, channels, h, w] -> [B, channels, h, w].

    ``kernel`` is the convolutions' size: 3, or 5 in MDSR's pre-processing (section 3.3).
    """

    checkpoint_unit = True  # recomputed by activation checkpointing
    residual_end = "conv2"  # if it is zero, the block is an identity

    def __init__(self, channels: int, res_scale: float, *, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.relu = nn.ReLU(inplace=True)
        self.res_scale = res_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + res_scale * conv2(relu(conv1(x)))."""
        return torch.add(x, self.conv2(self.relu(self.conv1(x))), alpha=self.res_scale)


def upsampler(channels: int, scale: int) -> nn.Sequential:
    """Return a sub-pixel upsampler for scale 2, 3 or 4, without activations (EDSR section 3.2).

    Scales 2 and 3 are one step; scale 4 is two steps by 2.

    [B, channels, h, w] -> [B, channels, scale * h, scale * w].
    """
    steps = {2: (2,), 3: (3,), 4: (2, 2)}
    if scale not in steps:
        raise ValueError(f"scale={scale} is not supported; EDSR's upsampler supports {', '.join(map(str, steps))}")
    layers: list[nn.Module] = []
    for step in steps[scale]:
        layers += [nn.Conv2d(channels, channels * step**2, 3, padding=1), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


class EDSR(nn.Module):
    """EDSR: [B, C, h, w] in [0, 1] -> [B, C, scale * h, scale * w], not clamped. State-dict keys are BasicSR's.

    Inside the network, pixels are in [0, 255] minus the mean of DIV2K, as in the authors' network, so the authors'
    weights can be used.

    Args:
        scale: 2, 3 or 4.
        channels: features F; 256, or 64 for the baseline.
        blocks: residual blocks B; 32, or 16 for the baseline.
        res_scale: residual scaling; 0.1, or 1 for the baseline (section 3.1).
        image_channels: channels C of input and output images; 3 for RGB, 1 for gray.
    """

    multiple_of = 1
    image_convs = (("conv_first",), ("conv_last",))
    mean: torch.Tensor

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 256,
        blocks: int = 32,
        res_scale: float = 0.1,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if channels < 1 or blocks < 0:
            raise ValueError(f"channels={channels} must be at least 1, blocks={blocks} at least 0")
        self.scale, self.image_channels = scale, image_channels
        self.conv_first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels, res_scale) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = upsampler(channels, scale)
        self.conv_last = nn.Conv2d(channels, image_channels, 3, padding=1)
        self.register_buffer("mean", torch.tensor(mean_shift(image_channels)).view(1, -1, 1, 1), persistent=False)

    @staticmethod
    def image_shift(channels: int) -> list[float]:
        """Return the numbers that are subtracted before the first convolution and added after the last, in its range."""
        return [255.0 * mean for mean in mean_shift(channels)]

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        x = self.conv_first((lr - self.mean) * 255.0)
        x = x + self.conv_after_body(self.body(x))
        x = self.conv_last(self.upsample(x))
        return x.float() / 255.0 + self.mean
