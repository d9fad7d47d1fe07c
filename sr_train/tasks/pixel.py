"""PSNR-oriented training of one network with a pixel loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sr_train.batch import Batch, to_float
from sr_train.losses.weighted import loss_and_parts
from sr_train.tasks.base import SRTask


class PixelTask(SRTask):
    """Minimization of a pixel loss between the network's output and HR.

    Args:
        loss: module (sr, hr) -> scalar; sr and hr are [B, C, H, W] each in [0, 1].
        options: arguments of :class:`~sr_train.tasks.base.SRTask`, including ``model``.
    """

    def __init__(self, *, loss: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.loss = loss

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        sr = self.run(to_float(batch["lr"]))
        loss, parts = loss_and_parts(self.loss, sr.float(), to_float(batch.get("target", batch["hr"])))
        return self.note(loss, **parts)
