"""The guard of a run: refuses optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sr_train.batch import Batch


class NonFiniteError(ValueError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class Guard:
    """Collects the keys and losses of a step's micro-batches, and refuses the step where something is not finite.

    Args:
        patience: steps in a row that may be refused.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.refused = 0  #: steps refused so far
        self.in_a_row = 0  #: of these, the newest ones without a good step after them
        self._keys: list[str] = []
        self._losses: list[torch.Tensor] = []
        self._statistics: list[torch.Tensor] = []

    def begin(self, batch: Batch, networks: Sequence[nn.Module]) -> None:
        """Keep a micro-batch's keys, and before a step's first one the statistics of BatchNorm, to undo the step."""
        if not self._keys:
            self._statistics = [b.clone() for b in _buffers(networks)]
        self._keys += _suspects(batch)

    def see(self, loss: torch.Tensor) -> None:
        """Keep a micro-batch's loss."""
        self._losses.append(loss.detach())

    def end(self) -> None:
        """Forget the step, which is over."""
        self._keys, self._losses = [], []

    def total(self, default: torch.Tensor) -> torch.Tensor:
        """Sum of the step's losses; ``default`` where none was seen."""
        return torch.stack(self._losses).sum() if self._losses else default

    def refuse(self, optimizer: torch.optim.Optimizer, networks: Sequence[nn.Module]) -> str:
        """Drop all gradients, so that the optimizer changes nothing, and restore the statistics; returns the step's keys."""
        self.refused += 1
        self.in_a_row += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        # there are no statistics where a hook was called by hand
        for buffer, before in zip(_buffers(networks), self._statistics, strict=False):
            buffer.copy_(before)
        return " ".join(self._keys)

    def check_patience(self, step: int) -> None:
        """Raise NonFiniteError where too many steps in a row were refused, the newest being ``step``."""
        if self.in_a_row >= self.patience:
            raise NonFiniteError(
                f"step {step}: loss or gradient was not finite in {self.in_a_row} steps in a row; the weights "
                f"are those before them. Last images: {', '.join(self._keys[:8])}. A lower task.rate, "
                "trainer.gradient_clip_val=1 or trainer.precision=32 usually helps; events.csv names the images"
            )

    def state_dict(self) -> dict[str, Any]:
        """Counters for a checkpoint."""
        return {"refused": self.refused, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the counters of a checkpoint."""
        self.refused, self.in_a_row = int(state.get("refused", 0)), int(state.get("in_a_row", 0))


def _buffers(networks: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [buffer for network in networks for buffer in network.buffers()]


def _suspects(batch: Batch) -> list[str]:
    """Keys of a batch; of the images that are not finite alone, where the loader found any."""
    pixels = batch["hr"]
    if pixels.is_floating_point():
        whole = torch.isfinite(pixels.flatten(1)).all(1) & torch.isfinite(batch["lr"].flatten(1)).all(1)
        bad = [key for i, key in enumerate(batch["key"]) if not whole[i]]
        if bad:
            return bad
    return list(batch["key"])
