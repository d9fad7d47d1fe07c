"""Training images that the loaders skipped because they cannot be read: events and a count, collected from all ranks."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import distributed

from sr_train.tasks.guard import Event


class Skipped:
    """Training images that the loaders skipped.

    Each rank stores the skipped images of its own batches until the next exchange. The ranks exchange images at log
    entries and at checkpoints (:meth:`gather`). They first compute the mean of their counts of stored images: at a log
    entry together with the other logged numbers, at a checkpoint separately. The images' names are sent only if this
    mean is not 0.
    """

    def __init__(self) -> None:
        self.total = 0  #: images of all ranks that :meth:`gather` has returned, since the start of the run
        self.kept: list[Event] = []  #: images of this rank that :meth:`gather` has not returned
        self._met = -1  # step of the last exchange

    def see(self, batch: Any, step: int) -> None:
        """Store the images that the loader skipped for a batch of step ``step``."""
        for name, reason in batch.get("skipped", ()):
            text = " ".join(reason.replace(",", ";").split())  # events.csv has three fields
            self.kept.append(Event(step, f"skipped: {text}", " ".join(name.replace(",", ";").split())))

    def gather(self, trainer: L.Trainer, step: int, found: float | None = None) -> list[Event]:
        """Return the stored images of all ranks, in order of the ranks, and add their number to ``total``.

        All ranks must call this method.

        Args:
            trainer: the trainer.
            step: current step. A second call in the same step exchanges nothing.
            found: mean over the ranks of the number of stored images, if the ranks have computed it; else None.
        """
        if trainer.world_size > 1:
            if step == self._met:
                return []
            self._met = step
            if found is None:
                count = torch.tensor(float(len(self.kept)), device=trainer.strategy.root_device)
                found = float(torch.as_tensor(trainer.strategy.reduce(count, reduce_op="mean")))
            if not found > 0:
                return []
        mine = [event for event in self.kept if event.step <= step]  # a step's first micro-batches may have been seen
        self.kept = [event for event in self.kept if event.step > step]
        events = _of_all_ranks(mine, trainer.world_size)
        self.total += len(events)
        return events


def _of_all_ranks(mine: list[Event], world: int) -> list[Event]:
    if world == 1:
        return mine
    parts: list[list[Event]] = [[] for _ in range(world)]
    distributed.all_gather_object(parts, mine)
    return [event for part in parts for event in part]
