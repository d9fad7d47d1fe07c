"""Discriminators of SRGAN, ESRGAN, Real-ESRGAN and pix2pix. Image patches -> logits, positive for real.

SRGAN's and ESRGAN's return one logit per patch, [B, 1], and are built for one patch size, ``size``. The others are
convolutional: they accept any patch size and return a map of logits, [B, 1, h, w].
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.layers import check_image_channels, upscaled
from sr_train.models.spectral import SpectralConv2d

Norm = Literal["batch", "instance", "spectral", "none"]


class Discriminator(Protocol):
    """Contract of a discriminator, ``task.discriminator``. It is an ``nn.Module``.

    ``training/discriminator_check.py`` calls it at the start of a run. Constructor arguments are keyword-only plain values.
    Two of them have a meaning: ``size``, the side of the only patches that it accepts, and ``image_channels``, the number
    of channels of images, which YAML sets to ``${channels}``.
    """

    def __call__(self, image: torch.Tensor, /) -> torch.Tensor:
        """Return logits, positive for real: [B, C, H, W] in [0, 1] -> [B, 1], or [B, 1, h, w] for pixels or regions."""
        ...


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


def _check_patch(image: torch.Tensor, channels: int, name: str) -> None:
    if image.ndim != 4 or image.shape[1] != channels:
        raise ValueError(f"{name} was built for patches [B, {channels}, H, W], but got {list(image.shape)}")


class UNetDiscriminatorSN(nn.Module):
    """Real-ESRGAN's discriminator (Wang et al. 2021, section 3.4): [B, C, H, W] in [0, 1] -> one logit per pixel, [B, 1, H, W].

    The network is a U-Net: three 4x4 convolutions with stride 2 and twice the channels each, then three times bilinear
    upscaling and a 3x3 convolution, whose output is added to the features of the same size. Three 3x3 convolutions
    follow. All convolutions but the first and the last have spectral normalization and no bias. State-dict keys are
    BasicSR's. The network has 4,376,897 parameters. H and W are multiples of 8.

    Args:
        channels: outputs of the first convolution; 64 in the paper.
        skip_connection: false to leave out the sums with the features of the same size.
        image_channels: channels C of the patches; 3 for RGB, 1 for gray.
    """

    def __init__(self, *, channels: int = 64, skip_connection: bool = True, image_channels: int = 3) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if channels < 1:
            raise ValueError(f"discriminator channels={channels} must be at least 1")
        self.skip_connection, self.image_channels = skip_connection, image_channels
        self.conv0 = nn.Conv2d(image_channels, channels, 3, padding=1)
        for i in (1, 2, 3):
            down = SpectralConv2d(channels * 2 ** (i - 1), channels * 2**i, 4, stride=2, padding=1)
            self.add_module(f"conv{i}", down)
        for i in (4, 5, 6):
            self.add_module(f"conv{i}", SpectralConv2d(channels * 2 ** (7 - i), channels * 2 ** (6 - i), 3, padding=1))
        self.conv7 = SpectralConv2d(channels, channels, 3, padding=1)
        self.conv8 = SpectralConv2d(channels, channels, 3, padding=1)
        self.conv9 = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits; see the class for shapes and ranges."""
        _check_patch(image, self.image_channels, "UNetDiscriminatorSN")
        if image.shape[-2] % 8 or image.shape[-1] % 8:
            raise ValueError(
                f"UNetDiscriminatorSN needs patches whose sides are multiples of 8, but got {list(image.shape)}; "
                "the side is scale x data.lr_patch"
            )
        x = F.leaky_relu(self.conv0(image), 0.2)
        skipped: list[torch.Tensor] = []
        for i in (1, 2, 3):
            skipped.append(x)
            x = F.leaky_relu(self.get_submodule(f"conv{i}")(x), 0.2)
        for i in (4, 5, 6):
            x = F.leaky_relu(self.get_submodule(f"conv{i}")(upscaled(x)), 0.2)
            if self.skip_connection:
                x = x + skipped.pop()
        x = F.leaky_relu(self.conv7(x), 0.2)
        x = F.leaky_relu(self.conv8(x), 0.2)
        return self.conv9(x).float()


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 3.2.2): [B, C, H, W] in [0, 1] -> one logit per region, [B, 1, h, w].

    ``layers`` 4x4 convolutions with stride 2 and twice the channels each (at most 8 times) are followed by two with
    stride 1. All but the first and the last have a normalization. LeakyReLU 0.2 follows all but the last. With three
    layers, a logit depends on a region of 70x70 pixels, and h is H / 8 - 2. State-dict keys are those of the authors'
    PyTorch code. The network has 2,765,633 parameters with BatchNorm, and 2,764,737 with InstanceNorm (the authors'
    figures for pix2pix are for 6 channels: 2,768,705). Weights start with torch's default; the authors' have a standard
    deviation of 0.02.

    Args:
        channels: outputs of the first convolution; 64 in the paper.
        layers: number of convolutions with stride 2, 1 to 6. The region is 16, 34, 70, 142, 286 or 574 px wide.
        norm: "batch" as in pix2pix; "instance" as in CycleGAN; "spectral" normalizes the weights of all convolutions
            between the first and the last (:class:`~sr_train.models.spectral.SpectralConv2d`); or "none". Convolutions
            before BatchNorm have no bias.
        image_channels: channels C of the patches; 3 for RGB, 1 for gray.
    """

    def __init__(self, *, channels: int = 64, layers: int = 3, norm: Norm = "batch", image_channels: int = 3) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if channels < 1:
            raise ValueError(f"discriminator channels={channels} must be at least 1")
        if not 1 <= layers <= 6:
            raise ValueError(f"discriminator layers={layers} is not supported; expected 1 to 6, 3 for regions of 70 px")
        self.image_channels, self.smallest = image_channels, 3 * 2**layers
        parts: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, stride=2, padding=1)]
        before = channels
        for i in range(1, layers + 1):
            after = channels * min(2**i, 8)
            parts += [nn.LeakyReLU(0.2), *_normed(before, after, stride=2 if i < layers else 1, norm=norm)]
            before = after
        self.model = nn.Sequential(*parts, nn.LeakyReLU(0.2), nn.Conv2d(before, 1, 4, padding=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits; see the class for shapes and ranges."""
        _check_patch(image, self.image_channels, "PatchDiscriminator")
        if min(image.shape[-2:]) < self.smallest:
            raise ValueError(
                f"PatchDiscriminator needs patches of at least {self.smallest} px, but got {list(image.shape)}; the side is "
                "scale x data.lr_patch; fewer layers accept smaller patches (task.discriminator.layers)"
            )
        return self.model(image).float()


def _normed(inputs: int, outputs: int, *, stride: int, norm: Norm) -> list[nn.Module]:
    """Return a 4x4 convolution and its normalization."""
    if norm == "spectral":
        return [SpectralConv2d(inputs, outputs, 4, stride=stride, padding=1, bias=True)]
    kinds: dict[str, type[nn.Module] | None] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": None}
    if norm not in kinds:
        raise ValueError(f"discriminator norm={norm} is not supported; expected batch, instance, spectral or none")
    kind = kinds[norm]
    conv = nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=norm != "batch")
    return [conv] if kind is None else [conv, kind(outputs)]
