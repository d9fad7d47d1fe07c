"""Choice of ``task.parts=auto``: into how many parts a stage divides a batch on a CPU.

The number changes the last bits of the result, so it is part of the run: a stage that continues keeps the number in its
``config.yaml``, whatever number of cores the machine has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch

from sr_train.config.plan import Stage
from sr_train.models.spandrel import SpandrelNetwork
from sr_train.runs import resume
from sr_train.tasks.base import SRTask
from sr_train.tasks.gan import GANTask
from sr_train.tasks.multiscale import MultiScaleTask
from sr_train.tasks.parts import undividable
from sr_train.tasks.pixel import PixelTask

_PAYS = ("32-true",)  #: precisions in which parts were measured to be faster (``scripts/bench/shared_cpu.py``)

_LEAST = 2  #: images that a part must have


def with_parts(stage: Stage, task: SRTask, trainer: L.Trainer) -> Stage:
    """Return a stage in which ``task.parts`` is a number.

    Args:
        stage: the stage, in which ``trainer.precision`` has the value that is used.
        task: its task, on any device.
        trainer: its trainer.
    """
    if stage.config["task"].get("parts") != "auto":  # a number, or a task that does not have the option
        return stage
    parts = _stored(stage)
    if parts is None:
        parts = torch.get_num_threads() if _pays(stage.config, task, trainer) else 1
    return dataclasses.replace(stage, config={**stage.config, "task": {**stage.config["task"], "parts": parts}})


def _stored(stage: Stage) -> int | None:
    """Return the number of parts with which the stage was started; None for a new stage."""
    if stage.config["resume"] == "never":
        return None
    try:
        before = resume.read_config(stage.folder)
    except resume.ChangedError:  # reported when the stage begins
        return None
    if before is None:
        return None
    parts = (before.get("task") or {}).get("parts", 1)  # runs of earlier versions have one part
    return parts if isinstance(parts, int) else 1


def _pays(config: Mapping[str, Any], task: SRTask, trainer: L.Trainer) -> bool:
    """Return true if a part for each thread is faster, and the network is known to treat images one by one."""
    steps = (PixelTask.training_step, MultiScaleTask.training_step, GANTask.training_step)
    network = type(task.model)
    known = network.__module__.startswith("sr_train.models.") and network is not SpandrelNetwork
    images = config["data"].get("batch", 1) // max(1, config["trainer"].get("accumulate_grad_batches", 1))
    return (
        trainer.strategy.root_device.type == "cpu"
        and trainer.world_size == 1
        and config["trainer"]["precision"] in _PAYS
        and type(task).training_step in steps
        and known
        and not task.options.compile
        and undividable(task.model) is None
        and images >= _LEAST * torch.get_num_threads() > _LEAST
    )
