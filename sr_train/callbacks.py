"""Lightning callbacks for what Lightning does not have. All of them count optimizer steps, from 1, at step boundaries."""

from __future__ import annotations

import inspect
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from numpy.typing import NDArray
from tqdm import tqdm

from sr_train.checkpoints import write_checkpoint
from sr_train.files import naming, write_bytes
from sr_train.records import FollowsCheckpoints, TakesPictures
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


class Record(StepCallback):
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
                for logger in trainer.loggers:
                    if isinstance(logger, FollowsCheckpoints):
                        logger.checkpointed(step)


class _After(L.Callback):
    """Stands after a callback of the user's, and tells ``stop`` when that one has set ``trainer.should_stop``."""

    def __init__(self, callback: L.Callback, stop: Stop) -> None:
        self.callback = callback
        self.stop = stop

    def look(self, trainer: L.Trainer, *_: Any) -> None:
        """Every hook of a callback."""
        self.stop.note(trainer, self.callback)


for _hook in (name for name in vars(L.Callback) if name.startswith("on_")):
    setattr(_After, _hook, _After.look)


class Stop(StepCallback):
    """Ends the run at a step boundary, with a checkpoint: after SIGTERM or Ctrl-C, and when ``trainer.should_stop`` is set.

    A second Ctrl-C ends it at once. Which stops finish a stage is decided here and in :func:`still_finished`:

    - EarlyStopping finishes it: ``finished`` is set, the weights are exported, the next stage begins.
    - Timer, ``trainer.max_time`` and all others that set ``trainer.should_stop`` leave it open, as signals do: the same
      command continues. The time of a Timer is that of one sitting, or the next one would end at once.

    Args:
        checkpoints: what saves.
        own: the user's callbacks, in the order of ``specs``.
        specs: what they were built from.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        own: Sequence[L.Callback] = (),
        specs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.own = list(own)
        self.specs = list(specs)
        self.received: int | None = None
        self.asked = False  #: whether somebody has set ``trainer.should_stop``
        self.by: L.Callback | None = None  #: the callback that did
        self.finished: dict[str, Any] | None = None  #: how EarlyStopping has finished the stage
        self._before: dict[int, Any] = {}

    def watched(self) -> list[L.Callback]:
        """The user's callbacks, each with what notes that it stops the run."""
        return [x for callback in self.own for x in (callback, _After(callback, self))]

    def note(self, trainer: L.Trainer, callback: L.Callback | None) -> None:
        """Keep who has set ``trainer.should_stop`` first."""
        if trainer.should_stop and not self.asked and self.received is None:
            self.asked, self.by = True, callback

    def _finish(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """The record of how the stage was finished, if EarlyStopping stops it."""
        for number, callback in enumerate(self.own):
            stopped = callback is self.by or _has_stopped(callback)
            if isinstance(callback, EarlyStopping) and stopped and self.asked:
                spec = dict(self.specs[number]) if number < len(self.specs) else {}
                name, step = type(callback).__name__, trainer.global_step
                return {"by": name, "step": step, "max_steps": trainer.max_steps, "callback": spec}
        return None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep that this is a finished stage's checkpoint: its weights may not be written yet when the process is killed."""
        self.note(trainer, None)
        finished = self._finish(trainer)
        if finished is not None:
            checkpoint["finished"] = finished

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """End at once where the stage was finished; else give EarlyStopping its patience back, and Timer its time."""
        finished = checkpoint.get("finished")
        if finished is not None and still_finished(finished, int(trainer.max_steps), self.specs):
            self.finished, trainer.should_stop = finished, True
            return
        states = checkpoint["callbacks"]
        for callback in self.own:
            if isinstance(callback, Timer):
                states.pop(callback.state_key, None)
            state = states.get(callback.state_key)
            if isinstance(callback, EarlyStopping) and state is not None:
                state["patience"] = callback.patience  # as it is given now
                if finished is not None:
                    state |= {"wait_count": 0, "stopping_reason": _GOES_ON.value, "stopping_reason_message": None}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals; Lightning's own handlers would end the run within a step. Only the main thread may."""
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        sys.stderr.write(f"\n{signal.Signals(number).name}: stopping after this step\n")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Wait for the step's end where it has more micro-batches: Lightning would leave within it."""
        self.note(trainer, None)
        trainer.should_stop = False
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Stop, on all ranks at the same step."""
        received, asked = self.received is not None, self.asked
        if trainer.world_size > 1:
            decide = trainer.strategy.reduce_boolean_decision
            if decide(received or asked, all=False):
                received, asked = decide(received, all=False), decide(asked, all=False)
        if received:
            self.received = self.received or signal.SIGTERM
        if received or asked:
            self.asked = asked
            self.checkpoints.save(trainer, step)
            self.finished = self._finish(trainer)
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


_GOES_ON = EarlyStoppingReason.NOT_STOPPED


def _has_stopped(callback: L.Callback) -> bool:
    return isinstance(callback, EarlyStopping) and callback.stopping_reason is not _GOES_ON


def still_finished(finished: Mapping[str, Any], max_steps: int, specs: Iterable[Mapping[str, Any]]) -> bool:
    """Return true while a stage that EarlyStopping has finished counts as finished for a command.

    It does while the callback that finished it is given with the same arguments, and ``trainer.max_steps`` is not raised. Else
    the stage is extended from its last checkpoint, and EarlyStopping counts its patience from there.

    Args:
        finished: of the stage's weights, or its checkpoint.
        max_steps: of the command.
        specs: the command's callbacks.
    """
    return max_steps <= finished.get("max_steps", 0) and finished.get("callback") in list(specs)


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
