"""Guard that refuses optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sr_train.batch import Batch


class NonFiniteError(ValueError):
    """Error for too many steps in a row with a loss or gradient that is not finite."""


class Guard:
    """Collector of the keys and losses of a step's micro-batches; undoes a refused step.

    Args:
        patience: number of refused steps in a row that ends the run.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.refused = 0  #: number of steps refused so far
        self.in_a_row = 0  #: number of refused steps since the last good one
        self._keys: list[str] = []
        self._losses: list[torch.Tensor] = []
        self._statistics: list[torch.Tensor] = []

    def begin(self, batch: Batch, networks: Sequence[nn.Module]) -> None:
        """Keep a micro-batch's keys, and before the first one of a step BatchNorm's statistics, to undo the step."""
        if not self._keys:
            self._statistics = [b.clone() for b in _buffers(networks)]
        self._keys += _suspects(batch)

    def see(self, loss: torch.Tensor) -> None:
        """Keep a micro-batch's loss."""
        self._losses.append(loss.detach())

    def end(self) -> None:
        """End a step: forget the image keys and losses that :meth:`begin` and :meth:`see` kept for it."""
        self._keys, self._losses = [], []

    def total(self, default: torch.Tensor) -> torch.Tensor:
        """Return the sum of the step's losses; ``default`` if there are none."""
        return torch.stack(self._losses).sum() if self._losses else default

    def refuse(self, optimizer: torch.optim.Optimizer, networks: Sequence[nn.Module]) -> str:
        """Drop all gradients, so that the optimizer changes nothing, and restore the statistics; return the step's keys."""
        self.refused += 1
        self.in_a_row += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        # there are no statistics if a hook was called directly
        for buffer, before in zip(_buffers(networks), self._statistics, strict=False):
            buffer.copy_(before)
        return " ".join(self._keys)

    def check_patience(self, step: int) -> None:
        """Raise NonFiniteError if too many steps in a row were refused; ``step`` is the newest one."""
        if self.in_a_row >= self.patience:
            raise NonFiniteError(
                f"step {step}: loss or gradient was not finite in {_steps(self.in_a_row)}; these steps did not change "
                f"the weights. Last images: {', '.join(self._keys[:8])}. Try a lower task.rate, "
                "trainer.gradient_clip_val=1 or trainer.precision=32; events.csv lists the images"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counters for a checkpoint."""
        return {"refused": self.refused, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the counters of a checkpoint."""
        self.refused, self.in_a_row = int(state.get("refused", 0)), int(state.get("in_a_row", 0))


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps in a row"


def _buffers(networks: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [buffer for network in networks for buffer in network.buffers()]


def _suspects(batch: Batch) -> list[str]:
    """Return the keys of the images in a batch that are not finite; all keys if every image is finite."""
    pixels = batch["hr"]
    if pixels.is_floating_point():
        whole = torch.isfinite(pixels.flatten(1)).all(1) & torch.isfinite(batch["lr"].flatten(1)).all(1)
        bad = [key for i, key in enumerate(batch["key"]) if not whole[i]]
        if bad:
            return bad
    return list(batch["key"])
