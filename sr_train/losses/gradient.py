"""Loss of image gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class GradientLoss(nn.Module):
    """Mean absolute difference of gradient magnitudes (SPSR, Ma et al. 2020, eqs. 1 and 5): sr and hr, [B, C, H, W] -> scalar.

    The magnitude of a pixel is M = sqrt(x^2 + y^2 + eps) of the differences between its right and left neighbors, x, and
    its lower and upper neighbors, y, for each channel; pixels outside the image are 0, as in the authors' code. The loss is
    the mean of |M(sr) - M(hr)|, computed in float32. It makes edges as strong as those of HR.

    Args:
        eps: keeps the gradient finite where an image is constant; 1e-6 in the authors' code.
    """

    def __init__(self, *, eps: float = 1e-6) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps={eps}: expected a positive number")
        self.eps = eps

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        return (self._magnitude(sr.float()) - self._magnitude(hr.float())).abs().mean()

    def _magnitude(self, image: torch.Tensor) -> torch.Tensor:
        padded = F.pad(image, (1, 1, 1, 1))
        x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        return torch.sqrt(x**2 + y**2 + self.eps)
