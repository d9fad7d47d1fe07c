"""Training of one network for several scales, one scale per step (MDSR; Lim et al. 2017, section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sr_train.batch import Batch, to_float
from sr_train.losses.weighted import loss_and_parts
from sr_train.models import contract
from sr_train.tasks.base import SRTask


class MultiScaleTask(SRTask):
    """Training of a network for several scales with a pixel loss. The loader chooses the scale of each step.

    Branches for other scales are not computed. The gradients of these branches are None, so the optimizer changes
    neither their weights nor their optimizer state. The EMA averages all weights at every step.

    Args:
        model: network with several scales (attribute ``scales``), e.g. :class:`~sr_train.models.mdsr.MDSR`.
        loss: module (sr, hr) -> scalar; sr and hr are [B, C, H, W] each in [0, 1].
        options: other arguments of :class:`~sr_train.tasks.base.SRTask`.
    """

    uses_all = False

    def __init__(self, *, model: nn.Module, loss: nn.Module, **options: Any) -> None:
        if not contract.branches(model):
            raise ValueError(f"task=multiscale: {type(model).__name__} has one scale; give task=pixel, or model=mdsr")
        super().__init__(model=model, **options)
        self.loss = loss
        self._newest: dict[int, torch.Tensor] = {}  # loss by scale, only for the progress display

    def evaluated(self, scale: int) -> nn.Module:
        """Return one branch of the evaluated network (the EMA, if there is one): the branch for ``scale``."""
        return contract.branch(self.averaged(), scale)

    def progress(self) -> dict[str, torch.Tensor]:
        """Return {``loss xSCALE``: newest loss of this scale} for the progress display."""
        return {f"loss x{scale}": self._newest[scale] for scale in sorted(self._newest)}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch. All images of the batch have the same scale."""
        scale = batch["scale"]
        sr = self.run(to_float(batch["lr"]), scale)
        loss, parts = loss_and_parts(self.loss, sr.float(), to_float(batch.get("target", batch["hr"])))
        self.numbers.clear()  # a log entry holds only the loss of its step's scale, so a resumed run writes the same
        self._newest[scale] = loss.detach()
        return self.note(loss, **{f"{name}_x{scale}": part for name, part in {**parts, "loss": loss}.items()})
