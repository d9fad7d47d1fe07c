"""Guard that refuses optimizer steps whose loss or gradient is not finite. A refused step changes no weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from sr_train.batch import Batch
from sr_train.tasks.host_copy import HostCopy
from sr_train.tasks.tensors import Buffers

#: Steps after which a verdict is read. A GPU has it long before, and still has the work of the newest steps: nobody waits.
#: The number is fixed, so that all processes end at the same step. Other devices are read only by :meth:`Guard.look`.
_DELAY = {"cpu": 0, "cuda": 2}


class NonFiniteError(ValueError):
    """Error for too many steps in a row with a loss or gradient that is not finite."""


class Event(NamedTuple):
    """A row of ``events.csv``."""

    step: int
    what: str
    images: str  #: names of the images, with spaces between them


class _Judged(NamedTuple):
    """A step about which the device decides, perhaps after this object is made."""

    step: int
    keys: list[str]
    refused: HostCopy  #: 1.0 or 0.0
    loss: torch.Tensor  #: read only if the step is refused, to tell the reason
    delay: int | None


class Guard:
    """Guard that collects image names and losses of a step's micro-batches, and refuses a step that is not finite.

    The decision is computed on the device. The host reads it later (:meth:`look`, :meth:`follow`). The optimizer's step
    is skipped on the device, or by :func:`skip_step`.

    Args:
        patience: number of refused steps in a row that ends the run.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.refused = 0  #: number of steps refused so far, as far as the host knows
        self.in_a_row = 0  #: number of refused steps since the last good one
        self.events: list[Event] = []  #: refused steps that are not yet written to events.csv
        self._keys: list[str] = []
        self._losses: list[torch.Tensor] = []
        self._statistics: Buffers | None = None
        self._judged: deque[_Judged] = deque()

    def begin(self, batch: Batch, networks: Sequence[nn.Module]) -> None:
        """Store the image names of a micro-batch.

        Before the first micro-batch of a step, also copy BatchNorm's statistics, so that they can be restored if the
        step is refused.
        """
        if not self._keys:
            self._statistics = Buffers(networks)
        self._keys += batch.get("suspects") or batch["key"]

    def see(self, loss: torch.Tensor) -> None:
        """Store the loss of a micro-batch for the decision at the end of the step."""
        self._losses.append(loss.detach())

    def judge(self, step: int, norm: torch.Tensor, *, alone: bool) -> torch.Tensor:
        """Decide if a step is refused. Return a tensor on the device: 1.0 if the step is refused, else 0.0.

        If the step is refused, BatchNorm's statistics are restored.

        Args:
            step: number of the step.
            norm: norm of the gradient.
            alone: true if the run has one process. With several processes, only the norm of the averaged gradient
                decides, because it is the same in all processes. It also contains the losses of all processes, see
                :func:`spread`.
        """
        loss = total(self._losses or [norm]).to(norm.device)
        whole = norm + loss if alone else norm
        refused = torch.nan_to_num(whole - whole, nan=1.0).float()  # x - x is 0, or NaN for NaN and infinity
        self._judged.append(_Judged(step, self._keys, HostCopy([refused]), loss, _DELAY.get(norm.device.type)))
        if self._statistics is not None:  # there are none if a hook was called directly
            self._statistics.restore(refused)
        return refused

    def end(self) -> None:
        """End a step: forget the image keys, losses and statistics that were kept for it."""
        self._keys, self._losses, self._statistics = [], [], None

    def follow(self, step: int) -> None:
        """After step number ``step``, count the refused steps among those whose decision has already arrived from the device.

        The host does not wait for the device.

        Raise NonFiniteError after too many refused steps in a row.
        """
        while self._judged and (delay := self._judged[0].delay) is not None and self._judged[0].step + delay <= step:
            self._count(self._judged.popleft())

    def look(self) -> None:
        """Wait for the device and count all refused steps.

        Raise NonFiniteError after too many refused steps in a row.
        """
        while self._judged:
            self._count(self._judged.popleft())

    def _count(self, judged: _Judged) -> None:
        (refused,) = judged.refused.read()
        if not refused:
            self.in_a_row = 0
            return
        self.refused += 1
        self.in_a_row += 1
        part = "gradient" if bool(torch.isfinite(judged.loss)) else "loss"
        self.events.append(Event(judged.step, f"refused: {part} not finite", " ".join(judged.keys)))
        if self.in_a_row >= self.patience:
            raise NonFiniteError(
                f"step {judged.step}: loss or gradient was not finite in {_steps(self.in_a_row)}; these steps did not change "
                f"the weights. Last images: {', '.join(judged.keys[:8])}. Try a lower task.rate, "
                "trainer.gradient_clip_val=1 or trainer.precision=32; events.csv lists the images"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counters of refused steps for a checkpoint."""
        return {"refused": self.refused, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counters of refused steps from a checkpoint."""
        self.refused, self.in_a_row = int(state.get("refused", 0)), int(state.get("in_a_row", 0))


def total(numbers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of numbers on the device; the number itself if there is only one, without an operation."""
    return numbers[0] if len(numbers) == 1 else torch.stack(list(numbers)).sum()


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps in a row"


def spread(loss: torch.Tensor) -> None:
    """Make the gradient of a loss NaN if the loss is not finite.

    The gradient of a finite loss stays bit for bit the same. The gradient may be finite although the loss is not, e.g.
    if a sum of squares overflows. If the gradient is NaN in one process, the mean of the gradients is NaN in all
    processes. So all processes refuse the step without another message.
    """
    value = loss.detach()

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient + 0 * value

    loss.register_hook(hook)  # pyright: ignore[reportUnknownMemberType]


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return true if the optimizer can skip a step on the device: it reads ``found_inf``, and changes no weights and no state.

    The result is true for torch's fused Adam and AdamW. The result is false for fused SGD, whose momentum stays
    uninitialized if its first step is skipped.
    """
    exact = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)  # a subclass may have a step of its own
    return exact and all(group.get("fused") for group in optimizer.param_groups)


def skip_step(optimizer: torch.optim.Optimizer, refused: torch.Tensor) -> None:
    """Let the next step of the optimizer change nothing if ``refused`` is 1.0.

    For a fused Adam or AdamW, the step is skipped on the device. For other optimizers, the host waits here for the
    device, and removes the gradients of a refused step.
    """
    if skips_on_device(optimizer):
        optimizer.found_inf = refused  # pyright: ignore[reportAttributeAccessIssue]
    elif bool(refused):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
