"""Writing of checkpoints during training; the newest complete one always remains.

The training thread copies the checkpoint's tensors in memory (:mod:`sr_train.training.snapshot`), another thread writes the
file.
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
from sr_train.training.loggers import FollowsCheckpoints
from sr_train.training.snapshot import Snapshot
from sr_train.training.step_callback import StepCallback

_LONG = 1.0  # seconds: a longer wait for the disk is reported


class StreamedCheckpoints(TorchCheckpointIO):
    """Checkpoint writer that streams to the file; Lightning's holds two copies of the checkpoint in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint. Raise OSError if the disk is full."""
        stream(checkpoint, Path(path))


class _File:
    """File for ``torch.save``. It has no buffer that a process forked by another thread could write a second time."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all bytes; keep the error, because torch reports another one."""
        try:
            write_all(self.handle, data)
        except OSError as error:
            self.error = self.error or error
            raise
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def stream(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint to a file and sync it."""
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

    The thread is not a daemon: the process does not end before the file is complete. Python waits for it at the exit.

    Args:
        folder: ``checkpoints/`` of the stage.
        keep: number of checkpoints to keep.
        written: called in the thread with the step of every written checkpoint.
    """

    def __init__(self, folder: Path, keep: int, written: Callable[[int], object] = lambda step: None) -> None:
        self.folder = folder
        self.keep = keep
        self.written = written
        self.snapshot = Snapshot()
        self._job: _Job | None = None

    def start(self, content: dict[str, Any], step: int) -> None:
        """Copy a checkpoint and start to write it. The previous one must have been collected."""
        assert self._job is None
        self._job = _Job(self, self.snapshot.take(content), step)
        self._job.start()

    def collect(self, *, wait: bool) -> int | None:
        """Return the step of the checkpoint that has been written since the last call, or None. Raise the thread's error.

        With ``wait``, wait for the end of the write. The event is used because Ctrl-C in ``Thread.join`` makes Python 3.11
        forget the thread.
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
        """Write the checkpoint; keep an error for the training thread."""
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
    """Callback that writes a checkpoint every ``every`` steps, last of all in a step, and keeps the last ``keep``.

    Args:
        folder: ``checkpoints/`` of the stage.
        every: interval in steps.
        keep: number of checkpoints to keep; at least 2, for the case that the newest one is damaged.
        last: last step of the stage.
        written: called on rank 0 with the step of every written checkpoint, in another thread.
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
        """Return the memory of the checkpoint that the stage was resumed from."""
        super().on_train_start(trainer, pl_module)
        return_freed_memory()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Save if this step is due."""
        self._collect(trainer, wait=False)
        if step % self.every == 0 or step == self.last:
            self.save(trainer, step)

    def save(self, trainer: L.Trainer, step: int, *, wait: bool = False) -> None:
        """Save now, unless this step has been saved. Call it on all ranks.

        The file is written by another thread. With ``wait``, return on all ranks when rank 0 has written it.
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
        """Wait until the checkpoint that is being written is complete. Only rank 0 writes, so the others return at once."""
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
            if isinstance(logger, FollowsCheckpoints):
                logger.checkpointed(step)  # pyright: ignore[reportArgumentType] - the loop is empty without a step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the last checkpoint, before loggers are closed and weights are written."""
        self.flush(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Wait for the checkpoint that is being written; report its error as a warning, because the run has another one."""
        try:
            self.flush(trainer)
        except Exception as error:
            if error is not exception:
                warnings.warn(f"{self.folder}: NOT WRITTEN ({first_line(error)})", stacklevel=2)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wait for the checkpoint that is being written; release the memory of the copy."""
        self.flush(trainer)
        self.writer.snapshot = Snapshot()


def dump(trainer: L.Trainer) -> dict[str, Any]:
    """Return the content of a checkpoint. Its tensors are those of the training.

    All ranks must call this, as for ``Trainer.save_checkpoint``: hooks of users' callbacks and sharded optimizers may
    communicate. Unlike that function, it does not wait for other ranks.
    """
    profiler: Profiler = trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]
    with profiler.profile("save_checkpoint"):
        return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def write_checkpoint(folder: Path, step: int, keep: int, content: dict[str, Any]) -> Path | None:
    """Write ``step_NNN.ckpt`` atomically, then remove all but the newest ``keep``.

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
