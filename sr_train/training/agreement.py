"""Exchange of integers between the ranks of a run without a wait, and a check that all ranks start at the same step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import lightning as L
import torch
from torch import distributed

from sr_train.runs.ranks import Ranks
from sr_train.training.step_callback import StepCallback


class LateAgreement:
    """Computes the maximum over all ranks of each of a few integers. The result is available one call later.

    An exchange runs in the background, on the host, during the next step. So this process waits neither for the device
    nor for other ranks, and all ranks get the result at the same step.

    Args:
        world: number of ranks.
        timeout: seconds after which an exchange fails.
    """

    def __init__(self, world: int, timeout: float = 1800.0) -> None:
        self._group: Any = None
        if world > 1:
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._work: distributed.Work | None = None
        self._values = torch.zeros(0)

    def exchange(self, values: list[int]) -> list[int]:
        """Start an exchange of ``values`` between the ranks, and return the result of the previous exchange.

        The result contains the largest value of all ranks for each place. The first call returns zeros. In a run with
        one rank, ``values`` are returned at once.
        """
        if self._group is None:
            return values
        agreed = self.finish() or [0] * len(values)
        self._values = torch.tensor(values)
        self._work = distributed.all_reduce(self._values, op=distributed.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def finish(self) -> list[int] | None:
        """Wait for the exchange that is running, and return its result; None if no exchange is running."""
        work, self._work = self._work, None
        if work is None:
            return None
        work.wait()
        return self._values.numpy().tolist()  # a tensor of the host: no device waits


class Beats(StepCallback):
    """Callback that updates the heartbeats of this process, and compares the first step of all ranks.

    A heartbeat contains the step and what the process does, see :class:`.runs.ranks.Ranks`.

    Args:
        ranks: processes of the run.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise ValueError if rank 0 continues from another step than this process."""
        super().on_train_start(trainer, pl_module)
        step = self.ranks.decide("step", lambda: trainer.global_step)
        if step != trainer.global_step:
            raise ValueError(
                f"rank {self.ranks.rank} would continue from step {trainer.global_step}, but rank 0 from step {step}: all "
                "nodes must see the same files in paths.runs"
            )
        self.ranks.doing("waits for its data", step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Store for the heartbeat of this process that the wait for data has ended."""
        self.ranks.doing("computes a step")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Store for the heartbeat of this process that a step has been finished, and that the process waits for data."""
        self.ranks.doing("waits for its data", trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the message "no step for N s" at the end of training."""
        self.ranks.pause()
