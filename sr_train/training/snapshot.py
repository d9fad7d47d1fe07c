"""Copy of a checkpoint in host memory, so that training continues while another thread writes the checkpoint."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch


class Snapshot:
    """Copy of a checkpoint in host memory. The next copy uses the same memory again.

    Tensors of a GPU are copied to pinned memory in the background: the GPU's stream copies them before the next step
    changes them, and :meth:`wait` waits for the end of the copies. Tensors in host memory are copied at once, because
    the optimizer changes them in place.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        self._copied: dict[tuple[Any, ...], torch.Tensor] = {}
        self._events: list[torch.cuda.Event] = []

    @property
    def nbytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(b.numel() * b.element_size() for b in self._buffers)

    def take(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of a checkpoint's content. The next call overwrites this copy.

        Tensors that share memory also share memory in the copy.
        """
        self._used, self._copied, self._events = 0, {}, []
        copied = self._copy(content)
        del self._buffers[self._used :]
        for device in {key[0] for key in self._copied if key[0].type == "cuda"}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)
        self._copied = {}
        return copied

    def wait(self) -> None:
        """Wait until the last copy is complete; another thread may call this method."""
        for event in self._events:
            event.synchronize()

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value.detach())
        if type(value) in (dict, OrderedDict):
            new = type(value)((key, self._copy(item)) for key, item in value.items())
            if isinstance(value, OrderedDict):
                vars(new).update(vars(value))  # torch's state_dict has an attribute _metadata
            return new
        if type(value) in (list, tuple):
            return type(value)(self._copy(item) for item in value)
        return copy.deepcopy(value)

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided or tensor.is_quantized:
            return tensor.cpu().clone()
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._copied:
            pinned = tensor.device.type == "cuda"
            self._copied[key] = self._buffer(tensor, pinned).copy_(tensor, non_blocking=pinned)
        return self._copied[key]

    def _buffer(self, tensor: torch.Tensor, pinned: bool) -> torch.Tensor:
        """Return memory for the copy of a tensor.

        The memory of the last copy is used if the last copy had a tensor of the same form at the same place; else it is
        new.
        """
        if self._used == len(self._buffers) or not _alike(self._buffers[self._used], tensor, pinned):
            new = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
            self._buffers[self._used : self._used + 1] = [new]
        self._used += 1
        return self._buffers[self._used - 1]


def _alike(buffer: torch.Tensor, tensor: torch.Tensor, pinned: bool) -> bool:
    form = torch.empty_like(tensor, device="meta")
    same = buffer.shape == tensor.shape and buffer.dtype == tensor.dtype and buffer.stride() == form.stride()
    return same and (not pinned or buffer.is_pinned())
