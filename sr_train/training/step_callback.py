"""Base class of callbacks that act on step boundaries, and logging of numbers and pictures."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray

from sr_train.tasks.base import SRTask
from sr_train.training.loggers import TakesPictures


def log_numbers(trainer: L.Trainer, numbers: dict[str, float], step: int) -> None:
    """Hand numbers to every logger, and to the callbacks that read ``trainer.callback_metrics``. For all ranks."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)


def log_picture(trainer: L.Trainer, name: str, picture: NDArray[np.uint8], step: int) -> None:
    """Show a picture [H, W, 3] in every logger that takes one; of others a warning reports once that they do not.

    Lightning's loggers take a list of pictures: ``log_image(key, images, step)``.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        own: Any = getattr(logger, "log_image", None)
        if isinstance(logger, TakesPictures):
            logger.log_picture(name, picture, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif own is not None:
            given = {"key": name, "images": [picture], "step": step}
            try:
                inspect.signature(own).bind(**given)
            except TypeError:
                kind = type(logger).__name__
                text = f"{kind}.log_image does not take (key, images, step), as Lightning's loggers do: it shows no pictures"
                warnings.warn(text, stacklevel=2)
                continue
            own(**given)


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
