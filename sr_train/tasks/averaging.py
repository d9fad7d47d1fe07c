"""Exponential moving average (EMA) of a network's weights and buffers."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sr_train.tasks.tensors import Store, copy_all, lerp_all, places


class Average(AveragedModel):
    """EMA with the decay min(decay, (1 + t) / (10 + t)) after t updates; the first update copies the network.

    Without this warm-up, the average after a few hundred steps consists mostly of the random initial weights.

    t is counted on the host, so that no update waits for the device, and saved as the buffer ``n_averaged``. A step
    that is refused (:mod:`sr_train.tasks.guard`) counts as an update as well: the unchanged weights are averaged once
    more. So t is the number of all steps. Every process knows this number, and need not ask the device which steps were
    refused.

    Args:
        network: network to average. The average is a copy of the network.
        decay: largest decay.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay
        self._updates: int | None = None  # None: read n_averaged first
        self._source: weakref.ref[nn.Module] | None = None
        self._pairs: list[tuple[Store, Store, str]] = []

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the current weights and buffers of ``model``.

        Integer tensors are copied, not averaged.
        """
        if self._updates is None:
            self._updates = int(self.n_averaged)
        t = self._updates
        averages, currents, others, theirs = self._tensors(model)
        if t == 0:
            copy_all(averages, currents)
        else:
            lerp_all(averages, currents, 1 - min(self.decay, (1 + t) / (10 + t)))
        copy_all(others, theirs)  # BatchNorm's counters
        self._updates = t + 1
        self.n_averaged.fill_(self._updates)

    def _tensors(self, model: nn.Module) -> tuple[list[torch.Tensor], ...]:
        """Return four lists of tensors.

        In order: floating-point tensors of the average, floating-point tensors of ``model``, integer tensors of the
        average, integer tensors of ``model``.
        """
        if self._source is None or self._source() is not model:
            self._source = weakref.ref(model)
            pairs = zip(places(self.module), places(model), strict=True)
            self._pairs = [(mine, its, name) for (mine, name), (its, _) in pairs]
        found: tuple[list[torch.Tensor], ...] = ([], [], [], [])
        for mine, its, name in self._pairs:
            average, current = mine[name], its[name]
            real = 0 if average.is_floating_point() else 2
            found[real].append(average)
            found[real + 1].append(current if current.dtype == average.dtype else current.to(average.dtype))
        return found

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]
        self._updates = None


def averaged_copy(network: nn.Module, decay: float) -> Average:
    """Return the EMA of a network. Raise ValueError if the network cannot be copied.

    ``nn.utils.weight_norm`` keeps the computed weight as an attribute with an autograd graph, which cannot be copied.
    The attribute is detached here; weight_norm computes it again before every use.
    """
    for module in network.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    try:
        average = Average(network, decay=decay)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"task.ema={decay}: {type(network).__name__} cannot be copied ({reason}); task.ema=null trains without an EMA"
        ) from error
    return average.requires_grad_(False).eval()
