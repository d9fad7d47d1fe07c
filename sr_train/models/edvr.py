"""EDVR (Wang et al., CVPRW 2019): restores the center frame of a window; deformable convolutions align the frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.contract import Levels
from sr_train.models.deform import Way
from sr_train.models.layers import (
    ResidualBlock,
    as_images,
    as_windows,
    check_image_channels,
    frames_joined,
    leaky,
    scaled_kaiming_,
    upscaled,
)
from sr_train.models.pcd import PCDAlignment
from sr_train.models.tsa import TSAFusion

_LOST = 0.5  # largest normal mean offset, as a share of the maps' shorter side; see EDVR.alarm


def _blocks(channels: int, count: int) -> nn.Sequential:
    """Return residual blocks whose initial weights make them almost an identity, as in the authors' code."""
    body = nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
    scaled_kaiming_(body, 0.1)
    return body


class Predeblur(nn.Module):
    """Module that computes deblurred features of frames on three scales (section 3.1): [N, C, h, w] -> [N, channels, h, w].

    Args:
        channels: number of features.
        hr_in: true if input frames are as large as the output, as in deblurring. Features then are [N, channels, h / 4,
            w / 4].
        image_channels: number of channels C of the frames.
    """

    def __init__(self, channels: int, *, hr_in: bool, image_channels: int = 3) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.hr_in = hr_in
        if hr_in:
            self.stride_conv_hr1 = nn.Conv2d(channels, channels, 3, 2, 1)
            self.stride_conv_hr2 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.stride_conv_l2 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.stride_conv_l3 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.resblock_l3 = ResidualBlock(channels)
        self.resblock_l2_1 = ResidualBlock(channels)
        self.resblock_l2_2 = ResidualBlock(channels)
        self.resblock_l1 = nn.Sequential(*(ResidualBlock(channels) for _ in range(5)))
        for blocks in (self.resblock_l3, self.resblock_l2_1, self.resblock_l2_2, self.resblock_l1):
            scaled_kaiming_(blocks, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the features; see the class for shapes."""
        l1 = leaky(self.conv_first(x))
        if self.hr_in:
            l1 = leaky(self.stride_conv_hr2(leaky(self.stride_conv_hr1(l1))))
        l2 = leaky(self.stride_conv_l2(l1))
        l3 = self.resblock_l3(leaky(self.stride_conv_l3(l2)))
        l2 = self.resblock_l2_2(self.resblock_l2_1(l2) + upscaled(l3))
        l1 = self.resblock_l1[:2](l1) + upscaled(l2)
        return self.resblock_l1[2:](l1)


class EDVR(nn.Module):
    """EDVR: [B, T, C, h, w] in [0, 1] -> the center frame, [B, C, scale * h, scale * w], not clamped.

    State-dict keys are BasicSR's. The network is ``fuse(features(frames), center)``, so the features of a frame can be
    kept for the next window that contains the frame.

    Args:
        scale: 4, or 1 if ``hr_in`` is true.
        channels: number of features; 64 for EDVR-M, 128 for EDVR-L.
        frames: number of frames T in a window, odd: 5, or 7 for Vimeo-90K.
        groups: number of deformable groups.
        front_blocks: number of residual blocks before the alignment.
        back_blocks: number of residual blocks after the fusion: 10 (M), 40 (L), 20 in the second stage of section 4.1.
        tsa: true for temporal and spatial attention (section 3.3); false for one 1x1 convolution instead.
        predeblur: true to deblur the features first, for blurred frames (section 3.1).
        hr_in: true if input frames are as large as the output, as in deblurring and the second stage. Height and width
            of features are then a quarter of the frames' height and width.
        deform: way to compute deformable convolutions: ``auto``, ``torchvision`` or ``sampling``; see ``deform.py``.
        image_channels: number of channels C of the frames; 3 for RGB, 1 for gray.
    """

    reaches_anywhere = True  # the receptive field depends on the offsets

    def __init__(
        self,
        *,
        scale: int = 4,
        channels: int = 64,
        frames: int = 5,
        groups: int = 8,
        front_blocks: int = 5,
        back_blocks: int = 10,
        tsa: bool = True,
        predeblur: bool = False,
        hr_in: bool = False,
        deform: Way = "auto",
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_image_channels(image_channels)
        if scale != (1 if hr_in else 4):
            raise ValueError(f"scale={scale} is not supported; EDVR supports 4, or 1 with model.hr_in=true")
        if frames < 1 or frames % 2 == 0:
            raise ValueError(f"frames={frames} must be odd, e.g. 5 or 7, as the center frame is restored")
        if channels < 1 or front_blocks < 0 or back_blocks < 0:
            raise ValueError(
                f"channels={channels} must be at least 1, front_blocks={front_blocks} and back_blocks={back_blocks} at least 0"
            )
        self.scale, self.frames, self.center = scale, frames, frames // 2
        self.image_channels = image_channels
        self.multiple_of = 16 if hr_in else 4
        self.hr_in, self.predeblurs = hr_in, predeblur
        if predeblur:
            self.predeblur = Predeblur(channels, hr_in=hr_in, image_channels=image_channels)
            self.conv_1x1 = nn.Conv2d(channels, channels, 1)
        elif hr_in:  # the second stage, with the authors' names; BasicSR does not have it
            self.conv_first_1 = nn.Conv2d(image_channels, channels, 3, padding=1)
            self.conv_first_2 = nn.Conv2d(channels, channels, 3, 2, 1)
            self.conv_first_3 = nn.Conv2d(channels, channels, 3, 2, 1)
        else:
            self.conv_first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.feature_extraction = _blocks(channels, front_blocks)
        self.conv_l2_1 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.conv_l2_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_l3_1 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.conv_l3_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.pcd_align = PCDAlignment(channels, groups=groups, way=deform)
        self.fusion: nn.Module = nn.Conv2d(frames * channels, channels, 1)
        if tsa:
            self.fusion = TSAFusion(channels, frames=frames, center=self.center)
        self.reconstruction = _blocks(channels, back_blocks)
        self.upconv1 = nn.Conv2d(channels, channels * 4, 3, padding=1)
        self.upconv2 = nn.Conv2d(channels, 256, 3, padding=1)  # 64 channels from here on, for L too
        self.conv_hr = nn.Conv2d(64, 64, 3, padding=1)
        self.conv_last = nn.Conv2d(64, image_channels, 3, padding=1)

    @property
    def image_convs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the convolutions that take images, and of those that give images."""
        plain = "conv_first_1" if self.hr_in else "conv_first"
        return ("predeblur.conv_first" if self.predeblurs else plain,), ("conv_last",)

    @property
    def joins_frames(self) -> tuple[str, ...]:
        """Names of the convolutions whose input channels are the features of all frames, in the order of frames."""
        tsa = isinstance(self.fusion, TSAFusion)
        return ("fusion.feat_fusion", "fusion.spatial_attn1") if tsa else ("fusion",)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Restore the center frame; see the class for shapes and ranges."""
        if lr.dim() != 5 or lr.shape[1] != self.frames:
            raise ValueError(f"EDVR takes [B, {self.frames}, {self.image_channels}, h, w], but got {list(lr.shape)}")
        levels = self.features(as_images(lr))
        return self.fuse({k: as_windows(x, lr.shape[0]) for k, x in levels.items()}, lr[:, self.center])

    def features(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return features of single frames [N, C, h, w] on three levels: {"l1": ..., "l2": ..., "l3": ...}.

        Level l1 is [N, channels, h, w], or [N, channels, h / 4, w / 4] if ``hr_in`` is true. Each next level has half
        the height and width.
        """
        height, width = frames.shape[-2:]
        if height % self.multiple_of or width % self.multiple_of:
            raise ValueError(f"EDVR takes sides that are multiples of {self.multiple_of}, but got {width}x{height}")
        if self.predeblurs:
            x = self.conv_1x1(self.predeblur(frames))
        elif self.hr_in:
            x = leaky(self.conv_first_2(leaky(self.conv_first_1(frames))))
            x = leaky(self.conv_first_3(x))
        else:
            x = leaky(self.conv_first(frames))
        l1 = self.feature_extraction(x)
        l2 = leaky(self.conv_l2_2(leaky(self.conv_l2_1(l1))))
        l3 = leaky(self.conv_l3_2(leaky(self.conv_l3_1(l2))))
        return {"l1": l1, "l2": l2, "l3": l3}

    def fuse(self, levels: Levels, center: torch.Tensor) -> torch.Tensor:
        """Restore the center frame of each window.

        ``levels`` is {level: features of all frames [B, T, channels, h', w']}. ``center`` is the center frame, [B, C,
        h, w].
        """
        aligned = self.pcd_align(levels, self.center)
        x = self.fusion(aligned if isinstance(self.fusion, TSAFusion) else frames_joined(aligned))
        x = self.reconstruction(x)
        x = leaky(F.pixel_shuffle(self.upconv1(x), 2))
        x = leaky(F.pixel_shuffle(self.upconv2(x), 2))
        x = self.conv_last(leaky(self.conv_hr(x)))
        return x.float() + (center if self.hr_in else upscaled(center, 4)).float()

    def numbers(self) -> dict[str, torch.Tensor]:
        """Return the mean absolute offset of the alignment at each level, in pixels of the level, for the newest step."""
        convs = self.pcd_align.deformable().items()
        return {f"offset_{level}": conv.mean_offset for level, conv in convs if conv.mean_offset is not None}

    def alarm(self) -> str | None:
        """Return a warning if the mean offset of the alignment is too large, else ``None``.

        This method waits for the device. The limit is half of a map's shorter side. This limit is the same motion on
        every level: 32 LR pixels in patches of 64. BasicSR warns at 50 pixels on all levels. If offsets along one axis
        are as large as the limit, half of all taps read zeros outside the image. Offsets of these taps get no gradient
        that could correct them.
        """
        for level, conv in self.pcd_align.deformable().items():
            mean = 0.0 if conv.mean_offset is None else float(conv.mean_offset)
            if not mean <= _LOST * conv.side:
                return (
                    f"the offsets of the alignment have exploded: {mean:.1f} px on average at level {level}, in maps whose "
                    f"shorter side is {conv.side}; most features are read from outside the image. What usually helps: "
                    "continue from an earlier checkpoint with a lower learning rate for the alignment "
                    "(task.rate_scale={*dcn*:0.1}) or for everything (task.rate), with trainer.gradient_clip_val=1, with a "
                    "longer stage without TSA, or with a network grown from a smaller trained one (init.grow)"
                )
        return None
