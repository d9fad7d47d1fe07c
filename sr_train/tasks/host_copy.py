"""Copies of numbers and tensors from the device to the host, made in the background so that the host does not wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class HostCopy:
    """Copy of numbers from the device to the host. The device makes the copy when it has computed the numbers.

    ``float(tensor)`` would stop the host until the device has done all queued work, and then the device would have
    nothing to do until the host has queued more work. With this class, a GPU copies the numbers into page-locked memory
    of the host after the queued work. On a CPU the numbers are available at once. Other devices cannot copy in the
    background, so :meth:`read` waits.

    Args:
        values: tensors of one element. The tensors may change after the copy has been requested.
    """

    def __init__(self, values: Sequence[torch.Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = [self._copied(value.detach().float().reshape(())) for value in values]
        stream = next((v.device for v in values if v.device.type == "cuda"), None)
        if stream is not None:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(stream))

    @staticmethod
    def _copied(value: torch.Tensor) -> torch.Tensor:
        if value.device.type == "cuda":
            return torch.empty((), pin_memory=True).copy_(value, non_blocking=True)
        return value.clone()

    @property
    def arrived(self) -> bool:
        """True if the copy is complete, so that :meth:`read` does not wait."""
        return self._event is None or self._event.query()

    def read(self) -> list[float]:
        """Return the numbers. Wait until the copy is complete."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value.cpu().numpy()) for value in self._host]


class HostTensors:
    """Copies of many tensors on the host, in memory that is reserved once. A GPU copies in the background."""

    def __init__(self) -> None:
        self._host: list[torch.Tensor] = []
        self._event: torch.cuda.Event | None = None

    def request(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy tensors after the work that is queued on the device. The tensors may change afterwards."""
        if [(t.shape, t.dtype) for t in tensors] != [(h.shape, h.dtype) for h in self._host]:
            pinned = any(t.is_cuda for t in tensors)
            self._host = [torch.empty_like(t, device="cpu", pin_memory=pinned) for t in tensors]
        for host, tensor in zip(self._host, tensors, strict=True):
            host.copy_(tensor.detach(), non_blocking=True)
        if any(t.is_cuda for t in tensors):
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[torch.Tensor]:
        """Return the copies. Wait until they have arrived."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host
