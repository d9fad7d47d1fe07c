"""Exponential moving average (EMA) of a network's weights and buffers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sr_train.tasks.host_copy import HostTensors
from sr_train.tasks.tensors import Store, copy_all, lerp_all, places


class Average(AveragedModel):
    """EMA with the decay min(decay, (1 + t) / (10 + t)) after t updates; the first update copies the network.

    Without this warm-up, the average after a few hundred steps consists mostly of the random initial weights.

    t is counted on the host, so that no update waits for the device, and saved as the buffer ``n_averaged`` (written by
    :meth:`settle`). A step
    that is refused (:mod:`sr_train.tasks.guard`) counts as an update as well: the unchanged weights are averaged once
    more. So t is the number of all steps. Every process knows this number, and need not ask the device which steps were
    refused.

    Args:
        network: network to average. The average is a copy of the network.
        decay: largest decay.
        on_host: true to keep the average in the memory of the host, wherever the network is. The device copies the weights
            in the background, and the host averages them at the next update, or when :meth:`settle` is called.
    """

    def __init__(self, network: nn.Module, *, decay: float, on_host: bool = False) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay
        self.on_host = on_host
        self._copies = HostTensors()
        self._waiting: tuple[float, list[torch.Tensor]] | None = None  # weight and averages of requested copies
        self._updates: int | None = None  # None: read n_averaged first
        self._source: weakref.ref[nn.Module] | None = None
        self._pairs: list[tuple[Store, Store, str]] = []

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the current weights and buffers of ``model``.

        Integer tensors are copied, not averaged.
        """
        if self._waiting is not None:
            self.settle()
        if self._updates is None:
            self._updates = int(self.n_averaged)
        t = self._updates
        averages, currents, others, theirs = self._tensors(model)
        weight = 1.0 if t == 0 else 1 - min(self.decay, (1 + t) / (10 + t))
        if self._is_away(currents):
            self._copies.request([*currents, *theirs])
            self._waiting = weight, [*averages, *others]
        else:
            _average(averages, currents, weight)
            copy_all(others, theirs)  # BatchNorm's counters
        self._updates = t + 1

    def _is_away(self, currents: list[torch.Tensor]) -> bool:
        """Return true if the network is on another device than the average."""
        return self.on_host and bool(currents) and currents[0].device.type != "cpu"

    @torch.no_grad()
    def settle(self) -> None:
        """Make the average and ``n_averaged`` those of the last update.

        Wait for weights that are on their way to the host. Before :meth:`state_dict`, this is called automatically.
        """
        if self._updates is not None:
            self.n_averaged.fill_(self._updates)
        if self._waiting is None:
            return
        (weight, targets), self._waiting = self._waiting, None
        pairs = list(zip(targets, self._copies.read(), strict=True))
        real = [pair for pair in pairs if pair[0].is_floating_point()]
        _average([a for a, _ in real], [b for _, b in real], weight)
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        copy_all([a for a, _ in counters], [b for _, b in counters])

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Average:
        """Move to another device or type, unless the average belongs to the host."""
        return self if self.on_host else super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.settle()
        super()._save_to_state_dict(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]

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
        self._updates = self._waiting = None


def _average(averages: list[torch.Tensor], currents: list[torch.Tensor], weight: float) -> None:
    if weight == 1:  # the first update
        copy_all(averages, currents)
    else:
        lerp_all(averages, currents, weight)


def averaged_copy(network: nn.Module, decay: float, *, on_host: bool = False) -> Average:
    """Return the EMA of a network, on the network's device or on the host. Raise ValueError if it cannot be copied.

    ``nn.utils.weight_norm`` keeps the computed weight as an attribute with an autograd graph, which cannot be copied.
    The attribute is detached here; weight_norm computes it again before every use.
    """
    for module in network.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    try:
        average = Average(network, decay=decay, on_host=on_host)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"task.ema={decay}: {type(network).__name__} cannot be copied ({reason}); task.ema=null trains without an EMA"
        ) from error
    return average.requires_grad_(False).eval()
