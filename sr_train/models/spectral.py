"""Convolution with spectral normalization (Miyato et al. 2018). Tensors have the names of ``torch.nn.utils.spectral_norm``."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn


class SpectralConv2d(nn.Module):
    """Convolution whose weight is divided by its largest singular value sigma: [B, C, h, w] -> [B, outputs, h', w'].

    The weight is seen as a matrix with one row per output channel. Two vectors approximate its singular vectors. In
    training mode, each call improves them by one step of power iteration (Miyato et al. 2018, algorithm 1), so the result
    depends on the number of earlier calls. They are buffers, which checkpoints contain. The state dict has ``weight_orig``,
    ``weight_u`` and ``weight_v``, as in files of BasicSR. Under autocast, sigma is computed in float32.

    Args:
        inputs: channels C of the input.
        outputs: channels of the output.
        kernel: side of the kernel.
        stride: stride in both directions.
        padding: zero padding on each side.
        bias: true to add a bias.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel, bias=bias)  # for the initial values
        self.stride, self.padding = stride, padding
        self.weight_orig = conv.weight
        self.bias = nn.Parameter(conv.bias.detach()) if conv.bias is not None else None
        for name, length in (("weight_u", outputs), ("weight_v", inputs * kernel**2)):
            self.register_buffer(name, F.normalize(torch.randn(length), dim=0, eps=1e-12))

    def normalized(self) -> torch.Tensor:
        """Return the weight divided by sigma. In training mode, first make one step of power iteration."""
        matrix = self.weight_orig.flatten(1)
        u, v = self.get_buffer("weight_u"), self.get_buffer("weight_v")
        with torch.no_grad():
            if self.training:
                newer_v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=1e-12)
                newer_u = F.normalize(torch.mv(matrix, newer_v), dim=0, eps=1e-12)
                v.copy_(newer_v)
                u.copy_(newer_u)
            u, v = u.clone(), v.clone()  # for the backward pass; the next call changes the buffers
        return self.weight_orig / torch.dot(u, torch.mv(matrix, v))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of ``x`` with the normalized weight."""
        with (
            nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
        ):  # meta tensors have no autocast
            weight = self.normalized()
        return F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)
