"""Choice of tile sizes from three values: the network's receptive field, the memory that it needs, and the free memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sr_train.devices import free_memory, memory_is_full
from sr_train.models import contract

_EXACT_UP_TO = 96  # largest automatic overlap in LR pixels; for wider receptive fields tiles are blended

_WIDEST = 4096  # widest strip that receptive_radius tries

_SMALLEST_TILE, _LARGEST_TILE = 32, 1024

_MOST_BYTES = 1 << 16  # most bytes that a network needs for an LR pixel; EDSR x4 with 256 channels needs 50,000


class TileError(ValueError):
    """Error for a value of ``tile=`` or ``overlap=`` that cannot be used."""


class MemoryFullError(ValueError):
    """Error for an image or a tile that does not fit into memory."""


class Tiling(NamedTuple):
    """Sizes of tiles in LR pixels."""

    tile: int | None  #: side of the part that a tile writes; None for the whole image at once
    overlap: int  #: pixels that a tile reads beyond this part, on each side
    blend: int  #: half the width of the seam over which two tiles are blended; 0 if blending is not needed
    exact: bool  #: True if the result equals the result without tiles, up to float rounding


WHOLE = Tiling(None, 0, 0, True)


def packed(x: torch.Tensor) -> torch.Tensor:
    """Return the input, [1, C, h, w] or [1, T, C, h, w], with each image in channels-last memory."""
    return x.flatten(0, -4).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:-3])


@torch.inference_mode()
def receptive_radius(model: nn.Module) -> int | None:
    """Return how far, in LR pixels, the input pixels of one output pixel can lie to each side; None for the whole image.

    The radius is measured with a strip that has one column of NaN. Every layer passes NaN on to all dependent pixels,
    for all weights. Networks with ``reaches_anywhere`` are not measured, because deformable convolutions depend on the
    image.
    """
    if contract.reaches_anywhere(model):
        return None
    scale, multiple = contract.scale(model), contract.multiple_of(model)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    height = math.ceil(8 / multiple) * multiple
    width = 64
    while width <= _WIDEST:
        wide = math.ceil(width / multiple) * multiple
        strip = torch.zeros(contract.input_shape(model, height, wide), device=device)
        middle = wide // 2 // multiple * multiple
        strip[..., middle] = math.nan
        with torch.autocast(strip.device.type, enabled=False):
            touched = model(strip)[0].isnan().any(0).any(0).nonzero().flatten().tolist()
        if touched and touched[0] > 0 and touched[-1] < wide * scale - 1:
            left = middle - touched[0] // scale  # from the first output that depends on the pixel
            right = touched[-1] // scale - middle
            return math.ceil((max(left, right) + (multiple - 1)) / multiple) * multiple
        width *= 2
    return None


class _Peak(TorchDispatchMode):
    """Counter of the bytes of all tensors that exist at the same time, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                address = storage.data_ptr()
                if address and address not in self._known:
                    self._known.add(address)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._forget, address, storage.nbytes())
        return out

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


@torch.inference_mode()
def bytes_per_pixel(model: nn.Module, *, side: int = 64) -> float:
    """Return the peak memory of a network's tensors during inference, in bytes per LR pixel."""
    multiple = contract.multiple_of(model)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    side = math.ceil(side / multiple) * multiple
    x = packed(torch.zeros(contract.input_shape(model, side, side), device=device))
    with torch.autocast(device.type, enabled=False), _Peak() as peak:
        model(x)
    return peak.peak / side**2


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_sides(tile: object, overlap: object) -> None:
    """Raise TileError for a value of ``tile`` or ``overlap`` that is wrong for every network."""
    if overlap != "auto" and not _is_integer(overlap, 0):
        raise TileError(f"overlap={_typed(overlap)}: expected auto or an integer of at least 0, in LR pixels")
    if tile not in (None, "auto") and not _is_integer(tile, 1):
        raise TileError(
            f"tile={_typed(tile)}: expected auto, null for the whole image, or an integer of at least 1, in LR pixels"
        )


def _typed(value: object) -> str:
    """Return a value as the user types it in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def plan_tiles(
    model: nn.Module, *, tile: int | str | None = "auto", overlap: int | str = "auto", memory: int | None = None
) -> Tiling:
    """Choose the tiling for a network.

    Args:
        model: the network, on the device where it will run.
        tile: side in LR pixels; ``None`` for the whole image at once; ``auto`` for the largest side that fits into a
            quarter of the free memory.
        overlap: LR pixels that a tile reads beyond each side; ``auto`` for the radius of the receptive field, up to 96.
            If the overlap covers the receptive field, the result equals the result without tiles. Otherwise adjacent
            tiles are blended.
        memory: bytes that ``tile="auto"`` may use; ``None`` for a quarter of the free memory.

    Raises:
        TileError: the value of ``tile`` or ``overlap`` cannot be used.
    """
    multiple = contract.multiple_of(model)
    check_sides(tile, overlap)
    if tile is None:
        return WHOLE
    radius = receptive_radius(model)
    if overlap == "auto":
        overlap = radius if radius is not None and radius <= _EXACT_UP_TO else _EXACT_UP_TO
    assert isinstance(overlap, int)
    exact = radius is not None and overlap >= radius
    blend = 0 if exact else overlap // 2
    if tile == "auto":
        device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        # Convolutions keep reordered copies, so half as much is added to the memory of the tensors.
        pixels = (free_memory(device) // 4 if memory is None else memory) / (1.5 * bytes_per_pixel(model))
        tile = min(int(math.sqrt(pixels)), _LARGEST_TILE) - 2 * overlap
        tile = max(tile // 16 * 16, _SMALLEST_TILE, 2 * blend)
    assert isinstance(tile, int)
    if tile < 2 * blend or tile < multiple:
        least = max(2 * blend, multiple)
        raise TileError(
            f"tile={tile} is too small for an overlap of {overlap}; give tile={least} or more, or less overlap"
        )
    return Tiling(tile, overlap, blend, exact)


def whole_if_small(tiling: Tiling, height: int, width: int) -> Tiling:
    """Return a tiling without tiles for an image that is not larger than the part that one tile reads; else ``tiling``."""
    if tiling.tile is not None and height * width <= (tiling.tile + 2 * tiling.overlap) ** 2:
        return WHOLE
    return tiling


def smaller(tiling: Tiling, height: int, width: int) -> Tiling | None:
    """Return a tiling with half the side, for an image that did not fit into memory; None if tiles cannot be smaller."""
    side = tiling.tile if tiling.tile is not None else max(height, width)
    half = min(side, max(height, width)) // 2
    return (
        None
        if half < max(_SMALLEST_TILE, 2 * tiling.blend)
        else tiling._replace(tile=max(half // 16 * 16, 2 * tiling.blend))
    )


def is_too_large(model: nn.Module, height: int, width: int) -> bool:
    """Return true if an image cannot fit into the free memory of a CPU.

    In this case the operating system would kill the process without an error. Return false for other devices.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if device.type != "cpu":
        return False
    free, pixels = free_memory(device), height * width
    return pixels * _MOST_BYTES > free and pixels * 1.5 * bytes_per_pixel(model) > free


def _planned(model: nn.Module, height: int, width: int) -> Tiling | None:
    """Return a tiling for an image that is too large for the memory. Tiles are at most half as large as the image.

    Return None if the memory is too small even to measure the network.
    """
    half = max(height, width) // 2
    for tile in ("auto", half):
        try:
            planned = plan_tiles(model, tile=tile)
        except TileError:  # the overlap is too wide for this tile
            continue
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            continue
        assert planned.tile is not None
        return planned if planned.tile <= half else smaller(planned, height, width)
    return None


def tiles_instead(model: nn.Module, tiling: Tiling, height: int, width: int) -> Tiling:
    """Return a tiling with smaller tiles, for an image that did not fit into memory with ``tiling``.

    Raises:
        MemoryFullError: the tiles cannot be smaller.
    """
    found = smaller(tiling, height, width) if tiling.tile is not None else _planned(model, height, width)
    if found is None:
        tried = "" if tiling.tile is None else f", even in tiles of {tiling.tile} pixels"
        raise MemoryFullError(f"the LR image of {width}x{height} pixels does not fit into memory{tried}")
    return found
