"""A callback that slows a run down, so that a test can disturb it between two steps."""

import time
from pathlib import Path

import lightning as L


class Brake(L.Callback):
    """Wait after each batch, as long as the file ``brake`` exists in the working directory.

    Args:
        seconds: seconds to wait.
        rank: the only rank that waits; None for all.
    """

    def __init__(self, *, seconds: float = 0.4, rank: int | None = None):
        self.seconds = seconds
        self.rank = rank

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if Path("brake").exists() and self.rank in (None, trainer.global_rank):
            time.sleep(self.seconds)
