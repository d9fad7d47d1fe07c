"""Perceptual loss: a distance between features of a fixed network (SRGAN section 2.2.1, ESRGAN section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.batch import Extractor


class PerceptualLoss(nn.Module):
    """Weighted sum over layers of the mean distance of features: sr and hr, [B, 1 or 3, H, W] each in [0, 1] -> scalar.

    Features of HR get no gradients. Distances are computed in float32.

    Args:
        extractor: module that computes the features.
        layers: {layer: weight}; the extractor must have all these layers. Layers with the weight ``None`` are left out.
        criterion: ``l1``, the mean absolute difference (ESRGAN's code), or ``l2``, the mean of squares (SRGAN).
    """

    def __init__(
        self, *, extractor: Extractor, layers: Mapping[str, float | None], criterion: Literal["l1", "l2"] = "l1"
    ) -> None:
        super().__init__()
        if criterion not in ("l1", "l2"):
            raise ValueError(f"criterion={criterion!r}: expected l1 or l2")
        weights = {name: weight for name, weight in layers.items() if weight is not None}
        missing = [name for name in weights if name not in extractor.channels]
        if missing or not weights:
            raise ValueError(
                f"layers={list(weights)}: the extractor has {', '.join(extractor.channels)}; choose from these"
            )
        self.extractor = extractor
        self.layers = weights
        self.criterion = criterion

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        with torch.no_grad():
            targets = self.extractor(hr)
        features = self.extractor(sr)
        distance = F.l1_loss if self.criterion == "l1" else F.mse_loss
        parts = [w * distance(features[name].float(), targets[name].float()) for name, w in self.layers.items()]
        return torch.stack(parts).sum()
