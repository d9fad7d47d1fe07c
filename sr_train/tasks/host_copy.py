"""Copies of small device values on the host that nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class HostCopy:
    """Copy of numbers that the device delivers to the host when it has computed them.

    ``float(tensor)`` stops the host until the device has done all work that was queued. Then the device has nothing to do until
    the host has queued more. A GPU instead copies into page-locked memory of the host, after that work. On a CPU the values
    are there at once. Other devices have no such copy: :meth:`read` waits for them.

    Args:
        values: tensors of one element; they may change afterwards.
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
        """True if :meth:`read` does not wait."""
        return self._event is None or self._event.query()

    def read(self) -> list[float]:
        """Return the numbers; wait for them if they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value.cpu().numpy()) for value in self._host]
