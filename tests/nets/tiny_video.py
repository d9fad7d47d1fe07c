"""A video network of EDVR's contract in a dozen lines: [B, T, 3, h, w] -> [B, 3, scale h, scale w], of the center frame."""

import torch
from torch import nn
from torch.nn import functional as F


class TinyVideo(nn.Module):
    multiple_of = 4

    def __init__(self, *, scale: int, frames: int = 5, channels: int = 8, blocks: int = 1, res_scale: float = 1.0):
        super().__init__()
        self.scale, self.frames, self.res_scale = scale, frames, res_scale
        self.first = nn.Conv2d(3 * frames, channels, 3, padding=1)
        self.body = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks)))
        self.last = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        assert lr.ndim == 5
        assert lr.shape[1] == self.frames
        assert lr.shape[3] % 4 == lr.shape[4] % 4 == 0
        center = F.interpolate(lr[:, self.frames // 2], scale_factor=self.scale, mode="nearest")
        out = self.last(F.relu(self.body(self.first(lr.flatten(1, 2)))))
        return center + self.res_scale * F.pixel_shuffle(out, self.scale)
