"""EDSR (Lim et al., CVPRW 2017): residual blocks without batch normalization, residual scaling, sub-pixel upsampler."""

from __future__ import annotations

import torch
from torch import nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB, in [0, 1]


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
    """EDSR: [B, 3, h, w] in [0, 1] -> [B, 3, scale * h, scale * w], not clamped. State-dict keys are BasicSR's.

    Inside the network, pixels are in [0, 255] minus the mean of DIV2K, as in the authors' network, so the authors'
    weights can be used.

    Args:
        scale: 2, 3 or 4.
        channels: features F; 256, or 64 for the baseline.
        blocks: residual blocks B; 32, or 16 for the baseline.
        res_scale: residual scaling; 0.1, or 1 for the baseline (section 3.1).
    """

    multiple_of = 1
    mean: torch.Tensor

    def __init__(self, *, scale: int, channels: int = 256, blocks: int = 32, res_scale: float = 0.1) -> None:
        super().__init__()
        if channels < 1 or blocks < 0:
            raise ValueError(f"channels={channels} must be at least 1, blocks={blocks} at least 0")
        self.scale = scale
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels, res_scale) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = upsampler(channels, scale)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        x = self.conv_first((lr - self.mean) * 255.0)
        x = x + self.conv_after_body(self.body(x))
        x = self.conv_last(self.upsample(x))
        return x.float() / 255.0 + self.mean
