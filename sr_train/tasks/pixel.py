"""PSNR-oriented training: one network, one pixel loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sr_train.batch import Batch, to_float
from sr_train.losses.weighted import loss_and_parts
from sr_train.tasks.base import OptimizerFactory, SRTask
from sr_train.tasks.curves import Curve


class PixelTask(SRTask):
    """Minimizes a pixel loss between the network's output and HR.

    Args:
        model: the network.
        loss: (sr, hr), both [B, C, H, W] in [0, 1] -> scalar.
        optimizer: called with (parameter groups, lr=rate).
        rate: base learning rate.
        curve: factor of the rate by step.
        ema: decay of the average that is evaluated and exported; ``None`` for none.
        protocols: of validation.
        patience: refused steps in a row before the run gives up.
        compile: through ``torch.compile``.
        recompute: activation checkpointing.
        trainable: globs on names of parameters; the others are frozen.
        rate_scale: glob -> factor of the rate.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        optimizer: OptimizerFactory,
        rate: float,
        curve: Curve,
        ema: float | None = 0.999,
        protocols: Sequence[str] = ("y", "rgb"),
        patience: int = 10,
        compile: bool = False,
        recompute: bool = False,
        trainable: Sequence[str] = ("*",),
        rate_scale: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            rate=rate,
            curve=curve,
            ema=ema,
            protocols=protocols,
            patience=patience,
            compile=compile,
            recompute=recompute,
            trainable=trainable,
            rate_scale=rate_scale,
        )
        self.loss = loss

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One step: the loss of a batch."""
        sr = self.model(to_float(batch["lr"]))
        loss, parts = loss_and_parts(self.loss, sr.float(), to_float(batch["hr"]))
        return self.note(loss, **parts)
