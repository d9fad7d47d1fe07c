"""Running a network on whole images: padding to what it can take, tiles of bounded memory, self-ensemble."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sr_train.batch import to_float

_EXACT_UP_TO = 96  # LR pixels: a wider receptive field is cut, and the tiles are blended
_WIDEST = 4096  # of the strips that receptive_radius tries
_SMALLEST_TILE, _LARGEST_TILE = 32, 1024


class TileError(ValueError):
    """A tile or an overlap that cannot be used."""


class MemoryFullError(ValueError):
    """An image, or a tile, for which the memory is too small."""


class Tiling(NamedTuple):
    """How an image is cut: sides in LR pixels."""

    tile: int | None  #: side of the part that a tile contributes; None: the whole image at once
    overlap: int  #: what a tile sees beyond it, on each side
    blend: int  #: half the width of the seam over which two tiles are mixed; 0 where they agree anyway
    exact: bool  #: whether the result is that of the whole image, to float rounding


WHOLE = Tiling(None, 0, 0, True)


def _attributes(model: nn.Module) -> tuple[int, int]:
    return int(getattr(model, "scale")), int(getattr(model, "multiple_of"))  # noqa: B009 - any nn.Module


def _suited(model: nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """What a network takes of an image or a window: one that takes images is given the centre frame. Raises ValueError."""
    frames = getattr(model, "frames", None)
    if frames is None:
        return lr if lr.ndim == 3 else lr[len(lr) // 2]
    if lr.ndim == 3 or len(lr) != frames:
        given = "one image" if lr.ndim == 3 else f"{len(lr)} frames"
        raise ValueError(f"{type(model).__name__} takes clips in windows of {frames} frames; it was given {given}")
    return lr


def _probe(model: nn.Module, height: int, width: int, device: torch.device) -> torch.Tensor:
    """A black input of a network: [1, 3, h, w], or [1, T, 3, h, w]."""
    frames = getattr(model, "frames", None)
    return torch.zeros((1, *(() if frames is None else (frames,)), 3, height, width), device=device)


def _packed(x: torch.Tensor) -> torch.Tensor:
    """[1, C, h, w] or [1, T, C, h, w] with its images in channels-last memory."""
    return x.flatten(0, -4).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:-3])


def _run(model: nn.Module, x: torch.Tensor, precision: str) -> torch.Tensor:
    """[1, C, h, w] or [1, T, C, h, w] of any size -> [1, C, scale h, scale w] float32 in [0, 1]; padded by mirroring, and cut
    back.
    """
    scale, multiple = _attributes(model)
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if down or right:
        mode = "reflect" if down < height and right < width else "replicate"
        x = F.pad(x.flatten(0, -4), (0, right, 0, down), mode=mode).unflatten(0, x.shape[:-3])
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        sr = model(x)
    return sr[..., : height * scale, : width * scale].clamp(0, 1)


def _ensemble(model: nn.Module, x: torch.Tensor, precision: str) -> torch.Tensor:
    """The mean over the eight flips and transposes of the input, turned back (EDSR section 3.3, "self-ensemble").

    Of a clip over its four flips alone, as EDVR's authors do.
    """
    total = None
    count = 8 if x.dim() == 4 else 4
    for turned in range(count):
        axes = [axis for axis, bit in ((-1, 1), (-2, 2)) if turned & bit]
        y = x.transpose(-1, -2) if turned & 4 else x
        y = _run(model, _packed(y.flip(axes)), precision).flip(axes)
        y = y.transpose(-1, -2) if turned & 4 else y
        total = y.clone() if total is None else total.add_(y)
    assert total is not None
    return total.div_(count)


@torch.inference_mode()
def super_resolve(
    model: nn.Module,
    lr: torch.Tensor,
    *,
    tiling: Tiling | None = None,
    ensemble: bool = False,
    precision: str = "32",
) -> torch.Tensor:
    """One image through a network: [C, h, w] uint8, or float in [0, 1] -> [C, scale h, scale w] float in [0, 1].

    A window [T, C, h, w] likewise, for networks that state ``frames``; of others the centre frame is taken.
    Sizes that the network cannot take (``model.multiple_of``) are padded by mirroring at the right and bottom, and the
    result is cut back. The image is where the network is; so is the result.
    """
    bands = [band for _, band in super_resolve_bands(model, lr, tiling=tiling, ensemble=ensemble, precision=precision)]
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)


@torch.inference_mode()
def super_resolve_bands(
    model: nn.Module,
    lr: torch.Tensor,
    *,
    tiling: Tiling | None = None,
    ensemble: bool = False,
    precision: str = "32",
    done: Callable[[int], object] = lambda pixels: None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """The same from the top down: (first row, [C, rows, scale w] in [0, 1]), so that no whole float image is ever held.

    Args:
        model: states ``scale`` and ``multiple_of``; in eval mode.
        lr: [C, h, w] or [T, C, h, w] uint8, or float in [0, 1]. It may lie in another memory than the network: tiles are
            moved.
        tiling: how to cut; ``None`` for the whole image at once.
        ensemble: the mean of the network's eight answers to the turned image, or four to the flipped clip.
        precision: "32", or "bf16" for autocast.
        done: told the LR pixels of every tile that is finished.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), lr.device)
    run = _ensemble if ensemble else _run
    lr = _suited(model, lr)
    channels, height, width = lr.shape[-3:]

    def compute(window: torch.Tensor) -> torch.Tensor:
        return run(model, _packed(to_float(window.to(device)).unsqueeze(0)), precision)[0]

    if tiling is None or tiling.tile is None:
        yield 0, compute(lr)
        done(height * width)
        return
    scale, multiple = _attributes(model)
    rows, columns = (_cuts(size, tiling, multiple) for size in (height, width))
    carry = lr.new_empty((channels, 0, width * scale), dtype=torch.float32)
    for y0, y1 in rows:
        seen, kept = _spans(y0, y1, height, tiling, multiple)
        band = torch.zeros((channels, (kept[1] - kept[0]) * scale, width * scale))
        band[:, : carry.shape[1]] += carry
        vertical = _ramp(kept, (y0, y1), height, tiling.blend, scale)[:, None]
        for x0, x1 in columns:
            across, place = _spans(x0, x1, width, tiling, multiple)
            sr = compute(lr[..., seen[0] : seen[1], across[0] : across[1]])
            sr = sr[:, _slice(kept, seen[0], scale), _slice(place, across[0], scale)].cpu()
            weight = vertical * _ramp(place, (x0, x1), width, tiling.blend, scale)
            band[:, :, place[0] * scale : place[1] * scale].addcmul_(sr.float(), weight)
            done((y1 - y0) * (x1 - x0))
        finished = (kept[1] if y1 == height else y1 - tiling.blend) - kept[0]
        yield kept[0] * scale, band[:, : finished * scale]
        carry = band[:, finished * scale :].clone()


def _slice(span: tuple[int, int], origin: int, scale: int) -> slice:
    return slice((span[0] - origin) * scale, (span[1] - origin) * scale)


def _cuts(size: int, tiling: Tiling, multiple: int) -> list[tuple[int, int]]:
    """Evenly long parts of an axis that begin on the network's grid: a tile's side or less, but never less than a seam."""
    assert tiling.tile is not None
    parts = min(math.ceil(size / tiling.tile), max(1, size // (2 * tiling.blend + multiple)))
    starts = [i * size // parts // multiple * multiple for i in range(parts)]
    return list(zip(starts, [*starts[1:], size], strict=True))


def _spans(start: int, stop: int, size: int, tiling: Tiling, multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a tile sees (from the network's grid on) and where it contributes, in LR pixels."""
    seen = max(0, (start - tiling.overlap) // multiple * multiple), min(size, stop + tiling.overlap)
    return seen, (max(0, start - tiling.blend), min(size, stop + tiling.blend))


def _ramp(span: tuple[int, int], core: tuple[int, int], size: int, blend: int, scale: int) -> torch.Tensor:
    """Weights along one axis: from 0 to 1 and back over the seams, whose two tiles' weights add up to 1."""
    weights = torch.ones((span[1] - span[0]) * scale)
    seam = 2 * blend * scale
    if seam:
        rising = (torch.arange(seam) + 0.5) / seam
        if core[0] > 0:
            weights[:seam] = rising
        if core[1] < size:
            weights[-seam:] *= rising.flip(0)
    return weights


@torch.inference_mode()
def receptive_radius(model: nn.Module) -> int | None:
    """How many LR pixels to each side an output pixel depends on; None where it is the whole image.

    Measured: one pixel of a strip is NaN, which every layer hands on to all that depends on it, whatever the weights.
    A network that says ``reaches_anywhere`` is believed: with deformable convolutions it depends on the image.
    """
    if getattr(model, "reaches_anywhere", False):
        return None
    scale, multiple = _attributes(model)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    height = math.ceil(8 / multiple) * multiple
    width = 64
    while width <= _WIDEST:
        wide = math.ceil(width / multiple) * multiple
        strip = _probe(model, height, wide, device)
        middle = wide // 2 // multiple * multiple
        strip[..., middle] = math.nan
        with torch.autocast(strip.device.type, enabled=False):
            touched = model(strip)[0].isnan().any(0).any(0).nonzero().flatten().tolist()
        if touched and touched[0] > 0 and touched[-1] < wide * scale - 1:
            left = middle - touched[0] // scale  # from the first output that sees the pixel
            right = touched[-1] // scale - middle
            return math.ceil((max(left, right) + (multiple - 1)) / multiple) * multiple
        width *= 2
    return None


class _Peak(TorchDispatchMode):
    """Counts the bytes of tensors alive at the same time, on any device."""

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
    """Memory that the network's own tensors take at their peak, in bytes per LR pixel."""
    _, multiple = _attributes(model)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    side = math.ceil(side / multiple) * multiple
    x = _packed(_probe(model, side, side, device))
    with torch.autocast(device.type, enabled=False), _Peak() as peak:
        model(x)
    return peak.peak / side**2


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken where a network is: of the GPU, or of this machine and its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = []
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free.append(max(int(limit) - int(used), 0))
    return min(free, default=4 << 30)  # no /proc: most machines have as much


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def plan_tiles(
    model: nn.Module, *, tile: int | str | None = "auto", overlap: int | str = "auto", memory: int | None = None
) -> Tiling:
    """Decide how images are cut.

    Args:
        model: the network, where it will run.
        tile: side in LR pixels; ``None`` for the whole image at once; ``auto`` for what a quarter of the free memory holds.
        overlap: LR pixels that a tile sees beyond its side; ``auto`` for all that its pixels depend on, up to 96 - then
            the result is that of the whole image. With less, neighbours are blended over the seam.
        memory: bytes that ``auto`` may take.

    Raises:
        TileError: with what was given and what can be used.
    """
    _, multiple = _attributes(model)
    if tile is None:
        return WHOLE
    radius = receptive_radius(model)
    if overlap == "auto":
        overlap = radius if radius is not None and radius <= _EXACT_UP_TO else _EXACT_UP_TO
    if isinstance(overlap, (str, bool)) or overlap < 0:
        raise TileError(f"overlap={overlap}: expected auto or a whole number of LR pixels from 0 on")
    exact = radius is not None and overlap >= radius
    blend = 0 if exact else overlap // 2
    if tile == "auto":
        device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        # Half as much again as its tensors take: convolutions keep reordered copies.
        pixels = (free_memory(device) // 4 if memory is None else memory) / (1.5 * bytes_per_pixel(model))
        tile = min(int(math.sqrt(pixels)), _LARGEST_TILE) - 2 * overlap
        tile = max(tile // 16 * 16, _SMALLEST_TILE, 2 * blend)
    if isinstance(tile, (str, bool)) or tile < 1:
        raise TileError(f"tile={tile}: expected auto, null for the whole image, or a side in LR pixels from 1 on")
    if tile < 2 * blend or tile < multiple:
        least = max(2 * blend, multiple)
        raise TileError(f"tile={tile}: too small for an overlap of {overlap}; make it {least} or more, or overlap less")
    return Tiling(tile, overlap, blend, exact)


def whole_if_small(tiling: Tiling, height: int, width: int) -> Tiling:
    """No tiles for an image that is not larger than what a tile sees."""
    if tiling.tile is not None and height * width <= (tiling.tile + 2 * tiling.overlap) ** 2:
        return WHOLE
    return tiling


def smaller(tiling: Tiling, height: int, width: int) -> Tiling | None:
    """Tiles of half the side, for an image that did not fit into memory; None where they are as small as can be."""
    side = tiling.tile if tiling.tile is not None else max(height, width)
    half = min(side, max(height, width)) // 2
    return (
        None
        if half < max(_SMALLEST_TILE, 2 * tiling.blend)
        else tiling._replace(tile=max(half // 16 * 16, 2 * tiling.blend))
    )
