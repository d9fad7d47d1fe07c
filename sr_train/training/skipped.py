"""Training images that could not be read, of all ranks, as events and as a number."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import distributed

from sr_train.tasks.guard import Event


class Skipped:
    """Images that the loaders skipped. Each rank sees those of its own batches and keeps them until all ranks meet.

    At log entries the ranks reduce their numbers, among them the count of kept images (:meth:`gather` with ``found``). At a
    checkpoint they reduce this count alone, unless the step has a log entry. The images are sent only if there are any.
    """

    def __init__(self) -> None:
        self.total = 0  #: images of all ranks that :meth:`gather` has returned, since the start of the run
        self.kept: list[Event] = []  #: images of this rank that :meth:`gather` has not returned
        self._met = -1  # step of the last exchange

    def see(self, batch: Any, step: int) -> None:
        """Keep the images that were skipped for a batch of ``step``."""
        for name, reason in batch.get("skipped", ()):
            text = " ".join(reason.replace(",", ";").split())  # events.csv has three fields
            self.kept.append(Event(step, f"skipped: {text}", " ".join(name.replace(",", ";").split())))

    def gather(self, trainer: L.Trainer, step: int, found: float | None = None) -> list[Event]:
        """Return the kept images of all ranks, in order of the ranks, and count them. Call it on all ranks.

        Args:
            trainer: the trainer.
            step: the present step; a second call in one step exchanges nothing.
            found: mean over the ranks of the number of kept images, if the ranks have reduced it.
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
