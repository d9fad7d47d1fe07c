"""SRResNet (Ledig et al., CVPR 2017, Fig. 4): the generator of SRGAN, as in the paper."""

from __future__ import annotations

import torch
from torch import nn

from sr_train.models.layers import check_image_channels


class ResidualBlock(nn.Module):
    """Residual block x + bn2(conv2(prelu(bn1(conv1(x))))) (Fig. 4): [B, channels, h, w] -> [B, channels, h, w]."""

    checkpoint_unit = True  # recomputed by activation checkpointing
    residual_end = "bn2"  # if it is zero, the block is an identity

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + bn2(conv2(prelu(bn1(conv1(x)))))."""
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class SRResNet(nn.Module):
    """SRResNet: [B, C, h, w] in [0, 1] -> [B, C, scale * h, scale * w] in [0, 1], not clamped.

    The paper's network maps LR in [0, 1] to HR in [-1, 1]. The output is rescaled to [0, 1] here, so losses and metrics
    of all networks have one range. Each PReLU has one slope, and convolutions before BN have a bias; the paper
    specifies neither of these. The network has 1,549,462 parameters for scale 4.

    Args:
        scale: 2, 3 or 4; the paper has only 4. The upsampling steps for scales 2 and 3 are the same as in EDSR.
        channels: number of features; 64 in the paper.
        blocks: number of residual blocks; 16 in the paper.
        image_channels: number of channels C of input and output images; 3 for RGB, 1 for gray.
    """

    multiple_of = 1
    image_convs = (("conv_first.0",), ("conv_last",))

    def __init__(self, *, scale: int = 4, channels: int = 64, blocks: int = 16, image_channels: int = 3) -> None:
        super().__init__()
        check_image_channels(image_channels)
        steps = {2: (2,), 3: (3,), 4: (2, 2)}
        if scale not in steps:
            raise ValueError(f"scale={scale} is not supported; SRResNet supports {', '.join(map(str, steps))}")
        if channels < 1 or blocks < 0:
            raise ValueError(f"channels={channels} must be at least 1, blocks={blocks} at least 0")
        self.scale, self.image_channels = scale, image_channels
        self.conv_first = nn.Sequential(nn.Conv2d(image_channels, channels, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.conv_after_body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        layers: list[nn.Module] = []
        for step in steps[scale]:
            layers += [nn.Conv2d(channels, channels * step**2, 3, padding=1), nn.PixelShuffle(step), nn.PReLU()]
        self.upsample = nn.Sequential(*layers)
        self.conv_last = nn.Conv2d(channels, image_channels, 9, padding=4)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        x = self.conv_first(lr)
        x = x + self.conv_after_body(self.body(x))
        x = self.conv_last(self.upsample(x))
        return (x.float() + 1.0) / 2.0
