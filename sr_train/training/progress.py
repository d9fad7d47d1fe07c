"""Progress bar or progress lines of a stage."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from tqdm import tqdm

from sr_train.devices import peak_memory
from sr_train.tasks.base import SRTask
from sr_train.tasks.host_copy import HostCopy
from sr_train.training.callbacks import StepLog
from sr_train.training.step_callback import StepCallback

_JSON_EVERY = 5.0  # seconds between two lines of SR_PROGRESS=json


class Progress(StepCallback):
    """Callback that shows a stage's step, loss, speed, share of time waiting for data, learning rate and remaining time.

    In a run with several ranks, the displayed loss is the mean over the ranks, updated at each log entry. On a
    terminal, the display is a progress bar; otherwise a line is printed every ``lines_every`` seconds. With the environment
    variable ``SR_PROGRESS=json``, one JSON object per line is printed to stdout instead, for schedulers and user interfaces.
    The remaining time counts validations and checkpoints, because it is computed from the time since the start.

    Args:
        record: callback that logs; its clock measures the speed and the wait for data.
        lines_every: seconds between two lines if there is no terminal.
    """

    def __init__(self, record: StepLog, *, lines_every: float = 30.0) -> None:
        super().__init__()
        self.record = record
        self.lines_every = lines_every
        self.json = os.environ.get("SR_PROGRESS") == "json"
        self._bar: Any = None
        self._shown = self._started = 0.0
        self._shown_step = self._first = 0
        self._numbers: tuple[list[str], HostCopy] | None = None  # wanted, but perhaps not here yet

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the progress bar at the step from which the run continues."""
        super().on_train_start(trainer, pl_module)
        self._first = self._shown_step = trainer.global_step
        self._shown = self._started = time.monotonic()
        if trainer.is_global_zero and sys.stderr.isatty() and not self.json:
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
        """Start to measure the wait for data, because this is the last callback of a batch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.record.speed.data_wanted()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Advance the display.

        Numbers are updated about once per second, after they have been copied from the device.
        """
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        last = step == trainer.max_steps
        due = now - self._shown > (1.0 if self._bar is not None else _JSON_EVERY if self.json else self.lines_every)
        if last or (due and self._numbers is None):
            numbers = task.progress()
            self._numbers = list(numbers), HostCopy(list(numbers.values()))
        if self._numbers is not None and (last or self._numbers[1].arrived):
            names, values = self._numbers[0], self._numbers[1].read()
            self._numbers = None
            rate = (step - self._shown_step) / max(now - self._shown, 1e-9)
            numbers = dict(zip(names, values, strict=True))
            left = (trainer.max_steps - step) / max((step - self._first) / max(now - self._started, 1e-9), 1e-9)
            text = self._text(trainer, task, rate, numbers)
            if self.json:
                sys.stdout.write(f"{json.dumps(self._object(trainer, task, step, rate, left, numbers))}\n")
                sys.stdout.flush()
            elif self._bar is None:
                sys.stderr.write(f"step {step}/{trainer.max_steps}  {text}  left {_clock(left)}\n")
            else:
                self._bar.set_postfix_str(text, refresh=False)
            self._shown, self._shown_step = now, step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def _text(self, trainer: L.Trainer, task: SRTask, steps_per_s: float, numbers: Mapping[str, float]) -> str:
        means = {k: self.record.means.get(f"train/{k.replace(' ', '_')}", v) for k, v in numbers.items()}
        parts = [f"{k} {v:.4g}" for k, v in means.items()]
        pairs = steps_per_s * trainer.datamodule.batch  # pyright: ignore[reportAttributeAccessIssue]
        _, wait = self.record.speed.read()
        parts += [f"{steps_per_s:.2f} it/s", f"{pairs:.0f} samples/s", f"data wait {wait:.0%}"]
        parts += [f"rate {trainer.optimizers[0].param_groups[0]['lr']:.2e}"]
        memory = peak_memory(task.device)
        parts += [f"memory {memory / 1e9:.1f} GB"] if memory else []
        if task.refused:
            parts.append(f"refused {task.refused}")
        return "  ".join(parts)

    def _object(
        self, trainer: L.Trainer, task: SRTask, step: int, steps_per_s: float, left: float, numbers: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return the line of ``SR_PROGRESS=json``: plain values; a number that is not finite is null."""
        _, wait = self.record.speed.read()
        found = {
            "run": self.record.events.parent.parent.name,
            "stage": self.record.events.parent.name,
            "step": step,
            "steps": trainer.max_steps,
            "seconds_left": left,
            "steps_per_s": steps_per_s,
            "samples_per_s": steps_per_s * trainer.datamodule.batch,  # pyright: ignore[reportAttributeAccessIssue]
            "data_wait": wait,
            "rate": trainer.optimizers[0].param_groups[0]["lr"],
            "peak_memory_gb": peak_memory(task.device) / 1e9,
            "refused": task.refused,
            **{k: self.record.means.get(f"train/{k.replace(' ', '_')}", v) for k, v in numbers.items()},
        }
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar after an error."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _clock(seconds: float) -> str:
    """Format seconds: 3725 -> "1:02:05"."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"
