"""Callbacks that slow a run down."""

import time
from pathlib import Path

import lightning as L


class Brake(L.Callback):
    """Wait after each batch, as long as the file ``brake`` exists in the working directory.

    Args:
        seconds: seconds to wait.
    """

    def __init__(self, *, seconds: float = 0.4):
        self.seconds = seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if Path("brake").exists():
            time.sleep(self.seconds)


class SlowRank(L.Callback):
    """Wait before the backward pass of one rank, for which the others then wait.

    Args:
        seconds: seconds to wait.
        rank: the slow rank.
    """

    def __init__(self, *, seconds: float, rank: int):
        self.seconds = seconds
        self.rank = rank

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_rank == self.rank:
            time.sleep(self.seconds)
