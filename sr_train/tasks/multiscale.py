"""Training one network for several scales, one of them a step (MDSR; Lim et al. 2017, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from sr_train.batch import Batch, to_float
from sr_train.losses.weighted import loss_and_parts
from sr_train.models.mdsr import MDSR
from sr_train.tasks.base import OptimizerFactory, SRTask
from sr_train.tasks.curves import Curve


class MultiScaleTask(SRTask):
    """Minimizes a pixel loss at the scale that the loader gives each step.

    The branches of the other scales are not run: their gradients are None, and the optimizer leaves their weights and its own
    state of them as they are. The EMA is of all weights at every step, and so of what the network is at that step.

    Args:
        model: a network that states ``scales``, e.g. :class:`~sr_train.models.mdsr.MDSR`.
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

    uses_all = False

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
        if not hasattr(model, "scales"):
            raise ValueError(f"task=multiscale: {type(model).__name__} has one scale; give task=pixel, or model=mdsr")
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
        self._newest: dict[int, torch.Tensor] = {}  # loss by scale, for the progress display alone

    def evaluated(self, scale: int) -> nn.Module:
        """The branch of ``scale`` of the network that counts."""
        return cast("MDSR", self.averaged()).at(scale)

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
