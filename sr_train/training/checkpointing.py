"""Writing of checkpoints during training; the newest complete one always remains."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sr_train.files import sync_folder, write_bytes
from sr_train.runs.checkpoints import file_name, first_line, list_checkpoints
from sr_train.tasks.base import SRTask
from sr_train.training.loggers import FollowsCheckpoints
from sr_train.training.step_callback import StepCallback


class StreamedCheckpoints(TorchCheckpointIO):
    """Checkpoint writer that streams to the file; Lightning's holds two copies of the checkpoint in memory.

    The caller renames the file when it is complete (:func:`write_checkpoint`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint. Raise OSError or RuntimeError if the disk is full."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


class Checkpoints(StepCallback):
    """Callback that writes a checkpoint every ``every`` steps, last of all in a step, and keeps the last ``keep``.

    Args:
        folder: ``checkpoints/`` of the stage.
        every: interval in steps.
        keep: number of checkpoints to keep; at least 2, for the case that the newest one is damaged.
        last: last step of the stage.
        written: called on rank 0 with the step of every written checkpoint.
    """

    def __init__(
        self, *, folder: str, every: int, keep: int, last: int, written: Callable[[int], object] = lambda step: None
    ) -> None:
        super().__init__()
        if every < 1 or keep < 2:
            raise ValueError(f"checkpoint.every={every} must be at least 1, checkpoint.keep={keep} at least 2")
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self.last = last
        self.written = written
        self.saved = -1

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Save if this step is due."""
        if step % self.every == 0 or step == self.last:
            self.save(trainer, step)

    def save(self, trainer: L.Trainer, step: int) -> None:
        """Save now, unless this step has been saved."""
        if self.saved != step:
            path = write_checkpoint(
                self.folder, step, self.keep, trainer.save_checkpoint, rank_zero=trainer.is_global_zero
            )
            self.saved = step
            if path is not None and trainer.is_global_zero:
                self.written(step)
                for logger in trainer.loggers:
                    if isinstance(logger, FollowsCheckpoints):
                        logger.checkpointed(step)


def write_checkpoint(
    folder: Path, step: int, keep: int, save: Callable[[str], object], *, rank_zero: bool
) -> Path | None:
    """Write ``step_NNN.ckpt`` with ``save(path)`` (called on every rank), then remove all but the newest ``keep``.

    If the disk is full, print a warning and return None; training continues.
    """
    path, temporary = folder / file_name(step), folder / f".{file_name(step)}.part"
    try:
        if rank_zero:
            folder.mkdir(parents=True, exist_ok=True)
        save(str(temporary))
        if not rank_zero:
            return path
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(folder)
        write_bytes(folder / "last", f"{path.name}\n".encode())
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        if not rank_zero:
            raise
        if isinstance(error, RuntimeError) and "write" not in str(error) and "pos" not in str(error):
            raise
        temporary.unlink(missing_ok=True)
        warnings.warn(
            f"{path}: NOT WRITTEN ({first_line(error)}); the run continues; free some disk space", stacklevel=2
        )
        return None
    for _, old in list_checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path
