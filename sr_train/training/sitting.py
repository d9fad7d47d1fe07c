"""Record of the processes that train a stage, in its ``history.jsonl``, for reports."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

import sr_train
from sr_train.devices import cpu_name
from sr_train.runs.checkpoints import list_checkpoints
from sr_train.runs.history import FILE, add_line
from sr_train.training.signals import StoppedError


@contextmanager
def recorded(
    trainer: L.Trainer,
    folder: Path,
    arguments: Sequence[str],
    *,
    stage: str,
    stages: Sequence[str],
    init: Mapping[str, Any],
) -> Iterator[None]:
    """Write the begin of a ``with`` block, which trains a stage, and its end: finished, stopped or failed.

    Only rank 0 writes. A folder that cannot be written is a warning, because training can continue without the record.

    Args:
        trainer: trainer of the stage.
        folder: folder of the stage.
        arguments: arguments of the command.
        stage: name of the stage.
        stages: names of all stages of the run.
        init: ``init`` of the stage's config.
    """
    if not trainer.is_global_zero:
        yield
        return
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    versions = {"sr_train": sr_train.__version__, "torch": str(torch.__version__), "lightning": version("lightning")}
    begin = {
        "begin": time.time(),
        "first_step": _resumed(folder),
        "command": list(arguments),
        "changed": changed_keys(arguments, stage, stages),
        "initial": [f"init.{key}={value}" for key, value in init.items() if value],
        "host": socket.gethostname(),
        "device": name,
        "processes": trainer.world_size,
        "versions": versions,
    }
    _add(folder, begin)
    outcome = "failed"
    try:
        yield
        outcome = "finished"
    except StoppedError as stopped:
        outcome = str(stopped)
        raise
    except BaseException as error:
        outcome = f"failed: {type(error).__name__}"
        raise
    finally:
        _add(folder, {"end": time.time(), "last_step": trainer.global_step, "outcome": outcome})


def changed_keys(arguments: Sequence[str], stage: str, stages: Sequence[str]) -> list[str]:
    """Return the keys of a stage that the arguments of a command set, without the stage's name and Hydra's ``+``.

    Keys that begin with the name of another stage are left out.
    """
    found = []
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        first, _, rest = key.partition(".")
        if first == stage and rest:
            found.append(rest)
        elif first not in stages and key != "experiment":
            found.append(key.partition("@")[0])
    return found


def _resumed(folder: Path) -> int:
    return next((step for step, _ in list_checkpoints(folder / "checkpoints")), 0)


def _add(folder: Path, line: Mapping[str, Any]) -> None:
    try:
        add_line(folder, line)
    except OSError as error:
        warnings.warn(f"{folder / FILE}: not written ({error.strerror}); the run continues", stacklevel=3)
