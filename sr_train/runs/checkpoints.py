"""Checkpoints to resume from: written whole or not at all, the newest good one found again after anything.

A stage's ``checkpoints/`` holds ``step_NNNNNNNN.ckpt``, the last K, and ``last``, a text file that names the newest. A
checkpoint holds tensors and plain values only and is read with torch's restricted loader.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr_train.tasks.base import SRTask
from sr_train.torch_files import archive_problem

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
        problem = archive_problem(path)
        if problem is not None:
            raise CheckpointError(f"{path}: {problem}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path}: refused: it holds more than tensors and plain values ({reason})") from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged zip raises whatever its reader meets
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint ({type(error).__name__}: {shorten_reason(error)})"
        ) from None
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


def shorten_reason(error: BaseException) -> str:
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


# -- whether a checkpoint fits a task ----------------------------------------------------------------------------------


def misfits(content: Mapping[str, Any], task: SRTask) -> list[str]:
    """Return what keeps a task from continuing from a checkpoint, one line for each key to type; empty where it fits.

    Names and shapes of all tensors, and the optimizer's parameters, options and state, are compared.
    """
    problems = _tensor_misfits(content["state_dict"], task.state_dict())
    if any(not problem.startswith("task.ema") for problem in problems):
        return problems  # the optimizer's state is that of other tensors as well
    try:
        problems += _optimizer_misfits(content, task)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problems.append(
            f"task.optimizer: its state in the checkpoint cannot be read ({type(error).__name__}: {shorten_reason(error)})"
        )
    return problems


_PARTS = {"model": "model.*", "loss": "loss.*", "discriminator": "task.discriminator.*", "ema": "task.ema"}


def _tensor_misfits(saved: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """Compare names and shapes, part by part: the network, its EMA, the discriminator, the loss."""
    problems = []
    for part in dict.fromkeys(k.partition(".")[0] for k in (*own, *saved)):
        here, there = ({k: v for k, v in s.items() if k.partition(".")[0] == part} for s in (own, saved))
        key = _PARTS.get(part, "task")
        if not here or not there:
            holds, lacks = ("this command", "the checkpoint") if here else ("the checkpoint", "this command")
            what = {"ema": "an EMA", "discriminator": "a discriminator"}.get(part, f"tensors {part}.*")
            problems.append(f"{key.removesuffix('.*')}: {holds} has {what} ({_count(here or there)}), {lacks} has none")
        elif part != "ema" or here.keys() ^ there.keys() == set():  # the EMA's names differ where the network's do
            wrong = list(_differing(there, here))
            if wrong and not (part == "ema" and problems):
                problems.append(f"{key}: {_some(wrong, '; ')}")
    return problems


def _differing(saved: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name in dict.fromkeys([*own, *saved]):
        if name not in saved:
            yield f"{name}: not in the checkpoint"
        elif name not in own:
            yield f"{name}: in the checkpoint alone"
        elif saved[name].shape != own[name].shape:
            yield f"{name}: {list(saved[name].shape)} in the checkpoint, {list(own[name].shape)} here"


def _count(tensors: Mapping[str, Any]) -> str:
    return f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}"


def _some(lines: Sequence[str], between: str = ", ") -> str:
    return between.join([*lines[:6], *([f"and {len(lines) - 6} more"] if len(lines) > 6 else [])])


def _optimizer_misfits(content: Mapping[str, Any], task: SRTask) -> list[str]:
    """Compare the groups of the optimizer: what they are for, which parameters they hold, which options and state."""
    (saved,), optimizer = content["optimizer_states"], task.configure_optimizers()
    there, here = saved["param_groups"], optimizer.param_groups
    if [g.get("suffix") for g in there] != [g.get("suffix") for g in here]:
        names = [[str(g.get("suffix")) or "(the others)" for g in groups] for groups in (there, here)]
        return [
            f"task.rate_scale: the checkpoint has groups of parameters {', '.join(names[0])}; here are {', '.join(names[1])}"
        ]
    problems, own = [], task.trained()
    trained = content.get("trained") or [
        [None] * len(g["params"]) for g in there
    ]  # none in checkpoints of earlier versions
    for names, before in zip(own, trained, strict=True):
        if len(names) != len(before) or (None not in before and names != before):
            apart = {
                "in the checkpoint alone": [n for n in before if n is not None and n not in names],
                "here alone": [n for n in names if n not in before] if None not in before else [],
            }
            shown = "; ".join(
                f"{where}: {_some([n.removeprefix('model.') for n in some])}" for where, some in apart.items() if some
            )
            counts = f"{len(before)} tensors are trained in the checkpoint, {len(names)} here"
            problems.append(f"task.trainable: {counts}{shown and f' ({shown})'}")
    options = [
        sorted(k for k in groups[0] if k not in ("params", "lr", "suffix", "initial_lr")) for groups in (there, here)
    ]
    states = [sorted(map(str, next(iter(saved["state"].values()), {}))), _state_of(optimizer)]
    if options[0] != options[1]:
        problems.append(
            f"task.optimizer: the checkpoint's has options {', '.join(options[0])}; this one {', '.join(options[1])}"
        )
    elif states[0] and states[1] is not None and states[0] != states[1]:
        problems.append(
            f"task.optimizer: the checkpoint's keeps {', '.join(states[0])}; this one {', '.join(states[1]) or 'none'}"
        )
    return problems


def _state_of(optimizer: torch.optim.Optimizer) -> list[str] | None:
    """Return what an optimizer keeps of a parameter, by a step without a gradient's effect; None where it cannot be told.

    For an optimizer that is thrown away afterwards; its parameters stay as they are.
    """
    parameter = min((p for group in optimizer.param_groups for p in group["params"]), key=torch.Tensor.numel)
    before, gradient = parameter.detach().clone(), parameter.grad
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    parameter.grad = torch.zeros_like(parameter)
    try:
        with suppress(Exception):  # an optimizer of the user's own may want what is not there, e.g. a closure
            optimizer.step()
            return sorted(map(str, optimizer.state[parameter]))
        return None
    finally:
        parameter.grad = gradient
        parameter.data.copy_(before)
