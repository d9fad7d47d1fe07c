"""Comparison of a checkpoint with the task that will continue from this checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from typing import Any

import torch

from sr_train.runs.checkpoints import first_line
from sr_train.tasks.base import SRTask

# -- comparison --------------------------------------------------------------------------------------------------------


def misfits(content: Mapping[str, Any], task: SRTask) -> list[str]:
    """Return the differences because of which a task cannot continue from a checkpoint, one line per config key.

    The list is empty if the checkpoint fits. The names and shapes of all tensors are compared, and the optimizer's
    parameters, options and state.
    """
    problems = _tensor_misfits(content["state_dict"], task.state_dict())
    if any(not problem.startswith("task.ema") for problem in problems):
        return problems  # the optimizer's state differs for the same reason
    try:
        problems += _optimizer_misfits(content, task)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problems.append(
            "task.optimizer: the optimizer's state in the checkpoint cannot be read "
            f"({type(error).__name__}: {first_line(error)})"
        )
    return problems


_PARTS = {"model": "model.*", "loss": "loss.*", "discriminator": "task.discriminator.*", "ema": "task.ema"}


def _tensor_misfits(saved: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """Compare names and shapes of tensors for each part of a task: network, EMA, discriminator, loss.

    Return differences.
    """
    problems = []
    for part in dict.fromkeys(k.partition(".")[0] for k in (*own, *saved)):
        here, there = ({k: v for k, v in s.items() if k.partition(".")[0] == part} for s in (own, saved))
        key = _PARTS.get(part, "task")
        if not here or not there:
            holds, lacks = ("this command", "the checkpoint") if here else ("the checkpoint", "this command")
            kind = {"ema": "an EMA", "discriminator": "a discriminator"}.get(part, f"tensors {part}.*")
            problems.append(f"{key.removesuffix('.*')}: {holds} has {kind} ({_count(here or there)}), {lacks} has none")
        elif part != "ema" or here.keys() ^ there.keys() == set():  # other names of the EMA: the network is reported
            wrong = list(_differing(there, here))
            if wrong and not (part == "ema" and problems):
                problems.append(f"{key}: {_some(wrong, '; ')}")
    return problems


def _differing(saved: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name in dict.fromkeys([*own, *saved]):
        if name not in saved:
            yield f"{name}: not in the checkpoint"
        elif name not in own:
            yield f"{name}: only in the checkpoint"
        elif saved[name].shape != own[name].shape:
            yield f"{name}: {list(saved[name].shape)} in the checkpoint, {list(own[name].shape)} in this command"


def _count(tensors: Sized) -> str:
    return f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}"


def _some(lines: Sequence[str], between: str = ", ") -> str:
    return between.join([*lines[:6], *([f"and {len(lines) - 6} more"] if len(lines) > 6 else [])])


def _optimizer_misfits(content: Mapping[str, Any], task: SRTask) -> list[str]:
    """Compare the optimizer's parameter groups: suffixes, parameters, options and state. Return differences."""
    (saved,), optimizer = content["optimizer_states"], task.configure_optimizers()
    there, here = saved["param_groups"], optimizer.param_groups
    if [g.get("suffix") for g in there] != [g.get("suffix") for g in here]:
        names = [[str(g.get("suffix")) or "(the others)" for g in groups] or ["(none)"] for groups in (there, here)]
        return [
            f"task.rate_scale: the checkpoint has parameter groups {', '.join(names[0])}; this command {', '.join(names[1])}"
        ]
    problems, own = [], task.trained()
    trained = content.get("trained") or [
        [None] * len(g["params"]) for g in there
    ]  # missing in checkpoints of earlier versions
    for group, names, before in zip(here, own, trained, strict=True):
        if len(names) != len(before) or (None not in before and names != before):
            apart = {
                "only in the checkpoint": [n for n in before if n is not None and n not in names],
                "only in this command": [n for n in names if n not in before] if None not in before else [],
            }
            shown = "; ".join(
                f"{where}: {_some([n.removeprefix('model.').removeprefix('discriminator.') for n in some])}"
                for where, some in apart.items()
                if some
            )
            counts = f"{_count(before)} trained in the checkpoint, {len(names)} in this command"
            key = "task.discriminator_trainable" if group.get("suffix") == "_d" else "task.trainable"
            problems.append(f"{key}: {counts}{shown and f' ({shown})'}")
    options = [
        sorted(k for k in groups[0] if k not in ("params", "lr", "suffix", "initial_lr")) for groups in (there, here)
    ]
    states = [sorted(map(str, next(iter(saved["state"].values()), {}))), _state_of(optimizer)]
    if options[0] != options[1]:
        problems.append(
            f"task.optimizer: the checkpoint has options {', '.join(options[0])}; "
            f"this command has options {', '.join(options[1])}"
        )
    elif states[0] and states[1] is not None and states[0] != states[1]:
        problems.append(
            f"task.optimizer: the checkpoint has state {', '.join(states[0])}; "
            f"this command has state {', '.join(states[1]) or 'none'}"
        )
    return problems


def _state_of(optimizer: torch.optim.Optimizer) -> list[str] | None:
    """Return the names of the values that an optimizer stores for each parameter, e.g. exp_avg; None if its step fails.

    The names are found by a step with learning rate 0. The parameters are not changed, but the optimizer must not be
    used afterwards.
    """
    parameter = min((p for group in optimizer.param_groups for p in group["params"]), key=torch.Tensor.numel)
    before, gradient = parameter.detach().clone(), parameter.grad
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    parameter.grad = torch.zeros_like(parameter)
    try:
        with suppress(Exception):  # a user's optimizer may need more, e.g. a closure
            optimizer.step()
            return sorted(map(str, optimizer.state[parameter]))
        return None
    finally:
        parameter.grad = gradient
        parameter.data.copy_(before)
