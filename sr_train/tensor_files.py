"""Tensors of files: read from what others wrote, without running what is in them, and made ready to be written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def read_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a flat file by name, on the CPU. Raises ValueError, or FileNotFoundError, naming the file.

    ``*.safetensors``, or what ``torch.save`` wrote (read with ``weights_only=True``, so nothing in it is run); of the
    latter, entries that are no tensors are left out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError:
        raise
    except Exception as error:  # of a damaged file the unpickler raises whatever it stumbles on
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{path}: not a readable file of tensors ({type(error).__name__}: {reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def storable(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what safetensors can write - contiguous tensors on the CPU, no two in one memory - and the names left out.

    The second maps each name of a tensor that has several to the one that it is kept under.
    """
    kept: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    places: dict[object, str] = {}
    for name, value in state.items():
        place = (_memory(value), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if place in places:
            shared[name] = places[place]
        else:
            places[place], kept[name] = name, value
    ready = {k: v.detach().cpu().contiguous() for k, v in kept.items()}  # safetensors takes no channels-last
    uses = Counter(_memory(v) for v in ready.values())
    return {k: v.clone() if uses[_memory(v)] > 1 else v for k, v in ready.items()}, shared


def _memory(tensor: torch.Tensor) -> int:
    """Return a number that tensors in one piece of memory have in common."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
