"""Lightning callbacks for what Lightning does not have. All of them count optimizer steps, from 1, at step boundaries."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tqdm import tqdm

from sr_train.checkpoints import write_checkpoint
from sr_train.files import write_bytes
from sr_train.tasks.base import SRTask


class StreamedCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint straight to its file. Lightning builds it in memory first, twice: as much again as the run takes.

    The caller renames a finished file into place (:func:`sr_train.checkpoints.write_checkpoint`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write; OSError or RuntimeError where the disk is full."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def log_numbers(trainer: L.Trainer, numbers: dict[str, float], step: int) -> None:
    """Hand numbers to every logger."""
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


class Speed:
    """A clock of steps per second and of the share of time that the network waits for data."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """From now on; the loop waits for its first batch."""
        self._begin = self._waiting_since = time.perf_counter()
        self._waited = 0.0

    def data_wanted(self) -> None:
        """The work of a batch is done; what follows is waiting for the next."""
        self._waiting_since = time.perf_counter()

    def data_arrived(self) -> None:
        """The wait is over."""
        self._waited += time.perf_counter() - self._waiting_since

    def read(self) -> tuple[float, float]:
        """(seconds, share of them spent waiting for data) since :meth:`restart`."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        return seconds, self._waited / seconds

    def restart(self) -> None:
        """Count anew."""
        self._begin, self._waited = time.perf_counter(), 0.0


class Record(StepCallback):
    """Hands the task's numbers to the loggers every ``every`` steps, and its events to ``events.csv`` at once.

    Args:
        every: steps.
        folder: of the stage.
    """

    def __init__(self, *, every: int, folder: str) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"record.every={every} must be at least 1")
        self.every = every
        self.events = Path(folder) / "events.csv"
        self.speed = Speed()
        self._since = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut what lies beyond the checkpoint."""
        super().on_train_start(trainer, pl_module)
        self.speed.start()
        self._since = trainer.global_step
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if hasattr(logger, "resume"):
                    logger.resume(trainer.global_step)  # pyright: ignore[reportAttributeAccessIssue]
            if self.events.exists():
                lines = self.events.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [x for x in lines if x.endswith("\n") and int(x.partition(",")[0]) <= trainer.global_step]
                write_bytes(self.events, "".join(kept).encode())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Data has arrived."""
        self.speed.data_arrived()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """What happened in the last step is written down as well."""
        if isinstance(pl_module, SRTask):
            self._write_events(pl_module, trainer.global_step + 1)

    def _write_events(self, task: SRTask, step: int) -> None:
        for what, keys in task.events:
            self.events.parent.mkdir(parents=True, exist_ok=True)
            with self.events.open("a", encoding="utf-8") as file:
                file.write(f"{step},{what},{keys}\n")
            tqdm.write(f"step {step}: {what}; images: {keys}", file=sys.stderr)
        task.events.clear()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Log where it is time to."""
        self._write_events(task, step)
        if step % self.every == 0:
            self._log(trainer, task, step)

    def _log(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        numbers = {name: float(value) for name, value in task.numbers.items()}
        if trainer.world_size > 1:
            names = list(numbers)
            values = torch.tensor([numbers[n] for n in names], dtype=torch.float64, device=task.device)
            reduced = trainer.strategy.reduce(values.float(), reduce_op="mean")
            numbers = dict(zip(names, torch.as_tensor(reduced).tolist(), strict=True))
        seconds, waited = self.speed.read()
        self.speed.restart()
        steps, self._since = step - self._since, step
        pairs = steps * trainer.datamodule.batch  # pyright: ignore[reportAttributeAccessIssue]
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            numbers[f"train/rate{group.get('suffix', '' if i == 0 else f'_{i}')}"] = group["lr"]
        numbers |= {"train/refused": float(task.refused)}
        numbers |= {"speed/steps_per_s": steps / seconds, "speed/pairs_per_s": pairs / seconds, "speed/wait": waited}
        log_numbers(trainer, numbers, step)


class Checkpoints(StepCallback):
    """Writes a checkpoint every ``every`` steps, after everything else that happens at a step, and keeps the last ``keep``.

    Args:
        folder: ``checkpoints/`` of the stage.
        every: steps.
        keep: at least 2: the one before is there when the newest is damaged.
        last: the step that the stage ends at.
        written: called on rank 0 with the step of every checkpoint that is on the disk.
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
        """Save where it is time to."""
        if step % self.every == 0 or step == self.last:
            self.save(trainer, step)

    def save(self, trainer: L.Trainer, step: int) -> None:
        """Save now, unless this step is saved already."""
        if self.saved != step:
            path = write_checkpoint(
                self.folder, step, self.keep, trainer.save_checkpoint, rank_zero=trainer.is_global_zero
            )
            self.saved = step
            if path is not None and trainer.is_global_zero:
                self.written(step)


class Stop(StepCallback):
    """SIGTERM and Ctrl-C end the run at the next step boundary, with a checkpoint; a second Ctrl-C ends it at once.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals; Lightning's own handlers would end the run within a step."""
        super().on_train_start(trainer, pl_module)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        sys.stderr.write(f"\n{signal.Signals(number).name}: stopping after this step\n")

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Stop, on all ranks at the same step."""
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.received = self.received or signal.SIGTERM
            self.checkpoints.save(trainer, step)
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class Progress(StepCallback):
    """Says how far a stage is: step, loss, speed, share of time waiting for data, rate, time left.

    On a terminal a bar; without one, a plain line every so often.

    Args:
        record: whose clock is shared.
        lines_every: seconds between lines where there is no terminal.
    """

    def __init__(self, record: Record, *, lines_every: float = 30.0) -> None:
        super().__init__()
        self.record = record
        self.lines_every = lines_every
        self._bar: Any = None
        self._shown = self._started = 0.0
        self._shown_step = self._first = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that the run continues from."""
        super().on_train_start(trainer, pl_module)
        self._first = self._shown_step = trainer.global_step
        self._shown = self._started = time.monotonic()
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% {bar} {n}/{total} [{elapsed}<{remaining}] {postfix}",
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The last callback of a batch: what follows is waiting for data."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.record.speed.data_wanted()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Advance, and show numbers once in a while: reading the loss waits for the device."""
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        due = now - self._shown > (1.0 if self._bar is not None else self.lines_every)
        if due or step == trainer.max_steps:
            rate = (step - self._shown_step) / max(now - self._shown, 1e-9)
            text = self._text(trainer, task, rate)
            if self._bar is None:
                left = (trainer.max_steps - step) / max((step - self._first) / max(now - self._started, 1e-9), 1e-9)
                sys.stderr.write(f"step {step}/{trainer.max_steps}  {text}  left {_clock(left)}\n")
            else:
                self._bar.set_postfix_str(text, refresh=False)
            self._shown, self._shown_step = now, step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def _text(self, trainer: L.Trainer, task: SRTask, steps_per_s: float) -> str:
        parts = [f"{k} {float(v):.4g}" for k, v in task.progress().items()]
        pairs = steps_per_s * trainer.datamodule.batch  # pyright: ignore[reportAttributeAccessIssue]
        _, wait = self.record.speed.read()
        parts += [f"{steps_per_s:.2f} it/s", f"{pairs:.0f} samples/s", f"data wait {wait:.0%}"]
        parts += [f"rate {trainer.optimizers[0].param_groups[0]['lr']:.2e}"]
        if task.refused:
            parts.append(f"refused {task.refused}")
        return "  ".join(parts)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _clock(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"
