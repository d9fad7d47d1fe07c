"""Search for the file of LPIPS's lin layers (learned weights) on this machine. Nothing is imported or downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

NETWORKS = ("alex", "vgg")

_CACHED = {  # names in torch's cache: that of the lpips package, and that of pyiqa
    "alex": ("alex.pth", "LPIPS_v0.1_alex-df73285e.pth"),
    "vgg": ("vgg.pth", "LPIPS_v0.1_vgg-a78928a0.pth"),
}


def _inside(package: str, *parts: str) -> Iterator[Path]:
    """Yield the path of a file in an installed package; nothing if the package is not installed."""
    found = find_spec(package)
    for folder in [] if found is None else found.submodule_search_locations or []:
        yield Path(folder, *parts)


def _places(network: str) -> Iterator[Path]:
    """Yield the paths where a file may be: the lpips package, torch's cache, torchmetrics (which Lightning installs)."""
    yield from _inside("lpips", "weights", "v0.1", f"{network}.pth")
    cache = Path(torch.hub.get_dir())
    for name in _CACHED[network]:
        yield cache / "checkpoints" / name
        yield cache / "pyiqa" / name
    yield from _inside("torchmetrics", "functional", "image", "lpips_models", f"{network}.pth")


def find_lpips(network: str) -> str | None:
    """Return the first file of LPIPS v0.1's lin layers for ``alex`` or ``vgg``; None if this machine has none."""
    return next((str(path) for path in _places(network) if path.is_file()), None)
