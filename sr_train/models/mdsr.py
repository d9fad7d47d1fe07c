"""MDSR (Lim et al., CVPRW 2017, section 3.3): an EDSR for several scales, with one body, and a head and a tail per scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sr_train.models.edsr import EDSR, ResidualBlock, mean_shift, upsampler
from sr_train.models.layers import check_image_channels


class MDSR(nn.Module):
    """MDSR: ([B, C, h, w] in [0, 1], scale s) -> [B, C, s * h, s * w], not clamped.

    Only the branch for scale s is computed: pre-processing, upsampler and last convolution. Parameters of other
    branches get no gradient. Shared layers have EDSR's names, so MDSR can be initialized from an EDSR with the same
    number of channels. Inside the network, pixels are in [0, 255] minus the mean of DIV2K, as in EDSR.

    Args:
        scales: one or more of the scales 2, 3 and 4, each once, e.g. [2, 3, 4].
        channels: number of features (F in the paper); 64 in the paper.
        blocks: number of residual blocks in the body; 80 in the paper, 16 for the baseline.
        shared_tail: true for one last convolution for all scales, as in the authors' PyTorch code; false for one last
            convolution per scale, as in the paper.
        image_channels: number of channels C of input and output images; 3 for RGB, 1 for gray.
    """

    multiple_of = 1
    image_shift = staticmethod(EDSR.image_shift)
    mean: torch.Tensor

    def __init__(
        self,
        *,
        scales: Sequence[int],
        channels: int = 64,
        blocks: int = 80,
        shared_tail: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if not scales or len(set(scales)) < len(scales):
            raise ValueError(f"scales={list(scales)}: expected some of 2, 3 and 4, each once, e.g. [2,3,4]")
        if channels < 1 or blocks < 0:
            raise ValueError(f"channels={channels} must be at least 1, blocks={blocks} at least 0")
        self.scales = tuple(int(s) for s in scales)
        if len(self.scales) == 1:  # the contract of a network with one scale
            self.scale = self.scales[0]
        self.image_channels = image_channels
        names = [str(s) for s in self.scales]
        self.conv_first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.pre_process = nn.ModuleDict({n: _pre_process(channels) for n in names})
        self.body = nn.Sequential(*(ResidualBlock(channels, 1.0) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.ModuleDict({n: upsampler(channels, int(n)) for n in names})
        if shared_tail:
            self.conv_last: nn.Module = nn.Conv2d(channels, image_channels, 3, padding=1)
        else:
            self.conv_last = nn.ModuleDict({n: nn.Conv2d(channels, image_channels, 3, padding=1) for n in names})
        self.register_buffer("mean", torch.tensor(mean_shift(image_channels)).view(1, -1, 1, 1), persistent=False)

    @property
    def image_convs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the convolutions that take images, and of those that give images."""
        shared = not isinstance(self.conv_last, nn.ModuleDict)
        return ("conv_first",), ("conv_last",) if shared else tuple(f"conv_last.{s}" for s in self.scales)

    def forward(self, lr: torch.Tensor, scale: int | None = None) -> torch.Tensor:
        """Super-resolve with one branch.

        ``scale`` may be omitted if the network has one scale. See the class for shapes.
        """
        name = self._branch(scale)
        x = self.pre_process[name](self.conv_first((lr - self.mean) * 255.0))
        x = x + self.conv_after_body(self.body(x))
        last = self.conv_last[name] if isinstance(self.conv_last, nn.ModuleDict) else self.conv_last
        x = last(self.upsample[name](x))
        return x.float() / 255.0 + self.mean

    def _branch(self, scale: int | None) -> str:
        if scale is None and len(self.scales) == 1:
            return str(self.scales[0])
        if scale not in self.scales:
            raise ValueError(f"scale={scale}: this MDSR has branches for {', '.join(map(str, self.scales))}")
        return str(scale)

    def at(self, scale: int) -> Branch:
        """Return one branch as a network with one scale. The branch shares its weights with this network."""
        return Branch(self, int(self._branch(scale)))


class Branch(nn.Module):
    """One scale of an :class:`MDSR`: [B, C, h, w] in [0, 1] -> [B, C, scale * h, scale * w], not clamped."""

    multiple_of = MDSR.multiple_of

    def __init__(self, network: MDSR, scale: int) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.image_channels = network.image_channels
        self.training = network.training

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        return self.network(lr, self.scale)


def _pre_process(channels: int) -> nn.Sequential:
    """Return two residual blocks of 5x5 convolutions, which reduce the differences between scales."""
    return nn.Sequential(*(ResidualBlock(channels, 1.0, kernel=5) for _ in range(2)))
