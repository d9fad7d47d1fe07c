"""Inference on whole images: padding to a size that the network accepts, tiles that limit the memory, self-ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.batch import to_float
from sr_train.devices import full_fp32, memory_is_full
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.tile_parts import cuts, pixels, ramp, spans
from sr_train.inference.tiling import (
    WHOLE,
    MemoryFullError,
    Tiling,
    is_too_large,
    packed,
    plan_tiles,
    tiles_instead,
    whole_if_small,
)
from sr_train.models import contract
from sr_train.models.convolution import kernels


def _suited(model: nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """Return the network's input: the image or window ``lr``, or the window's center frame if the network takes single images.

    Raises ValueError if a video network takes windows with another number of frames.
    """
    frames = contract.frames(model)
    if frames is None:
        return lr if lr.ndim == 3 else lr[len(lr) // 2]
    if lr.ndim == 3 or len(lr) != frames:
        given = "one image" if lr.ndim == 3 else f"{len(lr)} frames"
        raise ValueError(f"{type(model).__name__} takes windows of {frames} frames, but was given {given}")
    return lr


def _run(
    model: nn.Module,
    x: torch.Tensor,
    precision: str,
    features: FrameFeatures | None = None,
    place: Hashable = None,
    choice: str = "exact",
) -> torch.Tensor:
    """Upscale [1, C, h, w] or [1, T, C, h, w] of any size -> [1, C, scale * h, scale * w] float32 in [0, 1].

    The input is padded by mirroring to a size that the network accepts. The padding is removed from the output.
    """
    scale, multiple = contract.scale(model), contract.multiple_of(model)
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if down or right:
        mode = "reflect" if down < height and right < width else "replicate"
        x = F.pad(x.flatten(0, -4), (0, right, 0, down), mode=mode).unflatten(0, x.shape[:-3])
    fp32 = full_fp32() if precision == "32" else nullcontext()
    with fp32, torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"), kernels(choice, model):
        sr = model(x) if features is None else features(x, place)
    return sr[..., : height * scale, : width * scale].clamp(0, 1)


def _ensemble(
    model: nn.Module,
    x: torch.Tensor,
    precision: str,
    features: FrameFeatures | None = None,
    place: Hashable = None,
    choice: str = "exact",
) -> torch.Tensor:
    """Return the mean of the outputs for eight flips and transposes of the input (EDSR section 3.3, "self-ensemble").

    Every output is flipped back before the mean is computed. For clips, only four flips are used, as EDVR's authors do.
    """
    total = None
    count = 8 if x.dim() == 4 else 4
    for variant in range(count):
        axes = [axis for axis, bit in ((-1, 1), (-2, 2)) if variant & bit]
        y = x.transpose(-1, -2) if variant & 4 else x
        y = _run(model, packed(y.flip(axes)), precision, features, (variant, place), choice).flip(axes)
        y = y.transpose(-1, -2) if variant & 4 else y
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
    choice: str = "exact",
) -> torch.Tensor:
    """Upscale one image: [C, h, w] uint8, or float in [0, 1] -> [C, scale * h, scale * w] float in [0, 1].

    A video network (with an attribute ``frames``) takes a window [T, C, h, w]. Other networks get the window's center
    frame. Height and width that are not multiples of ``model.multiple_of`` are padded by mirroring at the right and at
    the bottom. The padding is removed from the result.

    Args:
        model: network in eval mode, with attributes ``scale`` and ``multiple_of``.
        lr: [C, h, w] or [T, C, h, w] uint8, or float in [0, 1]. The input may be on another device than the network,
            because each tile is moved to the network's device.
        tiling: sides of the tiles; ``None`` to upscale the whole image at once.
        ensemble: true to average the outputs for eight flips and transposes of an image, or four flips of a clip.
        precision: "32", or "bf16" for autocast.
        features: cache of features of single frames. The caller must first call its method ``begin`` with the names of
            this window's frames.
        done: function that is called with the number of LR pixels of every finished tile.
        choice: kernels of convolutions, see :func:`sr_train.models.convolution.kernels`.
    """
    found = super_resolve_bands(
        model, lr, tiling=tiling, ensemble=ensemble, precision=precision, features=features, done=done, choice=choice
    )
    _, band = next(found)
    height = lr.shape[-2] * contract.scale(model)
    if band.shape[1] == height:
        for _ in found:  # the generator reports the tiles after the last band
            pass
        return band
    whole = band.new_empty((band.shape[0], height, band.shape[2]))  # bands are copied into it one after the other
    whole[:, : band.shape[1]] = band
    for top, band in found:
        whole[:, top : top + band.shape[1]] = band
    return whole


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
    choice: str = "exact",
) -> Iterator[tuple[int, torch.Tensor]]:
    """Upscale one image and yield it in bands from top to bottom: (first row, [C, rows, scale * w] in [0, 1]).

    The whole float image is never in memory. The arguments are explained at :func:`super_resolve`.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), lr.device)
    run = _ensemble if ensemble else _run
    lr = _suited(model, lr)
    channels, height, width = lr.shape[-3:]

    def compute(window: torch.Tensor, place: Hashable = None) -> torch.Tensor:
        return run(model, packed(to_float(window.to(device)).unsqueeze(0)), precision, features, place, choice)[0]

    if tiling is None or tiling.tile is None:
        yield 0, compute(lr)
        done(height * width)
        return
    scale, multiple = contract.scale(model), contract.multiple_of(model)
    rows, columns = (cuts(size, tiling, multiple) for size in (height, width))
    carry = lr.new_empty((channels, 0, width * scale), dtype=torch.float32)
    for y0, y1 in rows:
        seen, kept = spans(y0, y1, height, tiling, multiple)
        band = torch.zeros((channels, (kept[1] - kept[0]) * scale, width * scale))
        band[:, : carry.shape[1]] += carry
        vertical = ramp(kept, (y0, y1), height, tiling.blend, scale)[:, None]
        for x0, x1 in columns:
            across, place = spans(x0, x1, width, tiling, multiple)
            sr = compute(lr[..., seen[0] : seen[1], across[0] : across[1]], (y0, x0))
            sr = sr[:, pixels(kept, seen[0], scale), pixels(place, across[0], scale)].cpu()
            weight = vertical * ramp(place, (x0, x1), width, tiling.blend, scale)
            band[:, :, place[0] * scale : place[1] * scale].addcmul_(sr.float(), weight)
            done((y1 - y0) * (x1 - x0))
        finished = (kept[1] if y1 == height else y1 - tiling.blend) - kept[0]
        yield kept[0] * scale, band[:, : finished * scale]
        carry = band[:, finished * scale :].clone()


class TilesIfNeeded:
    """Upscaler of whole images for validation. Tiles limit the memory.

    With ``tile="auto"`` an image is upscaled whole if it fits into memory, else in tiles. After one image did not fit, all
    images that are at least as large are upscaled in tiles at once.

    Args:
        tell: function that is called with a message when tiles become smaller.
        tile: ``auto``; None to upscale whole images only; or the side of the tiles in LR pixels.
    """

    def __init__(self, tell: Callable[[str], object], tile: int | str | None = "auto") -> None:
        self.tell, self.tile = tell, tile
        self._cut: dict[
            int, tuple[int, Tiling]
        ] = {}  # {scale: (LR pixels of the smallest image that is too large, tiles)}

    def __call__(self, model: nn.Module, lr: torch.Tensor, name: str) -> torch.Tensor:
        """Upscale [C, h, w] or [T, C, h, w] -> [C, scale * h, scale * w] float in [0, 1]. Messages contain ``name``.

        Raises:
            MemoryFullError: even the smallest tiles do not fit, or the size of the tiles is given.
            TileError: the given tiles are too small for the network.
        """
        if self.tile != "auto":
            return self._as_given(model, lr)
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
                "same result as without tiles"
                if tiling.exact
                else f"blended over {2 * tiling.blend} pixels; the result differs slightly from one without tiles"
            )
            self.tell(
                f"{name}: the LR image of {width}x{height} pixels does not fit into memory; this and larger images are "
                f"upscaled in tiles of {tiling.tile} pixels ({same})"
            )
        return sr

    def plan(self, model: nn.Module) -> Tiling:
        """Return the tiling for ``tile=null`` or a given side. The network's receptive field is measured once.

        Raises:
            TileError: the given tiles are too small for the network.
        """
        scale = contract.scale(model)
        if scale not in self._cut:
            self._cut[scale] = (0, plan_tiles(model, tile=self.tile))
        return self._cut[scale][1]

    def _as_given(self, model: nn.Module, lr: torch.Tensor) -> torch.Tensor:
        """Upscale an image whole, or in tiles of the given side."""
        height, width = lr.shape[-2:]
        tiling = whole_if_small(self.plan(model), height, width)
        too_large = tiling.tile is None and is_too_large(model, height, width)
        sr = None if too_large else self._try(model, lr, tiling)
        if sr is None:
            given = "null" if self.tile is None else self.tile
            raise MemoryFullError(
                f"the LR image of {width}x{height} pixels does not fit into memory with validate.tile={given}; give "
                "validate.tile=auto, or a smaller tile"
            )
        return sr

    @staticmethod
    def _try(model: nn.Module, lr: torch.Tensor, tiling: Tiling) -> torch.Tensor | None:
        """Return the upscaled image; None if the memory is full.

        The out-of-memory error is deleted before the return, so that the tensors to which it refers are freed.
        """
        try:
            return super_resolve(model, lr, tiling=tiling)
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None
