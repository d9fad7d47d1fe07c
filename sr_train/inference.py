"""Running a network on whole images: padding to what it can take."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.batch import to_float


@torch.inference_mode()
def super_resolve(model: nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """One image through a network, in fp32: [C, h, w] uint8, or float in [0, 1] -> [C, scale h, scale w] in [0, 1].

    Sizes that the network cannot take (``model.multiple_of``) are padded by mirroring at the right and bottom, and the
    result is cut back.
    """
    scale, multiple = int(getattr(model, "scale")), int(getattr(model, "multiple_of"))  # noqa: B009 - any nn.Module
    height, width = lr.shape[-2:]
    x = to_float(lr).unsqueeze(0)
    down, right = -height % multiple, -width % multiple
    if down or right:
        mode = "reflect" if down < height and right < width else "replicate"
        x = F.pad(x, (0, right, 0, down), mode=mode)
    with torch.autocast(x.device.type, enabled=False):
        sr = model(x)
    return sr[0, :, : height * scale, : width * scale].clamp(0, 1)
