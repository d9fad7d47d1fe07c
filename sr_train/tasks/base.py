"""What every training task shares: the network and its EMA, the rate, evaluation. One call of training_step is one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sr_train.batch import Batch
from sr_train.data.dataset import EvalImage
from sr_train.inference import super_resolve
from sr_train.metrics.meter import Meter
from sr_train.metrics.protocol import get_protocols, score
from sr_train.tasks.optim import Curve

OptimizerFactory = Callable[..., torch.optim.Optimizer]


def ema_update(decay: float) -> Callable[..., None]:
    """Averaging for ``AveragedModel``: decay warmed up as min(decay, (1 + t) / (10 + t)), t updates so far.

    Without the warm-up a network of a few hundred steps is scored by an average that is mostly its random start.
    """

    @torch.no_grad()
    def update(averages: Sequence[torch.Tensor], currents: Sequence[torch.Tensor], updates: torch.Tensor | int) -> None:
        t = int(updates)
        weight = 1 - min(decay, (1 + t) / (10 + t))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current.to(average.dtype), weight)
            else:  # BatchNorm's counter
                average.copy_(current)

    return update


class SRTask(L.LightningModule):
    """Base of all tasks. Subclasses write ``training_step``.

    Args:
        model: the network; states ``scale`` and ``multiple_of``.
        optimizer: called with (parameter groups, lr=rate).
        rate: base learning rate.
        curve: factor of the rate by step.
        ema: decay of the exponential moving average that is evaluated and exported; ``None`` turns it off.
        protocols: names of the validation protocols, see :mod:`sr_train.metrics.protocol`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        rate: float,
        curve: Curve,
        ema: float | None = 0.999,
        protocols: Sequence[str] = ("y", "rgb"),
    ) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"task.rate={rate} must be positive")
        if ema is not None and not 0 < ema < 1:
            raise ValueError(f"task.ema={ema} must lie between 0 and 1, or be null")
        self.model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.ema: AveragedModel | None = None
        if ema is not None:
            self.ema = AveragedModel(self.model, multi_avg_fn=ema_update(ema), use_buffers=True)
            self.ema.requires_grad_(False)
        self.rate = rate
        self.curve = curve
        self.protocols = get_protocols(protocols)
        self.meter = Meter()
        self._optimizer = optimizer

    # -- the network that counts ---------------------------------------------------------------------------------

    def averaged(self) -> nn.Module:
        """The network that is evaluated and exported: the EMA where there is one."""
        return self.model if self.ema is None else self.ema.module

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] in [0, 1] -> [B, C, H, W], by the network being trained."""
        return self.model(lr)

    # -- optimization --------------------------------------------------------------------------------------------

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups, each with the ``base_rate`` that the curve scales."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return [{"params": trained, "lr": self.rate, "base_rate": self.rate}]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over :meth:`parameter_groups`."""
        return self._optimizer(self.parameter_groups(), lr=self.rate)

    def set_rate(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Set each group's rate for the current step."""
        factor = self.curve(self.global_step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_rate"] * factor

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """The rate is a function of the step."""
        self.set_rate(self.trainer.optimizers)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step, and at once its average: a checkpoint or a validation after step t holds the EMA of t steps."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """A fresh meter."""
        self.meter.reset()

    def validation_step(self, image: EvalImage, batch_idx: int) -> None:
        """Score one whole image in fp32 by every protocol."""
        sr = super_resolve(self.averaged(), image.lr).cpu()
        for protocol in self.protocols:
            self.meter.add(image.set, image.key, protocol.name, score(sr, image.hr.cpu(), protocol, image.scale))

    def on_validation_epoch_end(self) -> None:
        """Log ``set/protocol/metric``."""
        self.log_dict(dict(self.meter.flat()))
