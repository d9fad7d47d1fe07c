"""Pixel losses that torch lacks. For L1 and MSE use ``torch.nn.L1Loss`` and ``torch.nn.MSELoss``."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


class CharbonnierLoss(nn.Module):
    """Charbonnier loss, a smooth L1 (Lai et al. 2017; EDVR): sr and hr, [B, C, H, W] each -> scalar.

    The loss is sqrt(d^2 + eps^2) of the difference d = sr - hr, reduced to a scalar.

    Args:
        eps: the eps of the formula; 1e-3 in EDVR's paper. BasicSR adds 1e-12 under the root, which is practically L1.
        reduction: ``mean`` for the mean over all values, or ``sum`` for the sum over C, H, W and the mean over the
            batch. EDVR uses a sum; the mean over the batch makes the gradient independent of the number of devices.
    """

    def __init__(self, *, eps: float = 1e-3, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction={reduction!r}: expected mean or sum")
        self.eps = eps
        self.reduction = reduction

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        distance = torch.sqrt((sr - hr) ** 2 + self.eps**2)
        return distance.mean() if self.reduction == "mean" else distance.sum() / len(sr)
