"""EDVR's alignment (Wang et al. 2019, section 3.2): Pyramid, Cascading and Deformable convolutions (PCD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.deform import DeformableConv, Way
from sr_train.models.layers import as_images, as_windows, leaky, upscaled


def _with_reference(conv: nn.Conv2d, own: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Apply ``conv`` to the features of each frame, joined with the features of the reference frame (center of the window).

    own [B * T, C, h, w], reference [B, C, h, w] -> [B * T, C, h, w]. The reference's part is the same for all frames of
    a window, so it is computed once.
    """
    of_own, of_reference = torch.split(conv.weight, own.shape[1], dim=1)
    common = F.conv2d(reference, of_reference, conv.bias, padding=1)
    x = F.conv2d(own, of_own, padding=1)
    return as_images(as_windows(x, reference.shape[0]).add_(common.unsqueeze(1)))


class PCDAlignment(nn.Module):
    """Alignment of all frames' features with the center frame's features. All frames are computed at once.

    Args:
        channels: number of features.
        groups: number of deformable groups.
        way: way to compute deformable convolutions, see :mod:`sr_train.models.deform`.
    """

    def __init__(self, channels: int, *, groups: int = 8, way: Way = "auto") -> None:
        super().__init__()

        def convs(inputs: int, levels: Sequence[str]) -> nn.ModuleDict:
            return nn.ModuleDict({level: nn.Conv2d(inputs * channels, channels, 3, padding=1) for level in levels})

        self.offset_conv1 = convs(2, ("l3", "l2", "l1"))
        self.offset_conv2 = convs(2, ("l2", "l1"))
        self.offset_conv2["l3"] = nn.Conv2d(channels, channels, 3, padding=1)
        self.offset_conv3 = convs(1, ("l2", "l1"))
        self.dcn_pack = nn.ModuleDict({x: DeformableConv(channels, groups=groups, way=way) for x in ("l3", "l2", "l1")})
        self.feat_conv = convs(2, ("l2", "l1"))
        self.cas_offset_conv1 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.cas_offset_conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.cas_dcnpack = DeformableConv(channels, groups=groups, way=way)

    def forward(self, levels: Mapping[str, torch.Tensor], center: int) -> torch.Tensor:
        """Align levels l1 to l3, [B, T, C, h / 2^i, w / 2^i], with the frame ``center`` -> [B, T, C, h, w]."""
        batch = levels["l1"].shape[0]
        reference = {level: x[:, center] for level, x in levels.items()}
        own = {level: as_images(x) for level, x in levels.items()}
        offset = found = None
        for level in ("l3", "l2", "l1"):
            last = offset
            offset = leaky(_with_reference(self._conv("offset_conv1", level), own[level], reference[level]))
            if last is None:
                offset = leaky(self.offset_conv2[level](offset))
            else:  # offsets in pixels double with the resolution
                offset = leaky(self.offset_conv2[level](torch.cat((offset, upscaled(last * 2)), 1)))
                offset = leaky(self.offset_conv3[level](offset))
            moved = self.dcn_pack[level](own[level], offset)
            found = leaky(moved) if found is None else self.feat_conv[level](torch.cat((moved, upscaled(found)), 1))
            found = leaky(found) if level == "l2" else found
        assert found is not None
        offset = leaky(_with_reference(self.cas_offset_conv1, found, reference["l1"]))
        offset = leaky(self.cas_offset_conv2(offset))
        return as_windows(leaky(self.cas_dcnpack(found, offset)), batch)

    def _conv(self, name: str, level: str) -> nn.Conv2d:
        conv = self.get_submodule(f"{name}.{level}")
        assert isinstance(conv, nn.Conv2d)
        return conv

    def deformable(self) -> dict[str, DeformableConv]:
        """Return {level: deformable convolution that aligns this level} for the levels l1, l2, l3 and ``cascade``."""
        convs = {level: self.get_submodule(f"dcn_pack.{level}") for level in ("l1", "l2", "l3")}
        return {k: m for k, m in {**convs, "cascade": self.cas_dcnpack}.items() if isinstance(m, DeformableConv)}
