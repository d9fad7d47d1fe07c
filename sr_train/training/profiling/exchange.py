"""Time in which DistributedDataParallel (ddp) averages the gradients of the processes, measured by ddp's own timers."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.nn.parallel import DistributedDataParallel


class Exchange:
    """Reader of the timers of DistributedDataParallel (ddp). It changes neither the gradients nor their order.

    The exchange of gradients begins while the backward pass still computes other gradients. It ends when the averages
    have arrived, so it includes the time in which this process waits for slower processes.

    Args:
        trainer: trainer whose strategy may be ddp.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        network: Any = trainer.strategy.model
        self._network: Any = network if isinstance(network, DistributedDataParallel) else None
        self.whole: list[float] = []  #: seconds of each step's exchange
        self.exposed: list[float] = []  #: seconds of each step's exchange after the end of the backward pass
        if self._network is not None:
            self._network._set_ddp_runtime_logging_sample_rate(1)  # the default is 1 of 100 steps

    def read(self) -> None:
        """Store the times of the previous step, because ddp's timers for the current step are not complete yet."""
        if self._network is None:
            return
        times = self._network._get_ddp_logging_data()
        whole, hidden = times.get("backward_comm_time", 0), times.get("backward_compute_comm_overlap_time", 0)
        if whole > 0:
            self.whole.append(whole / 1e9)
            self.exposed.append(max(whole - hidden, 0) / 1e9)

    def means(self) -> tuple[float, float] | None:
        """Return (seconds of the whole exchange, seconds of it after the end of the backward pass), means over the steps.

        Return None in a run with one process.
        """
        if not self.whole:
            return None
        return sum(self.whole) / len(self.whole), sum(self.exposed) / len(self.exposed)
