"""What to do where the memory is full."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sr_train.cli.networks import Network


def memory_is_full(error: Exception) -> bool:
    """Whether an error says so, on any device."""
    from sr_train import tiling

    return tiling.memory_is_full(error)


def take_less(network: Network, height: int, width: int, *, shrink: bool, bar: Any) -> None:
    """Give a network tiles of half the side, if the side was ours to choose. Raises MemoryFullError."""
    import torch

    from sr_train.tiling import MemoryFullError, smaller

    tiling = smaller(network.tiling, height, width) if shrink else None
    if tiling is None:
        raise MemoryFullError("the memory is full; give a smaller tile=") from None
    bar.write(f"memory is full with tile={network.tiling.tile}: going on with tile={tiling.tile}", sys.stderr)
    network.tiling = tiling
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
