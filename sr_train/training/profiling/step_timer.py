"""Where the time of Lightning's loop goes, by part.

Lightning names everything that its loop does to ``trainer.profiler``, nested as it is called. :class:`Ledger` takes the
profiler's place and gives each moment to the innermost part that it knows, so the parts sum to the time that has passed.
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
    "StepLog": LOGGING,
    "Progress": LOGGING,
    "Validate": VALIDATION,
    "Checkpoints": CHECKPOINT,
    "Stop": OTHER,
    "StepProfiler": OTHER,
}


def part_of(action: str) -> str | None:
    """The part that one of Lightning's actions begins; None where it belongs to what it is called in.

    ``[Strategy]DDPStrategy.backward`` -> backward, ``[Callback]Validate.on_train_batch_end`` -> validation.
    """
    owner, _, hook = action.rpartition(".")
    if not owner.startswith("[Callback]"):
        return _HOOKS.get(hook)
    if hook not in ("on_train_batch_start", "on_train_batch_end"):
        return None
    name = re.match(r"\w*", owner.removeprefix("[Callback]"))
    return _OURS.get(name[0] if name else "", CALLBACKS)


class Ledger(Profiler):
    """Seconds by part, each moment given to the innermost part that has begun.

    Args:
        device: of the network; a GPU is waited for where one part ends and another begins, or else its work would be booked
            on whatever waits for it first.
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
        """An action begins."""
        part = part_of(action_name) or self._stack[-1]
        if part != self._stack[-1]:
            self._charge()
        self._stack.append(part)

    def stop(self, action_name: str) -> None:
        """It ends. One that began before this ledger was opened is none of its."""
        if len(self._stack) > 1:
            if self._stack[-1] != self._stack[-2]:
                self._charge()
            self._stack.pop()

    def take(self) -> dict[str, float]:
        """Close a step: its seconds by part."""
        self._charge()
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken


class Marks(Profiler):
    """Writes the parts into a trace of ``torch.profiler``."""

    def __init__(self) -> None:
        super().__init__()
        self._stack: list[record_function | None] = []

    def start(self, action_name: str) -> None:
        """An action begins."""
        part = part_of(action_name)
        self._stack.append(None if part is None else record_function(part))
        if (mark := self._stack[-1]) is not None:
            mark.__enter__()

    def stop(self, action_name: str) -> None:
        """It ends."""
        if self._stack and (mark := self._stack.pop()) is not None:
            mark.__exit__(None, None, None)
