"""End of a stage before its last step, by a signal or by a callback that stops the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from sr_train.tasks.base import SRTask
from sr_train.training.agreement import LateAgreement
from sr_train.training.checkpointing import Checkpoints
from sr_train.training.signals import Signals
from sr_train.training.step_callback import StepCallback


class _After(L.Callback):
    """Callback that follows a user's callback, and tells ``stop`` if the user's callback has set ``trainer.should_stop``."""

    def __init__(self, callback: L.Callback, stop: Stop) -> None:
        self.callback = callback
        self.stop = stop
        for hook in (name for name in vars(L.Callback) if name.startswith("on_")):
            setattr(self, hook, self.look)

    def look(self, trainer: L.Trainer, *_: Any) -> None:
        """Tell ``stop`` if the user's callback has set ``trainer.should_stop``.

        Every hook of this callback is this method.
        """
        self.stop.note(trainer, self.callback)


class Stop(StepCallback):
    """Callback that ends the run after a step, with a checkpoint, after a signal or if ``trainer.should_stop`` is set.

    In a run with several processes, all processes stop one step later, so that no step waits for other processes. This
    class and :func:`still_finished` decide if the stage is finished by the stop:

    - If EarlyStopping stops the trainer, the stage is finished: ``finished`` is set, the weights are exported, and the
      next stage starts.
    - After a signal, a Timer, ``trainer.max_time`` or another callback, the stage is not finished: the same command
      continues it. A Timer starts at zero in every process. Otherwise it would end the next process immediately.

    Args:
        checkpoints: callback that writes checkpoints.
        signals: signals of the run.
        own: the user's callbacks, in the order of ``specs``.
        specs: configs of the user's callbacks.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        signals: Signals | None = None,
        own: Sequence[L.Callback] = (),
        specs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.own = list(own)
        self.specs = list(specs)
        self.signals = signals or Signals()
        self.received: int | None = None  #: signal that all ranks have agreed upon
        self.asked = False  #: true after ``trainer.should_stop`` was set
        self.by: L.Callback | None = None  #: the callback that set it
        self.finished: dict[str, Any] | None = None  #: description of the end by EarlyStopping
        self._agreement: LateAgreement | None = None

    def watched(self) -> list[L.Callback]:
        """Return the user's callbacks.

        Each callback is followed by a callback that detects if the user's callback stops the trainer.
        """
        return [x for callback in self.own for x in (callback, _After(callback, self))]

    def note(self, trainer: L.Trainer, callback: L.Callback | None) -> None:
        """Store ``callback`` if it is the first callback that has set ``trainer.should_stop``."""
        if trainer.should_stop and not self.asked and self.received is None:
            self.asked, self.by = True, callback

    def _finish(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """Return the description of the stage's end if EarlyStopping has stopped the trainer, else None."""
        for number, callback in enumerate(self.own):
            stopped = callback is self.by or _has_stopped(callback)
            if isinstance(callback, EarlyStopping) and stopped and self.asked:
                spec = dict(self.specs[number]) if number < len(self.specs) else {}
                name, step = type(callback).__name__, trainer.global_step
                return {"by": name, "step": step, "max_steps": trainer.max_steps, "callback": spec}
        return None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint that EarlyStopping has finished the stage.

        The checkpoint needs this note, because the process may be killed before the weights are written.
        """
        self.note(trainer, None)
        finished = self._finish(trainer)
        if finished is not None:
            checkpoint["finished"] = finished

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """If the checkpoint belongs to a stage that EarlyStopping has finished, end immediately.

        Otherwise, set the patience of EarlyStopping to the value in the current config, and let a Timer start at zero.
        """
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
                state["patience"] = callback.patience  # of the present config
                if finished is not None:
                    state |= {"wait_count": 0, "stopping_reason": _GOES_ON.value, "stopping_reason_message": None}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install sr-train's signal handlers again, because Lightning's handlers end the run in the middle of a step.

        If a validation that was repeated at the start has met EarlyStopping's condition, the stage is finished without
        another step.
        """
        super().on_train_start(trainer, pl_module)
        self.signals.install()
        self._agreement = LateAgreement(trainer.world_size)
        self.note(trainer, None)
        if self.asked and isinstance(self.by, EarlyStopping):
            self._end(trainer, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Delay a stop until the end of the step, because Lightning would stop between two micro-batches of the step."""
        self.note(trainer, None)
        trainer.should_stop = False
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Stop training if a rank has received a signal or a callback has requested it.

        All ranks stop after the same step.
        """
        assert self._agreement is not None
        received, asked = self._agreement.exchange([self.signals.received or 0, int(self.asked)])
        received = self.signals.agreed or received
        early = self.asked and isinstance(self.by, EarlyStopping)  # it has asked on all ranks
        if received:
            self.received = received
        if received or asked or early:
            self.asked = bool(asked) or early
            self._end(trainer, step)

    def _end(self, trainer: L.Trainer, step: int) -> None:
        self.finished = self._finish(trainer)
        self.checkpoints.save(trainer, step, wait=True)
        trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the end of the last exchange between the ranks."""
        if self._agreement is not None:
            self._agreement.finish()


_GOES_ON = EarlyStoppingReason.NOT_STOPPED


def _has_stopped(callback: L.Callback) -> bool:
    return isinstance(callback, EarlyStopping) and callback.stopping_reason is not _GOES_ON


def still_finished(finished: Mapping[str, Any], max_steps: int, specs: Iterable[Mapping[str, Any]]) -> bool:
    """Return true if a stage that EarlyStopping has finished also counts as finished for a new command.

    The stage counts as finished if the new command has the same callback with the same arguments, and the same or a
    lower ``trainer.max_steps``. Otherwise the stage is extended from its last checkpoint, and EarlyStopping begins to
    count its patience again.

    Args:
        finished: description of the stage's end, from the stage's weights or checkpoint.
        max_steps: ``trainer.max_steps`` of the command.
        specs: configs of the command's callbacks.
    """
    return max_steps <= finished.get("max_steps", 0) and finished.get("callback") in list(specs)
