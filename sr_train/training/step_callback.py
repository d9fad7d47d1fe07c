"""Base class of callbacks that act on step boundaries, and logging of numbers."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from sr_train.tasks.base import SRTask


def log_numbers(trainer: L.Trainer, numbers: dict[str, float], step: int) -> None:
    """Hand numbers to every logger, and to the callbacks that read ``trainer.callback_metrics``. For all ranks."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)


class StepCallback(L.Callback):
    """Calls ``on_step_end(trainer, task, step)`` once an optimizer step, not once a micro-batch."""

    def __init__(self) -> None:
        self._step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from where the run continues."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step has ended where the trainer's counter moved."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            assert isinstance(pl_module, SRTask)
            self.on_step_end(trainer, pl_module, self._step)

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """After ``step`` steps; for subclasses."""
