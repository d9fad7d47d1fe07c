"""A network that upscales images and clips with the options of a command: tiles, ensemble, precision."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sr_train.console import UsageError, counted, expect, listed, warn
from sr_train.devices import device_of, inference_precision
from sr_train.inference.clips import super_resolve_clip
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.images import super_resolve, super_resolve_bands
from sr_train.inference.tiling import (
    WHOLE,
    MemoryFullError,
    TileError,
    Tiling,
    check_sides,
    plan_tiles,
    smaller,
    whole_if_small,
)
from sr_train.models import contract
from sr_train.models.bicubic import Bicubic
from sr_train.models.convolution import CHOICES, winograd_is_available
from sr_train.weights.file import Weights
from sr_train.weights.network import build_network, one_scale
from sr_train.weights.open import load


def scale_of(config: Mapping[str, Any], known: Sequence[int], source: str) -> int:
    """Return ``scale=`` of the command, or the network's scale if ``scale=`` is not given.

    ``known`` contains the scales of the network; ``scale=`` must be one of them. For bicubic, ``known`` is empty:
    ``scale=`` is needed, and every scale is allowed. A network with several scales (MDSR) needs ``scale=``, too.
    """
    scale = config["scale"]
    if scale is None and not known:
        raise UsageError("scale= is missing; bicubic and finished images need it: give scale=2 (or 3, 4, ...)")
    if scale is None and len(known) > 1:
        choices = " or ".join(f"scale={s}" for s in known)
        raise ValueError(f"{source} is a network for {listed(known)}: give {choices}")
    if scale is None:
        return known[0]
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise UsageError(f"scale={scale!r}: expected an integer of at least 1")
    if known and scale not in known:
        raise ValueError(f"scale={scale}, but {source} is a network for {listed(known)}")
    return scale


@dataclass
class Network:
    """A network that is ready to upscale, with its options."""

    model: nn.Module
    scale: int
    name: str  #: title in tables
    tiling: Tiling = WHOLE
    ensemble: bool = False
    precision: str = "32"
    kernels: str = "exact"  #: of convolutions in fp32 on a CPU: exact, winograd or auto
    _features: Any = field(default=None, init=False)

    @property
    def frames(self) -> int | None:
        """Number of frames of the window that a video network takes; None for a network that takes single images."""
        return contract.frames(self.model)

    @property
    def channels(self) -> int:
        """Channels C of the images that the network takes and gives."""
        return contract.channels(self.model)

    @property
    def description(self) -> str:
        """Name and options of the network in one line."""
        how = "whole images"
        if self.tiling.tile is not None:
            same = (
                "same result as without tiles"
                if self.tiling.exact
                else f"blended over {2 * self.tiling.blend} pixels; the result differs slightly from one without tiles"
            )
            how = f"tiles of {self.tiling.tile} LR pixels that overlap by {self.tiling.overlap} ({same})"
        ensemble = f", ensemble of {8 if self.frames is None else 4}" if self.ensemble else ""
        precision = "fp32" if self.precision == "32" else self.precision
        kernels = "" if self.kernels == "exact" else f", kernels={self.kernels}"
        return f"{self.name}: {how}, {precision}{kernels}{ensemble}"

    def _options(self, height: int, width: int) -> dict[str, Any]:
        tiling = whole_if_small(self.tiling, height, width)
        return {"tiling": tiling, "ensemble": self.ensemble, "precision": self.precision, "choice": self.kernels}

    def image(self, lr: torch.Tensor, window: Sequence[Hashable] = ()) -> torch.Tensor:
        """Upscale [C, h, w] or [T, C, h, w] uint8, or float in [0, 1] -> [C, scale * h, scale * w] in [0, 1], on the CPU.

        ``window`` contains a name for each frame. Features of a frame are kept for the next window that contains the
        frame.
        """
        features = None
        if window and self.frames is not None and FrameFeatures.serve(self.model):
            features = self._features = self._features or FrameFeatures(self.model)
            features.begin(window)
        return super_resolve(self.model, lr, features=features, **self._options(*lr.shape[-2:])).cpu()

    def bands(
        self, lr: torch.Tensor, done: Callable[[int], object] = lambda pixels: None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Upscale one image [C, h, w] uint8, or float in [0, 1]. Yield it in bands from top to bottom.

        A band is (first row, [C, rows, scale * w] in [0, 1]).

        ``done`` is called with the number of LR pixels of every finished tile.
        """
        return super_resolve_bands(self.model, lr, done=done, **self._options(*lr.shape[-2:]))

    def clip(
        self, frames: Iterable[torch.Tensor], *, height: int, width: int, padding: str = "reflection_circle"
    ) -> Iterator[torch.Tensor]:
        """Upscale the frames of a clip, [C, height, width] each. Yield [C, scale * height, scale * width] in [0, 1].

        A clip may have any length. ``padding`` is the rule that replaces frames before the start and after the end of
        the clip.
        """
        return super_resolve_clip(self.model, frames, padding=padding, **self._options(height, width))


def take_less(network: Network, height: int, width: int, *, shrink: bool, tell: Callable[[str], object]) -> None:
    """Halve the side of a network's tiles after an image of height x width LR pixels did not fit into memory.

    Args:
        network: network whose tiling is changed.
        height: height of the image.
        width: width of the image.
        shrink: true if the side of the tiles was chosen automatically, so that it may be changed.
        tell: function that is called with a message about the new side.

    Raises:
        MemoryFullError: the user chose the side, or the side cannot be smaller.
    """
    tiling = smaller(network.tiling, height, width) if shrink else None
    if tiling is None:
        raise MemoryFullError("the memory is full; give a smaller tile=") from None
    tell(f"the memory is full with tile={network.tiling.tile}; continuing with tile={tiling.tile}")
    network.tiling = tiling
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_RECOGNIZED = {"layout": "layout", "wrapper": "taken from", "aside": "set aside", "assumed": "assumed"}


def recognized_as(weights: Weights) -> str:
    """Return a suffix for the name of another program's file: what was recognized and chosen in it, and what was assumed.

    The suffix is empty for files of sr-train.
    """
    return "".join(f"; {shown}: {weights.origin[k]}" for k, shown in _RECOGNIZED.items() if k in weights.origin)


def _open_bicubic(config: Mapping[str, Any]) -> tuple[nn.Module, int, str]:
    scale, arithmetic = scale_of(config, (), "bicubic"), config.get("arithmetic", "float")
    model = Bicubic(scale=scale, arithmetic=arithmetic, image_channels=config.get("channels") or 3)
    return model, scale, f"bicubic x{scale} ({arithmetic})"


def _open_weights(config: Mapping[str, Any], source: str) -> tuple[nn.Module, int, str]:
    allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
    if not all(isinstance(package, str) for package in allow):
        raise UsageError(f"allow={allow}: expected names of packages")
    weights, file = load(source, allow=allow, scale=config["scale"])
    scale = scale_of(config, weights.scales, source)
    weights = one_scale(weights, scale, where=str(file), allow=allow)
    model = build_network(weights, where=str(file), allow=allow)
    channels = "" if weights.channels == 3 else f", {counted(weights.channels, 'channel')}"
    return model, scale, f"{file} (x{scale}{channels}{recognized_as(weights)})"


def _kernels_of(config: Mapping[str, Any]) -> str:
    """Return the value of ``kernels=``. Raise UsageError for other names; warn if this machine lacks the kernel."""
    choice = str(config.get("kernels", "exact"))
    if choice not in CHOICES:
        raise UsageError(f"kernels={choice}: choose from {', '.join(CHOICES)}")
    if choice == "winograd" and not winograd_is_available():
        warn("kernels=winograd: torch has no NNPACK on this machine; continuing with kernels=exact")
        return "exact"
    return choice


def open_network(config: Mapping[str, Any], source: str) -> Network:
    """Open a network: from a file, from the folder of a run's stage, or ``bicubic``.

    Raises ValueError for wrong options and weights.
    """
    try:
        check_sides(config["tile"], config["overlap"])  # before a network is read
        device = device_of(str(config["device"]))
        ensemble = expect(config, "ensemble", bool, "true or false")
        precision = inference_precision(str(config.get("precision", "32")), device.type)
        kernels = _kernels_of(config)
        model, scale, name = _open_bicubic(config) if source == "bicubic" else _open_weights(config, source)
        model = model.to(device)
        tiling = plan_tiles(model, tile=config["tile"], overlap=config["overlap"])
    except TileError as error:
        raise UsageError(str(error)) from None
    return Network(model, scale, name, tiling, ensemble, precision, kernels)
