"""Access to all parameters and buffers of a network, and operations on many tensors at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

Store = dict[str, Any]  #: a module's parameters or buffers by name

_torch: Any = torch  # its functions for lists of tensors are public by torch.optim only, and have no types


def places(network: nn.Module) -> Iterator[tuple[Store, str]]:
    """Yield (dict, name) for each parameter and buffer of a network: ``dict[name]`` is the tensor.

    The dict belongs to the module that contains the tensor. A tensor that several modules share is yielded once. Read
    the tensor from the dict for each use, because ``to()`` and assignments replace buffers by other tensors.
    """
    seen: set[int] = set()
    for module in network.modules():
        for store in (vars(module)["_parameters"], vars(module)["_buffers"]):
            for name, tensor in store.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield store, name


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy the values of ``sources`` into ``targets``, which have the same shapes."""
    if targets:
        _torch._foreach_copy_(list(targets), list(sources))


def lerp_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], weight: float) -> None:
    """Change ``targets`` to target + weight * (source - target), with the same bits as ``Tensor.lerp_``."""
    if targets:
        _torch._foreach_lerp_(list(targets), list(sources), weight)


class Buffers:
    """Copy of all buffers of networks that are saved. Others (``persistent=False``) are constants, e.g. a mean color.

    The buffers can be restored depending on a value on the device, without a wait of the host. Buffers of one type are
    joined to one tensor, so that many buffers need only few operations.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._places: dict[tuple[torch.device, torch.dtype], list[tuple[Store, str, torch.Size]]] = {}
        found: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        for module in (module for network in networks for module in network.modules()):
            store, constants = vars(module)["_buffers"], vars(module)["_non_persistent_buffers_set"]
            for name, buffer in store.items():
                if buffer is not None and name not in constants:
                    kind = buffer.device, buffer.dtype
                    self._places.setdefault(kind, []).append((store, name, buffer.shape))
                    found.setdefault(kind, []).append(buffer)
        self._copies = {kind: _joined(buffers) for kind, buffers in found.items()}

    @torch.no_grad()
    def restore(self, wanted: torch.Tensor) -> None:
        """Set the buffers to their copies if ``wanted``, a number on the device, is not 0.

        A buffer whose shape, type or device has changed since is not restored.
        """
        condition = wanted.bool() if self._places else wanted
        for (device, dtype), places in self._places.items():
            copies = torch.split(self._copies[device, dtype], [shape.numel() for _, _, shape in places])
            pairs = [
                (buffer, copy)
                for (store, name, shape), copy in zip(places, copies, strict=True)
                if (buffer := store.get(name)) is not None
                and (buffer.shape, buffer.dtype, buffer.device) == (shape, dtype, device)
            ]
            if pairs:
                now, before = _joined([b for b, _ in pairs]), _joined([c for _, c in pairs])
                kept = torch.where(condition.to(device), before, now)
                parts = torch.split(kept, [b.numel() for b, _ in pairs])
                copy_all([b for b, _ in pairs], [p.view_as(b) for p, (b, _) in zip(parts, pairs, strict=True)])


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])
