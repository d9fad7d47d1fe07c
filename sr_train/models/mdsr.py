"""MDSR (Lim et al., CVPRW 2017, section 3.3): an EDSR for several scales, with one body, and a head and a tail per scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sr_train.models.edsr import DIV2K_MEAN, ResidualBlock, upsampler


class MDSR(nn.Module):
    """MDSR: ([B, 3, h, w] in [0, 1], scale s) -> [B, 3, s * h, s * w], not clamped.

    Only the branch for scale s is computed: pre-processing, upsampler and last convolution. Parameters of other
    branches get no gradient. Shared layers have EDSR's names, so MDSR can be initialized from an EDSR with the same
    number of channels. Inside the network, pixels are in [0, 255] minus the mean of DIV2K, as in EDSR.

    Args:
        scales: one or more of the scales 2, 3 and 4, each once, e.g. [2, 3, 4].
        channels: number of features (F in the paper); 64 in the paper.
        blocks: number of residual blocks in the body; 80 in the paper, 16 for the baseline.
        shared_tail: true for one last convolution for all scales, as in the authors' PyTorch code; false for one last
            convolution per scale, as in the paper.
    """

    multiple_of = 1
    mean: torch.Tensor

    def __init__(
        self, *, scales: Sequence[int], channels: int = 64, blocks: int = 80, shared_tail: bool = False
    ) -> None:
        super().__init__()
        if not scales or len(set(scales)) < len(scales):
            raise ValueError(f"scales={list(scales)}: expected some of 2, 3 and 4, each once, e.g. [2,3,4]")
        if channels < 1 or blocks < 0:
            raise ValueError(f"channels={channels} must be at least 1, blocks={blocks} at least 0")
        self.scales = tuple(int(s) for s in scales)
        if len(self.scales) == 1:  # the contract of a network with one scale
            self.scale = self.scales[0]
        names = [str(s) for s in self.scales]
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.pre_process = nn.ModuleDict({n: _pre_process(channels) for n in names})
        self.body = nn.Sequential(*(ResidualBlock(channels, 1.0) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.ModuleDict({n: upsampler(channels, int(n)) for n in names})
        if shared_tail:
            self.conv_last: nn.Module = nn.Conv2d(channels, 3, 3, padding=1)
        else:
            self.conv_last = nn.ModuleDict({n: nn.Conv2d(channels, 3, 3, padding=1) for n in names})
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

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
    """One scale of an :class:`MDSR`: [B, 3, h, w] in [0, 1] -> [B, 3, scale * h, scale * w], not clamped."""

    multiple_of = MDSR.multiple_of

    def __init__(self, network: MDSR, scale: int) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.training = network.training

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Super-resolve; see the class for shapes and ranges."""
        return self.network(lr, self.scale)


def _pre_process(channels: int) -> nn.Sequential:
    """Return two residual blocks of 5x5 convolutions, which reduce the differences between scales."""
    return nn.Sequential(*(ResidualBlock(channels, 1.0, kernel=5) for _ in range(2)))
