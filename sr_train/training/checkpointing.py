"""Writing of checkpoints during training. The newest complete checkpoint is never removed.

The training thread copies the checkpoint's tensors in memory (:mod:`sr_train.training.snapshot`). Another thread writes
the file.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.profilers import Profiler

from sr_train.devices import return_freed_memory
from sr_train.files import may_pass, retried, sync_folder, write_all, write_bytes
from sr_train.runs.checkpoints import file_name, first_line, list_checkpoints
from sr_train.tasks.base import SRTask
from sr_train.training.loggers import method
from sr_train.training.snapshot import Snapshot
from sr_train.training.step_callback import StepCallback

_LONG = 1.0  # seconds: a longer wait for the disk is reported


class StreamedCheckpoints(TorchCheckpointIO):
    """Checkpoint writer that streams to the file. Lightning's own writer keeps two copies of a checkpoint in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint. Raise OSError if the disk is full."""
        stream(checkpoint, Path(path))


class _File:
    """File for ``torch.save`` without a buffer. A buffer could be written twice if another thread forks the process."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all bytes. Store an OSError in ``self.error``, because torch raises another error instead."""
        try:
            write_all(self.handle, data)
        except OSError as error:
            self.error = self.error or error
            raise
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def stream(content: dict[str, Any], path: Path) -> None:
    """Write the content of a checkpoint to a file, and sync the file to the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    file = _File(handle)
    try:
        torch.save(content, file)  # pyright: ignore[reportArgumentType] - torch needs write and flush only
        os.fsync(handle)
    except RuntimeError:
        if file.error is not None:
            raise file.error from None
        raise
    finally:
        os.close(handle)


class CheckpointWriter:
    """Writer of checkpoints in a thread, one at a time. For rank 0 only.

    The thread is not a daemon, so Python waits at exit until the file is complete.

    Args:
        folder: folder ``checkpoints/`` of the stage.
        keep: number of checkpoints to keep.
        written: function that is called in the thread with the step of every written checkpoint.
    """

    def __init__(self, folder: Path, keep: int, written: Callable[[int], object] = lambda step: None) -> None:
        self.folder = folder
        self.keep = keep
        self.written = written
        self.snapshot = Snapshot()
        self._job: _Job | None = None

    def start(self, content: dict[str, Any], step: int) -> None:
        """Copy a checkpoint and start a thread that writes it. :meth:`collect` must have returned the previous checkpoint."""
        assert self._job is None
        self._job = _Job(self, self.snapshot.take(content), step)
        self._job.start()

    def collect(self, *, wait: bool) -> int | None:
        """Return the step of the checkpoint that has been written since the last call, or None.

        Raise an error of the thread. If ``wait`` is true, wait until the thread has ended. This method waits for an
        event and not for ``Thread.join``, because Ctrl-C in ``join`` makes Python 3.11 forget the thread.
        """
        job = self._job
        if job is None or not (job.done.wait() if wait else job.done.is_set()):
            return None
        self._job = None
        if job.error is not None:
            raise job.error
        return None if job.path is None else job.step


class _Job(threading.Thread):
    def __init__(self, writer: CheckpointWriter, content: dict[str, Any], step: int) -> None:
        super().__init__(name=f"checkpoint {step}", daemon=False)
        self.writer = writer
        self.content = content
        self.step = step
        self.done = threading.Event()
        self.path: Path | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Write the checkpoint. An error is stored for the training thread."""
        writer = self.writer
        try:
            writer.snapshot.wait()
            self.path = write_checkpoint(writer.folder, self.step, writer.keep, self.content)
            if self.path is not None:
                writer.written(self.step)
        except BaseException as error:
            self.error = error
        finally:
            self.content = {}
            self.done.set()


class Checkpoints(StepCallback):
    """Callback that writes a checkpoint every ``every`` steps, and keeps the newest ``keep`` checkpoints.

    This callback must be the last callback of a step.

    Args:
        folder: folder ``checkpoints/`` of the stage.
        every: interval in steps.
        keep: number of checkpoints to keep; at least 2, for the case that the newest checkpoint is damaged.
        last: last step of the stage.
        written: function that is called on rank 0, in another thread, with the step of every written checkpoint.
    """

    def __init__(
        self, *, folder: str, every: int, keep: int, last: int, written: Callable[[int], object] = lambda step: None
    ) -> None:
        super().__init__()
        if every < 1 or keep < 2:
            raise ValueError(f"checkpoint.every={every} must be at least 1, checkpoint.keep={keep} at least 2")
        self.folder = Path(folder)
        self.every = every
        self.last = last
        self.writer = CheckpointWriter(self.folder, keep, written)
        self.saved = -1
        self._warned = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the memory of the checkpoint that was loaded for the resume back to the operating system."""
        super().on_train_start(trainer, pl_module)
        return_freed_memory()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Write a checkpoint at every ``every``-th step and at the last step."""
        self._collect(trainer, wait=False)
        if step % self.every == 0 or step == self.last:
            self.save(trainer, step)

    def save(self, trainer: L.Trainer, step: int, *, wait: bool = False) -> None:
        """Write a checkpoint now, unless a checkpoint of this step has been written. All ranks must call this method.

        Another thread writes the file. If ``wait`` is true, all ranks return after rank 0 has written the file.
        """
        if self.saved != step:
            content = dump(trainer)
            if trainer.is_global_zero:
                self._wait_for_previous(trainer, step)
                self.writer.start(content, step)
            self.saved = step
        if wait:
            self.flush(trainer)
            trainer.strategy.barrier("Checkpoints.save")

    def flush(self, trainer: L.Trainer) -> None:
        """Wait until the checkpoint that is being written is complete.

        Only rank 0 writes, so other ranks return at once.
        """
        self._collect(trainer, wait=True)

    def _wait_for_previous(self, trainer: L.Trainer, step: int) -> None:
        start = time.perf_counter()
        self.flush(trainer)
        waited = time.perf_counter() - start
        if waited > _LONG and step % self.every == 0 and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.folder}: training waited {waited:.1f} s because the previous checkpoint "
                f"({self.writer.snapshot.nbytes / 1e6:.0f} MB) was still being written; give a checkpoint.every above "
                f"{self.every}, or a faster disk",
                stacklevel=2,
            )

    def _collect(self, trainer: L.Trainer, *, wait: bool) -> None:
        step = self.writer.collect(wait=wait)
        for logger in trainer.loggers if step is not None else ():
            if (follow := method(logger, "checkpointed")) is not None:
                follow(step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait until the last checkpoint is complete, before loggers are closed and weights are written."""
        self.flush(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Wait until the checkpoint that is being written is complete, after an error of the run.

        An error of the writing thread is printed as a warning, so that it does not hide the run's error.
        """
        try:
            self.flush(trainer)
        except Exception as error:
            if error is not exception:
                warnings.warn(f"{self.folder}: the last checkpoint was NOT WRITTEN ({first_line(error)})", stacklevel=2)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wait until the checkpoint that is being written is complete, and free the memory of its copy."""
        self.flush(trainer)
        self.writer.snapshot = Snapshot()


def dump(trainer: L.Trainer) -> dict[str, Any]:
    """Return the content of a checkpoint. The tensors are not copied: they are the tensors that training changes.

    All ranks must call this function, because hooks of users' callbacks and sharded optimizers may communicate. The
    same is true for ``Trainer.save_checkpoint``, but this function does not wait for other ranks.
    """
    profiler: Profiler = trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]
    with profiler.profile("save_checkpoint"):
        return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def write_checkpoint(folder: Path, step: int, keep: int, content: dict[str, Any]) -> Path | None:
    """Write ``step_NNN.ckpt`` atomically, then remove all checkpoints except the newest ``keep``.

    If the disk is full or fails, print a warning and return None; training continues.
    """
    path, temporary = folder / file_name(step), folder / f".{file_name(step)}.part"

    def attempt() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stream(content, temporary)
        temporary.replace(path)
        sync_folder(folder)

    try:
        retried(attempt, path)
        write_bytes(folder / "last", f"{path.name}\n".encode())
    except OSError as error:
        reason, remedy = first_line(error), "free some disk space"
        if may_pass(error):
            reason, remedy = str(error.strerror).partition(";")[0], "check that its file system is mounted and answers"
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            remedy += f"; {temporary.name} could not be removed"
        warnings.warn(f"{path}: NOT WRITTEN ({reason}); the run continues; {remedy}", stacklevel=2)
        return None
    with suppress(OSError):  # the next checkpoint tries again
        for _, old in list_checkpoints(folder)[keep:]:
            old.unlink(missing_ok=True)
    return path
