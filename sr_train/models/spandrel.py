"""An image network of spandrel's MIT part in our contract: SwinIR, HAT, DAT, SPAN, OmniSR, Compact and others."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

NETWORKS = "spandrel.architectures."  #: classes are taken from here only; spandrel_extra_arches has other licenses

MISSING = 'spandrel is not installed; install it: pip install ".[spandrel]"'

_WIDTHS = (64, 128, 256)  # of strips that show how far a pixel reaches; tiles overlap by 96 pixels at most

_SHIFTS = (0, 1, 3)  # of the pixel, in steps of multiple_of


def class_of(network: str) -> type[nn.Module]:
    """Return a class of spandrel by its path. Raise ValueError if it is not a network of spandrel's architectures."""
    module_name, _, name = network.rpartition(".")
    if not network.startswith(NETWORKS) or not all(part.isidentifier() for part in network.split(".")):
        raise ValueError(f"network={network!r}: expected a class of {NETWORKS}*")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name == "einops" or importlib.util.find_spec("spandrel") is None:
            raise ValueError(MISSING) from None
        raise ValueError(f"this version of spandrel has no network {network}") from None
    except AttributeError:
        raise ValueError(f"this version of spandrel has no network {network}") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module_name):
        raise ValueError(f"network={network!r} is not a network")
    return found


class SpandrelNetwork(nn.Module):
    """A network of spandrel: [B, 3, h, w] in [0, 1] -> [B, 3, scale h, scale w], not clamped.

    Its tensors have the names of spandrel's class, without a prefix. The arguments are read from a file, see
    ``weights/foreign/spandrel.py``.

    Args:
        scale: HR pixels per LR pixel along a side.
        network: path of the class below ``spandrel.architectures``.
        hyperparameters: arguments of the class.
        multiple_of: number that sides of inputs are multiples of.
        minimum: smallest side of an input; a smaller one is padded inside the network.
    """

    scale: int
    multiple_of: int
    minimum: int

    def __init__(
        self, *, scale: int, network: str, hyperparameters: dict[str, Any], multiple_of: int = 1, minimum: int = 0
    ) -> None:
        super().__init__()
        inner = class_of(network)(**hyperparameters)
        # Both modules have the same tensors and children, so names have no prefix. setattr would make one a child of the other.
        shared = {
            name: vars(inner)[name] for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        }
        vars(self).update(shared, inner=inner, scale=scale, multiple_of=multiple_of, minimum=minimum)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale; see the class for shapes and ranges."""
        height, width = lr.shape[-2:]
        below, right = max(0, self.minimum - height), max(0, self.minimum - width)
        if below or right:
            lr = F.pad(lr, (0, right, 0, below), mode="replicate")
        sr: torch.Tensor = vars(self)["inner"](lr)
        return sr[..., : height * self.scale, : width * self.scale]

    def train(self, mode: bool = True) -> SpandrelNetwork:
        """Set training mode of both modules."""
        vars(self)["inner"].training = mode
        return super().train(mode)

    @property
    def reaches_anywhere(self) -> bool:
        """True if the part of the output that a pixel reaches depends on where the pixel is, as with windows of attention.

        Then the result of a tile depends on where it begins, and tiles are blended. It is measured at every call, with columns
        of NaN, which every layer passes on.
        """
        step, training = self.multiple_of, self.training
        self.eval()
        try:
            for width in _WIDTHS:
                middle = width // 2 // step * step
                found = {self._reach(-(-width // step) * step, middle + shift * step) for shift in _SHIFTS}
                if None not in found:
                    return len(found) > 1
        finally:
            self.train(training)
        return True

    @torch.no_grad()
    def _reach(self, width: int, column: int) -> tuple[int, int] | None:
        """Return the distances to the outermost outputs that a column reaches; None if it reaches a border."""
        height = -(-8 // self.multiple_of) * self.multiple_of
        device = next(self.parameters()).device
        strip = torch.zeros(1, 3, height, width, device=device)
        strip[..., column] = torch.nan
        with torch.autocast(device.type, enabled=False):
            touched = self(strip)[0].isnan().any(0).any(0).nonzero().flatten().tolist()
        if not touched or touched[0] == 0 or touched[-1] == width * self.scale - 1:
            return None
        return column * self.scale - touched[0], touched[-1] - column * self.scale


def arguments(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a :class:`SpandrelNetwork` from its arguments."""
    return {"_target_": f"{__name__}.SpandrelNetwork", **found}
