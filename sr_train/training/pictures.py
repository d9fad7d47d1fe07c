"""Pictures of validation images: LR | bicubic | SR | HR."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sr_train.batch import to_float
from sr_train.data.dataset import EvalImage
from sr_train.metrics.functional import quantize
from sr_train.models.bicubic import Bicubic

_REACH = 4  # LR pixels around a window that bicubic reads, at least


def comparison(image: EvalImage, sr: torch.Tensor, crop: int) -> NDArray[np.uint8]:
    """Return a picture of an image's middle: LR (pixels repeated) | bicubic | SR | HR, [crop, 4 * crop + gaps, 3] uint8.

    For a window of video, the center frame is shown. An image without HR has three parts. Gray is repeated, and only the
    first three of more channels are shown.
    """
    scale, (height, width) = image.scale, image.size
    side = min(crop, height, width)
    top, left = (height - side) // 2 // scale * scale, (width - side) // 2 // scale * scale
    # Only the LR pixels around the window are upscaled: the whole image may be large.
    y, x = max(0, top // scale - _REACH), max(0, left // scale - _REACH)
    reach = -(-side // scale) + 2 * _REACH
    lr = to_float(image.center[:, y : top // scale + reach, x : left // scale + reach]).unsqueeze(0)
    repeated = lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)[0]
    low = [part[:, top - y * scale :, left - x * scale :] for part in (repeated, Bicubic(scale=scale)(lr)[0])]
    high = [part[:, top:, left:] for part in (sr, image.hr) if part is not None]
    parts = [quantize(part[:3, :side, :side].cpu()) for part in (*low, *high)]
    gap = torch.full((3, side, 4), 255.0, dtype=torch.float64)
    row = torch.cat([x for part in parts for x in (part.expand(3, -1, -1), gap)][:-1], dim=-1)
    return row.permute(1, 2, 0).to(torch.uint8).numpy()
