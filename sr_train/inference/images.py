"""Running a network on whole images: padding to what it can take, tiles of bounded memory, self-ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.batch import to_float
from sr_train.devices import memory_is_full
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.tiling import WHOLE, Tiling, is_too_large, packed, tiles_instead
from sr_train.models import contract


def _suited(model: nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """What a network takes of an image or a window: one that takes images is given the centre frame. Raises ValueError."""
    frames = contract.frames(model)
    if frames is None:
        return lr if lr.ndim == 3 else lr[len(lr) // 2]
    if lr.ndim == 3 or len(lr) != frames:
        given = "one image" if lr.ndim == 3 else f"{len(lr)} frames"
        raise ValueError(f"{type(model).__name__} takes clips in windows of {frames} frames; it was given {given}")
    return lr


def _run(
    model: nn.Module, x: torch.Tensor, precision: str, features: FrameFeatures | None = None, place: Hashable = None
) -> torch.Tensor:
    """[1, C, h, w] or [1, T, C, h, w] of any size -> [1, C, scale h, scale w] float32 in [0, 1]; padded by mirroring, and cut
    back.
    """
    scale, multiple = contract.scale(model), contract.multiple_of(model)
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if down or right:
        mode = "reflect" if down < height and right < width else "replicate"
        x = F.pad(x.flatten(0, -4), (0, right, 0, down), mode=mode).unflatten(0, x.shape[:-3])
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        sr = model(x) if features is None else features(x, place)
    return sr[..., : height * scale, : width * scale].clamp(0, 1)


def _ensemble(
    model: nn.Module, x: torch.Tensor, precision: str, features: FrameFeatures | None = None, place: Hashable = None
) -> torch.Tensor:
    """The mean over the eight flips and transposes of the input, turned back (EDSR section 3.3, "self-ensemble").

    Of a clip over its four flips alone, as EDVR's authors do.
    """
    total = None
    count = 8 if x.dim() == 4 else 4
    for turned in range(count):
        axes = [axis for axis, bit in ((-1, 1), (-2, 2)) if turned & bit]
        y = x.transpose(-1, -2) if turned & 4 else x
        y = _run(model, packed(y.flip(axes)), precision, features, (turned, place)).flip(axes)
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
    features: FrameFeatures | None = None,
    done: Callable[[int], object] = lambda pixels: None,
) -> torch.Tensor:
    """One image through a network: [C, h, w] uint8, or float in [0, 1] -> [C, scale h, scale w] float in [0, 1].

    A window [T, C, h, w] likewise, for networks that state ``frames``; of others the centre frame is taken.
    Sizes that the network cannot take (``model.multiple_of``) are padded by mirroring at the right and bottom, and the
    result is cut back. The image is where the network is; so is the result.
    """
    found = super_resolve_bands(
        model, lr, tiling=tiling, ensemble=ensemble, precision=precision, features=features, done=done
    )
    bands = [band for _, band in found]
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)


@torch.inference_mode()
def super_resolve_bands(
    model: nn.Module,
    lr: torch.Tensor,
    *,
    tiling: Tiling | None = None,
    ensemble: bool = False,
    precision: str = "32",
    features: FrameFeatures | None = None,
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
        features: of frames that earlier windows have held, which has been told the frames of this one.
        done: told the LR pixels of every tile that is finished.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), lr.device)
    run = _ensemble if ensemble else _run
    lr = _suited(model, lr)
    channels, height, width = lr.shape[-3:]

    def compute(window: torch.Tensor, place: Hashable = None) -> torch.Tensor:
        return run(model, packed(to_float(window.to(device)).unsqueeze(0)), precision, features, place)[0]

    if tiling is None or tiling.tile is None:
        yield 0, compute(lr)
        done(height * width)
        return
    scale, multiple = contract.scale(model), contract.multiple_of(model)
    rows, columns = (_cuts(size, tiling, multiple) for size in (height, width))
    carry = lr.new_empty((channels, 0, width * scale), dtype=torch.float32)
    for y0, y1 in rows:
        seen, kept = _spans(y0, y1, height, tiling, multiple)
        band = torch.zeros((channels, (kept[1] - kept[0]) * scale, width * scale))
        band[:, : carry.shape[1]] += carry
        vertical = _ramp(kept, (y0, y1), height, tiling.blend, scale)[:, None]
        for x0, x1 in columns:
            across, place = _spans(x0, x1, width, tiling, multiple)
            sr = compute(lr[..., seen[0] : seen[1], across[0] : across[1]], (y0, x0))
            sr = sr[:, _slice(kept, seen[0], scale), _slice(place, across[0], scale)].cpu()
            weight = vertical * _ramp(place, (x0, x1), width, tiling.blend, scale)
            band[:, :, place[0] * scale : place[1] * scale].addcmul_(sr.float(), weight)
            done((y1 - y0) * (x1 - x0))
        finished = (kept[1] if y1 == height else y1 - tiling.blend) - kept[0]
        yield kept[0] * scale, band[:, : finished * scale]
        carry = band[:, finished * scale :].clone()


class TilesIfNeeded:
    """Runs networks on whole images, and in tiles on those that do not fit into memory.

    An image that is as large as one that did not fit is cut at once.

    Args:
        tell: called with a sentence when smaller tiles are used from here on.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.tell = tell
        self._cut: dict[int, tuple[int, Tiling]] = {}  # by scale: (LR pixels that did not fit whole, tiles that did)

    def __call__(self, model: nn.Module, lr: torch.Tensor, name: str) -> torch.Tensor:
        """[C, h, w] or [T, C, h, w] -> [C, scale h, scale w] float in [0, 1]; ``name`` is that of the image.

        Raises:
            MemoryFullError: where not even the smallest tiles fit.
        """
        scale = contract.scale(model)
        height, width = lr.shape[-2:]
        least, known = self._cut.get(scale, (math.inf, WHOLE))
        tiling = known if height * width >= least else WHOLE
        before = tiling
        if tiling.tile is None and is_too_large(model, height, width):
            tiling = tiles_instead(model, tiling, height, width)
        while (sr := self._try(model, lr, tiling)) is None:
            tiling = tiles_instead(model, tiling, height, width)
        if tiling != before:
            self._cut[scale] = (int(min(least, height * width)), tiling)
            same = (
                "as without tiles" if tiling.exact else f"blended over {2 * tiling.blend}: not exactly as without tiles"
            )
            self.tell(
                f"{name}: its LR of {width}x{height} pixels does not fit into memory; this and larger images are upscaled in "
                f"tiles of {tiling.tile} pixels ({same})"
            )
        return sr

    @staticmethod
    def _try(model: nn.Module, lr: torch.Tensor, tiling: Tiling) -> torch.Tensor | None:
        """The image, or None where the memory is full. The error, which holds what was computed, is gone then."""
        try:
            return super_resolve(model, lr, tiling=tiling)
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


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
