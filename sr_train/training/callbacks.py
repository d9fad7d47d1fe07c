"""Callbacks for logs, speed and exploding losses. These callbacks count optimizer steps from 1."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

from sr_train.devices import peak_memory
from sr_train.files import Lines
from sr_train.tasks.base import SRTask
from sr_train.tasks.guard import Event
from sr_train.training.loggers import method
from sr_train.training.rank_events import gathered
from sr_train.training.skipped import Skipped
from sr_train.training.step_callback import StepCallback, log_numbers

_KEPT = "skipped"  # the number of images that a rank has skipped since the last exchange


class Speed:
    """Clock that measures time, and the share of this time in which the training loop waits for data."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the clock. Also start a wait for data, because the training loop needs its first batch."""
        self._begin = self._waiting_since = time.perf_counter()
        self._waited = 0.0

    def data_wanted(self) -> None:
        """Start to measure a wait for data. Called at the end of a batch."""
        self._waiting_since = time.perf_counter()

    def data_arrived(self) -> None:
        """End the measurement of a wait for data. Called when a batch has arrived."""
        self._waited += time.perf_counter() - self._waiting_since

    def read(self) -> tuple[float, float]:
        """Return (seconds since :meth:`restart`, share of these seconds in which the training loop waited for data)."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        return seconds, self._waited / seconds

    def restart(self) -> None:
        """Reset the clock."""
        self._begin, self._waited = time.perf_counter(), 0.0


class Explosion:
    """Detector of an explosion: a finite loss that is more than 100 times the loss of the first step.

    Weights rarely recover from an explosion. The first step's loss belongs to an untrained or a warm-started network.
    Later losses may be larger by a small factor, if batches, scales or a discriminator change. A step of Adam that is
    too large makes the loss larger by powers of ten. A first batch of flat patches may have almost no loss, so a loss
    below ``least`` is never reported.
    """

    factor, least = 100.0, 10.0

    def __init__(self) -> None:
        self.first: torch.Tensor | float | None = None  #: loss of the run's first step; a tensor until it is read
        self.warned = False

    def see(self, loss: torch.Tensor | None) -> None:
        """Store the loss of the first step, as a tensor, so that the host does not wait for the device."""
        if self.first is None:
            self.first = loss

    def read(self) -> float | None:
        """Return the loss of the first step; None if it was not finite.

        In this case, the next step's loss is stored.
        """
        self.first = None if self.first is None or not math.isfinite(float(self.first)) else float(self.first)
        return self.first

    def warning(self, step: int, loss: float, rate: float) -> str | None:
        """Return the warning for the user; None if the loss has not exploded, or if the warning was printed before."""
        first = self.read()
        if self.warned or first is None or not self.factor * first < loss > self.least:
            return None
        self.warned = True
        return (
            f"step {step}: the loss is {loss:.3g}; it was {first:.3g} in the first step. Weights rarely recover from this: "
            f"start again (resume=never) with a task.rate below {rate:g} or with trainer.gradient_clip_val=1"
        )


class StepLog(StepCallback):
    """Callback that logs the task's numbers every ``every`` steps, and writes events to ``events.csv``.

    Events are refused steps and skipped images; they are written as soon as the host knows of them. A warning is
    printed once per run if the loss explodes.

    Args:
        every: interval in steps.
        folder: folder of the stage.
        hyperparameters: values that every logger gets at the start of training.
    """

    def __init__(self, *, every: int, folder: str, hyperparameters: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"record.every={every} must be at least 1")
        self.every = every
        self.events = Path(folder) / "events.csv"
        self._lines = Lines(self.events)
        self.speed = Speed()
        self.means: dict[str, float] = {}  #: numbers of the last log entry, means over the ranks; empty with one rank
        self.explosion = Explosion()
        self.skipped = Skipped()
        self._printed: set[str] = set()  # reasons for skipped images; each is printed once
        self._failed = False
        self.hyperparameters = dict(hyperparameters or {})
        self._since = 0
        self._begun = False

    @property
    def state_key(self) -> str:
        """Key of this callback's state in checkpoints, the same as in earlier versions."""
        return "Record"

    def state_dict(self) -> dict[str, Any]:
        """Return for a checkpoint: the loss of the run's first step, and true if the warning about the loss was printed."""
        return {"first_loss": self.explosion.read(), "exploded": self.explosion.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the loss of the run's first step, and whether the warning about the loss was printed."""
        self.explosion.first, self.explosion.warned = state_dict["first_loss"], state_dict["exploded"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and the loggers. Remove events of later steps than the checkpoint from ``events.csv``."""
        super().on_train_start(trainer, pl_module)
        self.speed.start()
        self._since = trainer.global_step
        self._begin(trainer)
        if trainer.is_global_zero and self.events.exists():
            lines = self.events.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and int(x.partition(",")[0]) <= trainer.global_step]
            self._lines.replace("".join(kept))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the loggers also if no step was trained, so that they write or upload the logs of an interrupted process."""
        if not self._begun:
            self._begin(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        self._begun = True
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if (resume := method(logger, "resume")) is not None:
                resume(trainer.global_step)
            if self.hyperparameters:
                logger.log_hyperparams(self.hyperparameters)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the measured wait for data, and store the names of the images that the loader skipped for this batch."""
        self.speed.data_arrived()
        self.skipped.see(batch, trainer.global_step + 1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the number of the step if a user's code has called ``self.log``, because Lightning counts steps from 0."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.logged_metrics:
            pl_module.log("step", float(trainer.global_step), batch_size=1)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the events of this rank (refused steps, skipped images) after an error."""
        self._failed = True
        if isinstance(pl_module, SRTask):
            self._write_events(trainer, [*self.skipped.kept, *pl_module.events])  # the other ranks may be gone
            pl_module.events.clear()
            self.skipped.kept.clear()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the events of all steps that the checkpoint contains, because a resumed run does not repeat these steps."""
        assert isinstance(pl_module, SRTask)
        pl_module.look()
        self._gather_events(trainer, pl_module)
        if not self._failed:
            self._write_events(trainer, self.skipped.gather(trainer, trainer.global_step))
        checkpoint["skipped"] = self.skipped.total

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the number of skipped images from a checkpoint."""
        self.skipped.total = int(checkpoint.get("skipped", 0))  # missing in checkpoints of earlier versions

    def _gather_events(self, trainer: L.Trainer, task: SRTask) -> None:
        """Write the events (refused steps) of all ranks to ``events.csv``.

        All ranks know of a refused step after the same step, so they have the same number of events. Without events,
        the ranks do not communicate.
        """
        self._write_events(trainer, gathered(task.events, trainer.world_size))
        task.events.clear()

    def _write_events(self, trainer: L.Trainer, events: Sequence[Event]) -> None:
        for step, event, keys in events if trainer.is_global_zero else ():
            self.events.parent.mkdir(parents=True, exist_ok=True)
            self._lines.append(f"{step},{event},{keys}\n")
            if event.startswith("skipped"):
                if event in self._printed:
                    continue
                self._printed.add(event)
            tqdm.write(f"step {step}: {event}; images: {keys}", file=sys.stderr)

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Write events, and log numbers at every ``every``-th step.

        Only such a step and the last step wait for the device.
        """
        due = step % self.every == 0
        if due or step == trainer.max_steps:
            task.look()
        self._gather_events(trainer, task)
        self.explosion.see(task.numbers.get("train/loss"))
        if due:
            self._log(trainer, task, step)
            task.listen(step)
        elif step == trainer.max_steps:
            self._warn(trainer, task, {name: float(value) for name, value in task.numbers.items()}, step)

    def _warn(self, trainer: L.Trainer, task: SRTask, numbers: dict[str, float], step: int) -> None:
        text = self.explosion.warning(step, numbers.get("train/loss", 0.0), task.rate)
        if text is not None and trainer.is_global_zero:
            warnings.warn(text, stacklevel=2)

    def _log(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        numbers = {name: float(value) for name, value in task.numbers.items()}
        found: float | None = None
        if trainer.world_size > 1:
            numbers[_KEPT] = float(len(self.skipped.kept))
            names = list(numbers)
            values = torch.tensor([numbers[n] for n in names], dtype=torch.float64, device=task.device)
            reduced = trainer.strategy.reduce(values.float(), reduce_op="mean")
            numbers = self.means = dict(zip(names, torch.as_tensor(reduced).tolist(), strict=True))
            found = numbers.pop(_KEPT)
        numbers = dict(numbers)
        self._write_events(trainer, self.skipped.gather(trainer, step, found))
        self._warn(trainer, task, numbers, step)
        seconds, waited = self.speed.read()
        self.speed.restart()
        steps, self._since = step - self._since, step
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        pairs = steps * data.batch * trainer.accumulate_grad_batches // data.accumulate
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            numbers[f"train/rate{group.get('suffix', '' if i == 0 else f'_{i}')}"] = group["lr"]
        numbers |= {"train/refused": float(task.refused), "train/skipped": float(self.skipped.total)}
        numbers |= {"speed/steps_per_s": steps / seconds, "speed/pairs_per_s": pairs / seconds, "speed/wait": waited}
        numbers["speed/peak_memory_gb"] = peak_memory(task.device) / 1e9
        log_numbers(trainer, numbers, step)
