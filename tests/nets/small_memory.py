"""A network on a machine whose memory is small: images above some size are refused as torch refuses them."""

import torch
from torch import nn
from torch.nn import functional as F

REFUSALS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 8589934592 bytes"
    ),
    "python": MemoryError(),
}


class SmallMemory(nn.Module):
    multiple_of = 1

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 8,
        blocks: int = 1,
        res_scale: float = 1.0,
        hundreds: int = 9999,
        refusal: str = "cpu",
    ) -> None:
        super().__init__()
        self.scale, self.pixels, self.refusal, self.res_scale = scale, 100 * hundreds, refusal, res_scale
        self.body = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(blocks)))
        self.last = nn.Conv2d(3, 3 * scale**2, 3, padding=1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if not lr.is_meta and lr.shape[-2] * lr.shape[-1] > self.pixels:
            raise REFUSALS[self.refusal]
        up = F.interpolate(lr, scale_factor=self.scale, mode="nearest")
        return up + 0.1 * F.pixel_shuffle(self.last(F.relu(self.body(lr))), self.scale)
