"""Training one network for several scales, one of them a step (MDSR; Lim et al. 2017, section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sr_train.batch import Batch, to_float
from sr_train.losses.weighted import loss_and_parts
from sr_train.models import contract
from sr_train.tasks.base import SRTask


class MultiScaleTask(SRTask):
    """Minimizes a pixel loss at the scale that the loader gives each step.

    The branches of the other scales are not run: their gradients are None, and the optimizer leaves their weights and its own
    state of them as they are. The EMA is of all weights at every step, and so of what the network is at that step.

    Args:
        model: a network that states ``scales``, e.g. :class:`~sr_train.models.mdsr.MDSR`.
        loss: (sr, hr), both [B, C, H, W] in [0, 1] -> scalar.
        options: the others of :class:`~sr_train.tasks.base.SRTask`.
    """

    uses_all = False

    def __init__(self, *, model: nn.Module, loss: nn.Module, **options: Any) -> None:
        if not contract.branches(model):
            raise ValueError(f"task=multiscale: {type(model).__name__} has one scale; give task=pixel, or model=mdsr")
        super().__init__(model=model, **options)
        self.loss = loss
        self._newest: dict[int, torch.Tensor] = {}  # loss by scale, for the progress display alone

    def evaluated(self, scale: int) -> nn.Module:
        """The branch of ``scale`` of the network that counts."""
        return contract.branch(self.averaged(), scale)

    def progress(self) -> dict[str, torch.Tensor]:
        """The newest loss of each scale."""
        return {f"loss x{scale}": self._newest[scale] for scale in sorted(self._newest)}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One step: the loss of a batch, all of one scale."""
        scale = batch["scale"]
        sr = self.model(to_float(batch["lr"]), scale)
        loss, parts = loss_and_parts(self.loss, sr.float(), to_float(batch["hr"]))
        self.numbers.clear()  # a row holds the loss of its own step's scale and of no other: a resumed run writes the same
        self._newest[scale] = loss.detach()
        return self.note(loss, **{f"{name}_x{scale}": part for name, part in {**parts, "loss": loss}.items()})
