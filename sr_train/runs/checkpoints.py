"""Checkpoints to resume from: written whole or not at all, the newest good one found again after anything.

A stage's ``checkpoints/`` holds ``step_NNNNNNNN.ckpt``, the last K, and ``last``, a text file that names the newest. A
checkpoint holds tensors and plain values only and is read with torch's restricted loader.
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
    """A checkpoint that cannot be used, and why."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read whole."""

    path: Path
    step: int
    content: dict[str, Any]


def file_name(step: int) -> str:
    """Name of the checkpoint after ``step`` steps."""
    return f"step_{step:08d}.ckpt"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of every checkpoint in a folder, newest first."""
    if not folder.is_dir():
        return []
    found = ((_NAME.match(p.name), p) for p in folder.iterdir())
    return sorted(((int(m[1]), p) for m, p in found if m), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError naming the file where it is damaged or none of ours."""
    try:
        content = read_torch(path)
    except TorchFileError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict) or any(k not in content for k in _NEEDED) or not _is_state(content["state_dict"]):
        raise CheckpointError(f"{path}: not a checkpoint of sr-train")
    step = content["global_step"]
    if not isinstance(step, int) or step < 0:
        raise CheckpointError(f"{path}: says that it was written at step {step!r}")
    named = _NAME.match(path.name)
    if named is not None and int(named[1]) != step:
        raise CheckpointError(f"{path}: was written at step {step}: it is another run's, or was renamed")
    return Checkpoint(path, step, content)


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())


def first_line(error: BaseException) -> str:
    """First line of an error's message, at most 150 characters."""
    return (str(error).splitlines() or [""])[0][:150]


def newest_checkpoint(folder: Path, say: Callable[[str], object]) -> Checkpoint | None:
    """The newest checkpoint that can be read; damaged ones are named through ``say`` and passed over."""
    files = list_checkpoints(folder)
    for _, path in files:
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            say(f"{error}; falling back to the one before")
    if files:
        raise CheckpointError(
            f"{folder}: none of the {len(files)} checkpoints can be read; resume=never starts afresh, keeping this folder aside"
        )
    return None
