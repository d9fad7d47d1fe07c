"""Timer of the parts of Lightning's training loop.

Lightning's loop reports all its actions to ``trainer.profiler``. :class:`StepTimer` replaces this profiler. Actions can
contain other actions. The time is added to the innermost action that is a known part, so the times of all parts add up
to the elapsed time.
"""

from __future__ import annotations

import re
import time

import torch
from lightning.pytorch.profilers import Profiler
from torch.profiler import record_function

from sr_train.training.profiling.report import (
    BACKWARD,
    CALLBACKS,
    CHECKPOINT,
    COPY,
    DATA,
    FORWARD,
    GUARD,
    LOGGING,
    OPTIMIZER,
    OTHER,
    PARTS,
    VALIDATION,
)

_HOOKS = {
    "train_dataloader_next": DATA,
    "batch_to_device": COPY,
    "training_step": FORWARD,
    "backward": BACKWARD,
    "on_before_optimizer_step": GUARD,
    "optimizer_step": OPTIMIZER,
}

_OURS = {
    "Record": LOGGING,  # StepLog: Lightning names a callback by the key of its state
    "Progress": LOGGING,
    "Validate": VALIDATION,
    "Checkpoints": CHECKPOINT,
    "Stop": OTHER,
    "StepProfiler": OTHER,
}


def part_of(action: str) -> str | None:
    """Return the part of a step that begins with an action of Lightning; None if the action belongs to the part around it.

    Examples: ``[Strategy]DDPStrategy.backward`` -> backward; ``[Callback]Validate.on_train_batch_end`` -> validation.
    """
    owner, _, hook = action.rpartition(".")
    if not owner.startswith("[Callback]"):
        return _HOOKS.get(hook)
    if hook not in ("on_train_batch_start", "on_train_batch_end"):
        return None
    name = re.match(r"\w*", owner.removeprefix("[Callback]"))
    return _OURS.get(name[0] if name else "", CALLBACKS)


class StepTimer(Profiler):
    """Profiler that measures the seconds of each part of a step. Time is added to the innermost part that has started.

    Args:
        device: device of the network. A GPU is synchronized at the border between two parts, because the GPU's work
            would otherwise be added to the first part that waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._stack = [OTHER]
        self._since = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def start(self, action_name: str) -> None:
        """Start an action."""
        part = part_of(action_name) or self._stack[-1]
        if part != self._stack[-1]:
            self._charge()
        self._stack.append(part)

    def stop(self, action_name: str) -> None:
        """End an action. An action that started before this timer is ignored."""
        if len(self._stack) > 1:
            if self._stack[-1] != self._stack[-2]:
                self._charge()
            self._stack.pop()

    def take(self) -> dict[str, float]:
        """End a step. Return {part: seconds in this step}."""
        self._charge()
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken


class Marks(Profiler):
    """Profiler that marks the parts of a step in a trace of ``torch.profiler``."""

    def __init__(self) -> None:
        super().__init__()
        self._stack: list[record_function | None] = []

    def start(self, action_name: str) -> None:
        """Start an action."""
        part = part_of(action_name)
        self._stack.append(None if part is None else record_function(part))
        if (mark := self._stack[-1]) is not None:
            mark.__enter__()

    def stop(self, action_name: str) -> None:
        """End an action."""
        if self._stack and (mark := self._stack.pop()) is not None:
            mark.__exit__(None, None, None)
