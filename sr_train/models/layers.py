"""What several networks share."""

from __future__ import annotations

import torch
from torch import nn


def scaled_kaiming_(module: nn.Module, factor: float) -> None:
    """Kaiming normal (fan in) times ``factor`` and zero bias on every convolution below ``module`` (ESRGAN supp. 2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            with torch.no_grad():
                layer.weight.mul_(factor)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
