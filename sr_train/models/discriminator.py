"""Discriminators of SRGAN and ESRGAN. Image patches of a fixed size -> one logit each, positive for real."""

from __future__ import annotations

import torch
from torch import nn

from sr_train.models.layers import check_image_channels


def _check_input(image: torch.Tensor, channels: int, size: int, name: str) -> None:
    if image.ndim != 4 or tuple(image.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"{name} was built for patches [B, {channels}, {size}, {size}], but got {list(image.shape)}; "
            "the discriminator's size must be the size of the HR patch: scale x data.lr_patch"
        )


class SRGANDiscriminator(nn.Module):
    """SRGAN's discriminator (Ledig et al. 2017, section 2.1 and Fig. 4): [B, C, size, size] in [0, 1] -> logits [B, 1].

    The network has eight 3x3 convolutions, alternately with stride 2 and with twice the channels, BN after all
    convolutions but the first, LeakyReLU 0.2, and dense layers of 1024 and 1. The paper's final sigmoid is part of the
    loss. Convolutions before BN have a bias, which the paper does not specify: 23,565,505 parameters at 96 px.

    Args:
        size: side of the HR patch in pixels, a multiple of 16; 96 in the paper.
        channels: outputs of the first convolution; 64 in the paper.
        image_channels: channels C of the patches; 3 for RGB, 1 for gray.
    """

    def __init__(self, *, size: int = 96, channels: int = 64, image_channels: int = 3) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if size < 16 or size % 16:
            raise ValueError(f"discriminator size={size} is not supported; SRGAN's needs a multiple of 16")
        if channels < 1:
            raise ValueError(f"discriminator channels={channels} must be at least 1")
        self.size, self.image_channels = size, image_channels
        layers: list[nn.Module] = [nn.Conv2d(image_channels, channels, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        before = channels
        for after, stride in [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)]:
            conv = nn.Conv2d(before, after * channels, 3, stride=stride, padding=1)
            before = after * channels
            layers += [conv, nn.BatchNorm2d(before), nn.LeakyReLU(0.2, inplace=True)]
        self.features = nn.Sequential(*layers)
        self.linear1 = nn.Linear(before * (size // 16) ** 2, 1024)
        self.linear2 = nn.Linear(1024, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits; see the class for shapes and ranges."""
        _check_input(image, self.image_channels, self.size, "SRGANDiscriminator")
        x = self.features(image).flatten(1)
        return self.linear2(self.lrelu(self.linear1(x))).float()


class VGGStyleDiscriminator(nn.Module):
    """ESRGAN's discriminator: [B, C, size, size] in [0, 1] -> logits [B, 1]. State-dict keys are BasicSR's.

    A stage is a 3x3 convolution and a 4x4 one with stride 2. There are enough stages to leave 4x4 pixels. The first
    convolution has a bias, all others have BN. LeakyReLU 0.2 and dense layers of 100 and 1 follow. The network has 14,499,401
    parameters at 128 px and 21,055,049 at 256 px.

    Args:
        size: side of the HR patch in pixels: 128 or, with a sixth stage, 256 as in BasicSR. 64 and 32, with one and two
            stages fewer, are for small experiments.
        channels: outputs of the first stage; 64 in BasicSR.
        image_channels: channels C of the patches; 3 for RGB, 1 for gray.
    """

    def __init__(self, *, size: int = 128, channels: int = 64, image_channels: int = 3) -> None:
        super().__init__()
        check_image_channels(image_channels)
        stages = {32: 3, 64: 4, 128: 5, 256: 6}
        if size not in stages:
            built = ", ".join(map(str, stages))
            raise ValueError(
                f"discriminator size={size} is not supported; VGGStyleDiscriminator supports sizes {built}"
            )
        if channels < 1:
            raise ValueError(f"discriminator channels={channels} must be at least 1")
        self.size, self.image_channels = size, image_channels
        self.stages = stages[size]
        before = image_channels
        for i in range(self.stages):
            after = channels * min(2**i, 8)
            self.add_module(f"conv{i}_0", nn.Conv2d(before, after, 3, padding=1, bias=i == 0))
            if i > 0:
                self.add_module(f"bn{i}_0", nn.BatchNorm2d(after))
            self.add_module(f"conv{i}_1", nn.Conv2d(after, after, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{i}_1", nn.BatchNorm2d(after))
            before = after
        self.linear1 = nn.Linear(before * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits; see the class for shapes and ranges."""
        _check_input(image, self.image_channels, self.size, "VGGStyleDiscriminator")
        x = image
        for i in range(self.stages):
            x = self.get_submodule(f"conv{i}_0")(x)
            x = self.lrelu(x if i == 0 else self.get_submodule(f"bn{i}_0")(x))
            x = self.lrelu(self.get_submodule(f"bn{i}_1")(self.get_submodule(f"conv{i}_1")(x)))
        return self.linear2(self.lrelu(self.linear1(x.flatten(1)))).float()
