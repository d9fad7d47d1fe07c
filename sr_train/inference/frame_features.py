"""Features of a clip's frames.

They are computed once for each frame, and used in every window that contains the frame.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import nn

from sr_train.devices import free_memory
from sr_train.models import contract


class FrameFeatures:
    """Cache of a network's features of single frames.

    The network must be a :class:`sr_train.models.contract.PerFrame`. Features of the frames in the newest window are
    kept for every tile and flip, up to ``limit`` bytes. Features beyond the limit are computed again for each window.

    Args:
        model: the network.
        limit: largest size of the kept features in bytes; ``None`` for a quarter of the free memory of the network's
            device.
    """

    def __init__(self, model: nn.Module, *, limit: int | None = None) -> None:
        found = contract.per_frame(model)
        assert found is not None, "the network does not compute features of single frames"
        self.model = found
        device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.limit = free_memory(device) // 4 if limit is None else limit
        self.computed = 0  #: number of times that features of a frame, or of a tile of a frame, were computed
        self._window: Sequence[Hashable] = ()
        self._kept: dict[Hashable, dict[Hashable, contract.Levels]] = {}
        self._bytes = 0

    @staticmethod
    def serve(model: nn.Module) -> bool:
        """Return true if a network computes features of single frames."""
        return contract.per_frame(model) is not None

    def begin(self, window: Sequence[Hashable]) -> None:
        """Start the next window, given as names of its frames.

        Forget the features of frames that are not in this window. A name that occurs in two windows means the same
        frame.
        """
        self._window = window
        for name in [n for n in self._kept if n not in window]:
            self._bytes -= sum(_bytes(levels) for levels in self._kept.pop(name).values())

    def __call__(self, x: torch.Tensor, place: Hashable) -> torch.Tensor:
        """Return the network's output for the current window ``x``, [1, T, C, h, w].

        ``place`` identifies the tile and the flip of ``x``, e.g. (top, left, flip).
        """
        found = [self._of_frame(x[:, t], name, place) for t, name in enumerate(self._window)]
        levels = {k: torch.stack([f[k] for f in found], dim=1) for k in found[0]}
        return self.model.fuse(levels, x[:, self.model.center])

    def _of_frame(self, frame: torch.Tensor, name: Hashable, place: Hashable) -> contract.Levels:
        places = self._kept.setdefault(name, {})
        if place in places:
            return places[place]
        levels = self.model.features(frame)
        self.computed += 1
        if self._bytes + _bytes(levels) <= self.limit:
            places[place] = levels
            self._bytes += _bytes(levels)
        return levels


def _bytes(levels: contract.Levels) -> int:
    return sum(x.numel() * x.element_size() for x in levels.values())
