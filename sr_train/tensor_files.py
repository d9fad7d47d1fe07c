"""Reading tensors from weights that others wrote, safetensors or torch's own, without running what is in them."""

from __future__ import annotations

import os
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
