"""The networks that a command was given: ``weights=``, ``device=``, ``tile=``, ``ensemble=``, ``precision=``."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sr_train.config.compose import expect
from sr_train.console import UsageError, listed
from sr_train.devices import device_of, native_bf16, warn_of_emulation
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.images import super_resolve
from sr_train.inference.tiling import (
    MemoryFullError,
    TileError,
    Tiling,
    check_sides,
    plan_tiles,
    smaller,
    whole_if_small,
)
from sr_train.models.bicubic import Bicubic
from sr_train.weights.network import build_network, one_scale
from sr_train.weights.open import load


def take_less(network: Network, height: int, width: int, *, shrink: bool, bar: Any) -> None:
    """Give a network tiles of half the side, if the side was ours to choose. Raises MemoryFullError."""
    tiling = smaller(network.tiling, height, width) if shrink else None
    if tiling is None:
        raise MemoryFullError("the memory is full; give a smaller tile=") from None
    bar.write(f"memory is full with tile={network.tiling.tile}: going on with tile={tiling.tile}", sys.stderr)
    network.tiling = tiling
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def scale_of(config: Mapping[str, Any], known: Sequence[int], source: str) -> int:
    """The scale of a network, which ``scale=`` must agree with; of those that know none, ``scale=`` itself.

    ``known`` are the scales that it has: none of bicubic, several of an MDSR, of which ``scale=`` chooses one.
    """
    scale = config["scale"]
    if scale is None and not known:
        raise UsageError("give scale=2 (or 3, 4, ...): neither bicubic nor finished images know theirs")
    if scale is None and len(known) > 1:
        choices = " or ".join(f"scale={s}" for s in known)
        raise ValueError(f"{source} is a network for {listed(known)}: give {choices}")
    if scale is None:
        return known[0]
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise UsageError(f"scale={scale!r}: expected a whole number from 1 on")
    if known and scale not in known:
        raise ValueError(f"scale={scale}, but {source} is a network for {listed(known)}")
    return scale


@dataclass
class Network:
    """A network that is ready to upscale, and how it shall."""

    model: nn.Module
    scale: int
    name: str  #: for the table
    tiling: Tiling
    ensemble: bool
    precision: str
    _features: Any = field(default=None, init=False)

    @property
    def frames(self) -> int | None:
        """Frames of the window that a video network takes; None for images."""
        return getattr(self.model, "frames", None)

    def __call__(self, lr: torch.Tensor, window: Sequence[Hashable] = ()) -> torch.Tensor:
        """[C, h, w] or [T, C, h, w] uint8, or float in [0, 1] -> [C, scale h, scale w] in [0, 1], on the CPU.

        ``window`` names the frames: what is found in one is kept for the next window that holds it.
        """
        tiling = whole_if_small(self.tiling, *lr.shape[-2:])
        features = None
        if window and self.frames is not None and FrameFeatures.serve(self.model):
            features = self._features = self._features or FrameFeatures(self.model)
            features.begin(window)
        options: dict[str, Any] = {"tiling": tiling, "ensemble": self.ensemble, "precision": self.precision}
        return super_resolve(self.model, lr, features=features, **options).cpu()


def _precision(config: Mapping[str, Any], device: torch.device) -> str:
    precision = str(config.get("precision", "32"))
    if precision not in ("32", "bf16", "auto"):
        raise UsageError(f"precision={precision}: choose from 32, bf16, auto")
    if precision == "auto":
        return "bf16" if native_bf16(device.type) else "32"
    if precision == "bf16":
        warn_of_emulation("precision=bf16", device.type)
    return precision


def open_network(config: Mapping[str, Any], source: str) -> Network:
    """Build the network of a file, of a run's stage, or bicubic. Raises ValueError with what does not fit."""
    try:  # before a network is read
        check_sides(config["tile"], config["overlap"])
    except TileError as error:
        raise UsageError(str(error)) from None
    device = device_of(str(config["device"]))
    ensemble = expect(config, "ensemble", bool, "true or false")
    precision = _precision(config, device)
    if source == "bicubic":
        scale = scale_of(config, (), source)
        model: nn.Module = Bicubic(scale=scale, arithmetic=config.get("arithmetic", "float"))
        name = f"bicubic x{scale} ({config.get('arithmetic', 'float')})"
    else:
        allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
        if not all(isinstance(package, str) for package in allow):
            raise UsageError(f"allow={allow}: expected names of packages")
        weights, file = load(source, allow=allow, scale=config["scale"])
        scale = scale_of(config, weights.scales, source)
        weights = one_scale(weights, scale, where=str(file), allow=allow)
        model = build_network(weights, where=str(file), allow=allow).to(device)
        recognized = "".join(f"; {k}: {weights.origin[k]}" for k in ("layout", "assumed") if k in weights.origin)
        name = f"{file} (x{scale}{recognized})"
    try:
        tiling = plan_tiles(model, tile=config["tile"], overlap=config["overlap"])
    except TileError as error:
        raise UsageError(str(error)) from None
    return Network(model, scale, name, tiling, ensemble, precision)
