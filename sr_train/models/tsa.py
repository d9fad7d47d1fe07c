"""EDVR's fusion (Wang et al. 2019, section 3.3): Temporal and Spatial Attention (TSA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models.layers import as_images, as_windows, frames_joined, leaky, upscaled


def _pooled(x: torch.Tensor) -> torch.Tensor:
    """Return maximum and mean over windows of 3x3 pixels with stride 2: [B, C, h, w] -> [B, 2 * C, h / 2, w / 2]."""
    return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), 1)


class TSAFusion(nn.Module):
    """Fusion of T frames' aligned features: [B, T, channels, h, w] -> [B, channels, h, w], h and w multiples of 4.

    Args:
        channels: number of features.
        frames: number of frames T in a window.
        center: index of the center frame, with which the other frames are compared.
    """

    def __init__(self, channels: int, *, frames: int, center: int) -> None:
        super().__init__()

        def conv(inputs: int, size: int) -> nn.Conv2d:
            return nn.Conv2d(inputs * channels, channels, size, padding=size // 2)

        self.center = center
        self.temporal_attn1, self.temporal_attn2 = conv(1, 3), conv(1, 3)  # for the center frame, for every frame
        self.feat_fusion = conv(frames, 1)
        self.spatial_attn1, self.spatial_attn2 = conv(frames, 1), conv(2, 1)
        self.spatial_attn3, self.spatial_attn4, self.spatial_attn5 = conv(1, 3), conv(1, 1), conv(1, 3)
        self.spatial_attn_l1, self.spatial_attn_l2, self.spatial_attn_l3 = conv(1, 1), conv(2, 3), conv(1, 3)
        self.spatial_attn_add1, self.spatial_attn_add2 = conv(1, 1), conv(1, 1)

    def forward(self, aligned: torch.Tensor) -> torch.Tensor:
        """Weight frames by their similarity to the center frame (eq. 5, 6), fuse them, and weight pixel positions (eq. 7)."""
        weighed = frames_joined(aligned * self._similarity(aligned).to(aligned.dtype))
        fused = leaky(self.feat_fusion(weighed))
        attention = leaky(self.spatial_attn2(_pooled(leaky(self.spatial_attn1(weighed)))))
        level = leaky(self.spatial_attn_l2(_pooled(leaky(self.spatial_attn_l1(attention)))))
        level = upscaled(leaky(self.spatial_attn_l3(level)))
        attention = leaky(self.spatial_attn4(leaky(self.spatial_attn3(attention)) + level))
        attention = self.spatial_attn5(upscaled(attention))
        add = self.spatial_attn_add2(leaky(self.spatial_attn_add1(attention)))
        return fused * attention.sigmoid() * 2 + add

    def _similarity(self, aligned: torch.Tensor) -> torch.Tensor:
        """Return the similarity of each frame to the center frame: [B, T, C, h, w] -> [B, T, 1, h, w] in (0, 1).

        The sum over channels is in float32.
        """
        reference = self.temporal_attn1(aligned[:, self.center])
        embedded = as_windows(self.temporal_attn2(as_images(aligned)), aligned.shape[0])
        return (embedded * reference.unsqueeze(1)).sum(2, keepdim=True, dtype=torch.float32).sigmoid()
