"""Base class of callbacks that are called once per step, and logging of numbers."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from sr_train.tasks.base import SRTask


def log_numbers(trainer: L.Trainer, numbers: dict[str, float], step: int) -> None:
    """Send numbers to every logger and to ``trainer.callback_metrics``. All ranks must call this function."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)


class StepCallback(L.Callback):
    """Base class of callbacks with a method ``on_step_end``, which is called once per optimizer step, not per micro-batch."""

    def __init__(self) -> None:
        self._step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count steps at the step of the checkpoint from which the run continues."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call ``on_step_end`` if the trainer's step counter has changed."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            assert isinstance(pl_module, SRTask)
            self.on_step_end(trainer, pl_module, self._step)

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Do nothing. Subclasses override this method, which is called after step number ``step``."""
