"""Time that DistributedDataParallel needs to average the gradients of the processes, as its own timers measure it."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.nn.parallel import DistributedDataParallel


class Exchange:
    """Reader of the timers of DistributedDataParallel; it changes neither the gradients nor their order.

    The exchange begins with the first bucket of gradients, while the backward pass computes the others. It ends when the
    averages have arrived, so it includes the time that this process waits for slower ones.

    Args:
        trainer: trainer whose strategy may be ddp.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        network: Any = trainer.strategy.model
        self._network: Any = network if isinstance(network, DistributedDataParallel) else None
        self.whole: list[float] = []  #: seconds of each step's exchange
        self.exposed: list[float] = []  #: those after the end of the backward pass
        if self._network is not None:
            self._network._set_ddp_runtime_logging_sample_rate(1)  # the default is 1 of 100 steps

    def read(self) -> None:
        """Keep the times of the newest step that is known, the one before the last."""
        if self._network is None:
            return
        times = self._network._get_ddp_logging_data()
        whole, hidden = times.get("backward_comm_time", 0), times.get("backward_compute_comm_overlap_time", 0)
        if whole > 0:
            self.whole.append(whole / 1e9)
            self.exposed.append(max(whole - hidden, 0) / 1e9)

    def means(self) -> tuple[float, float] | None:
        """Return the mean seconds per step (of the exchange, of its exposed part); None with one process."""
        if not self.whole:
            return None
        return sum(self.whole) / len(self.whole), sum(self.exposed) / len(self.exposed)
