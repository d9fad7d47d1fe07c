"""Reading of the checkpoints that a run is resumed from. The newest checkpoint that can be read is used.

The folder ``checkpoints/`` of a stage contains the last K files ``step_NNNNNNNN.ckpt`` and ``last``, a text file with
the name of the newest checkpoint. A checkpoint contains only tensors and plain values; it is read with torch's
restricted loader.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr_train.torch_files import TorchFileError, read_torch

_NAME = re.compile(r"^step_(\d+)\.ckpt$")

_NEEDED = ("state_dict", "optimizer_states", "loops", "callbacks", "global_step")


class CheckpointError(ValueError):
    """Error for a checkpoint that cannot be used; the message contains the reason."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint file."""

    path: Path
    step: int
    content: dict[str, Any]


def file_name(step: int) -> str:
    """Return the file name of the checkpoint after ``step`` steps."""
    return f"step_{step:08d}.ckpt"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, file) for every checkpoint in a folder, newest first."""
    if not folder.is_dir():
        return []
    found = ((_NAME.match(p.name), p) for p in folder.iterdir())
    return sorted(((int(m[1]), p) for m, p in found if m), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raise CheckpointError if the file is damaged or was not written by sr-train."""
    try:
        content = read_torch(path, remedy="the file can be deleted")
    except TorchFileError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict) or any(k not in content for k in _NEEDED) or not _is_state(content["state_dict"]):
        raise CheckpointError(f"{path}: not a checkpoint of sr-train")
    step = content["global_step"]
    if not isinstance(step, int) or step < 0:
        raise CheckpointError(f"{path}: its global_step is {step!r}, expected an integer of at least 0")
    named = _NAME.match(path.name)
    if named is not None and int(named[1]) != step:
        raise CheckpointError(f"{path}: was written at step {step}: the file belongs to another run or was renamed")
    return Checkpoint(path, step, content)


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 150 characters."""
    return (str(error).splitlines() or [""])[0][:150]


def newest_checkpoint(folder: Path, say: Callable[[str], object]) -> Checkpoint | None:
    """Return the newest checkpoint in a folder that can be read; None if the folder contains no checkpoint.

    Print a line with ``say`` for each damaged checkpoint. Raise CheckpointError if all are damaged.
    """
    files = list_checkpoints(folder)
    for _, path in files:
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            say(f"{error}; the checkpoint before this one is tried")
    if files:
        raise CheckpointError(
            f"{folder}: no checkpoint can be read ({len(files)} tried); resume=never renames the folder and starts from scratch"
        )
    return None
