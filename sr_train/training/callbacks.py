"""Lightning callbacks for what Lightning does not have. All of them count optimizer steps, from 1, at step boundaries."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

from sr_train.files import naming, write_bytes
from sr_train.tasks.base import SRTask
from sr_train.training.step_callback import StepCallback, log_numbers


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


class Explosion:
    """Notices a loss that is finite, but far beyond that of the first step: weights that do not recover.

    The first step's loss is that of an untrained network, or of one that starts from another's weights: a loss rises above it
    by a small factor when batches, scales or a discriminator change. A step of Adam that is too large changes it by powers
    of ten. A single flat patch may have almost no loss, so small ones are never called an explosion.
    """

    factor, least = 100.0, 10.0

    def __init__(self) -> None:
        self.first: torch.Tensor | float | None = None  #: the loss of the run's first step; a tensor until it is needed
        self.told = False

    def see(self, loss: torch.Tensor | None) -> None:
        """Keep the first step's loss, without waiting for the device."""
        if self.first is None:
            self.first = loss

    def read(self) -> float | None:
        """The first step's loss; None where it was not finite, and the next one is to be kept."""
        self.first = None if self.first is None or not math.isfinite(float(self.first)) else float(self.first)
        return self.first

    def warning(self, step: int, loss: float, rate: float) -> str | None:
        """The warning for the user, given once a run."""
        first = self.read()
        if self.told or first is None or not self.factor * first < loss > self.least:
            return None
        self.told = True
        return (
            f"step {step}: the loss is {loss:.3g}; it was {first:.3g} in the first step. The weights rarely recover from that: "
            f"start again (resume=never) with a lower task.rate (it is {rate:g}) or trainer.gradient_clip_val=1"
        )


class StepLog(StepCallback):
    """Hands the task's numbers to the loggers every ``every`` steps, and its events to ``events.csv`` at once.

    Warns once a run where the loss has exploded.

    Args:
        every: steps.
        folder: of the stage.
        hyperparameters: told to every logger when a sitting begins.
    """

    def __init__(self, *, every: int, folder: str, hyperparameters: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"record.every={every} must be at least 1")
        self.every = every
        self.events = Path(folder) / "events.csv"
        self.speed = Speed()
        self.explosion = Explosion()
        self.hyperparameters = dict(hyperparameters or {})
        self._since = 0
        self._begun = False

    @property
    def state_key(self) -> str:
        """Name of its state in checkpoints, which those of earlier versions have too."""
        return "Record"

    def state_dict(self) -> dict[str, Any]:
        """The loss to compare with, and whether the warning was given."""
        return {"first_loss": self.explosion.read(), "exploded": self.explosion.told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the first step of the run, not of this sitting."""
        self.explosion.first, self.explosion.told = state_dict["first_loss"], state_dict["exploded"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut what lies beyond the checkpoint."""
        super().on_train_start(trainer, pl_module)
        self.speed.start()
        self._since = trainer.global_step
        self._begin(trainer)
        if trainer.is_global_zero and self.events.exists():
            lines = self.events.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and int(x.partition(",")[0]) <= trainer.global_step]
            write_bytes(self.events, "".join(kept).encode())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A sitting without a step has loggers too, which may not have finished the one before."""
        if not self._begun:
            self._begin(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        self._begun = True
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if hasattr(logger, "resume"):
                logger.resume(trainer.global_step)  # pyright: ignore[reportAttributeAccessIssue]
            if self.hyperparameters:
                logger.log_hyperparams(self.hyperparameters)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Data has arrived."""
        self.speed.data_arrived()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Number what ``self.log`` has collected: Lightning counts from 0, unless a value named ``step`` is logged."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.logged_metrics:
            pl_module.log("step", float(trainer.global_step), batch_size=1)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """What happened in the last step is written down as well."""
        if isinstance(pl_module, SRTask):
            self._write_events(pl_module, trainer.global_step + 1)

    def _write_events(self, task: SRTask, step: int) -> None:
        for what, keys in task.events:
            self.events.parent.mkdir(parents=True, exist_ok=True)
            with naming(self.events), self.events.open("a", encoding="utf-8") as file:
                file.write(f"{step},{what},{keys}\n")
            tqdm.write(f"step {step}: {what}; images: {keys}", file=sys.stderr)
        task.events.clear()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Log where it is time to."""
        self._write_events(task, step)
        self.explosion.see(task.numbers.get("train/loss"))
        if step % self.every == 0:
            self._log(trainer, task, step)
        elif step == trainer.max_steps:
            self._look(trainer, task, {name: float(value) for name, value in task.numbers.items()}, step)

    def _look(self, trainer: L.Trainer, task: SRTask, numbers: dict[str, float], step: int) -> None:
        said = self.explosion.warning(step, numbers.get("train/loss", 0.0), task.rate)
        if said is not None and trainer.is_global_zero:
            warnings.warn(said, stacklevel=2)

    def _log(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        numbers = {name: float(value) for name, value in task.numbers.items()}
        if trainer.world_size > 1:
            names = list(numbers)
            values = torch.tensor([numbers[n] for n in names], dtype=torch.float64, device=task.device)
            reduced = trainer.strategy.reduce(values.float(), reduce_op="mean")
            numbers = dict(zip(names, torch.as_tensor(reduced).tolist(), strict=True))
        self._look(trainer, task, numbers, step)
        seconds, waited = self.speed.read()
        self.speed.restart()
        steps, self._since = step - self._since, step
        pairs = steps * trainer.datamodule.batch  # pyright: ignore[reportAttributeAccessIssue]
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            numbers[f"train/rate{group.get('suffix', '' if i == 0 else f'_{i}')}"] = group["lr"]
        numbers |= {"train/refused": float(task.refused)}
        numbers |= {"speed/steps_per_s": steps / seconds, "speed/pairs_per_s": pairs / seconds, "speed/wait": waited}
        log_numbers(trainer, numbers, step)
