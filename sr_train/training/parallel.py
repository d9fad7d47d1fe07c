"""Training by several processes: the strategy, BatchNorm's statistics, and the tensors that are not exchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sr_train.console import UsageError
from sr_train.models.batchnorm import local_layers, synchronize, synchronized_buffers
from sr_train.tasks.base import SRTask

TIMEOUT = 1800  #: default of ``trainer.timeout`` in seconds

_LONGEST = 10**9


def processes(options: Mapping[str, Any]) -> int:
    """Return the number of processes that the trainer's options ask for."""
    devices = options.get("devices", 1)
    if isinstance(devices, str) and devices.lstrip("-").isdecimal():
        devices = int(devices)
    if isinstance(devices, str) and "," in devices:
        devices = [d for d in devices.split(",") if d.strip()]
    if isinstance(devices, list):
        each = len(devices)
    elif isinstance(devices, int) and devices > 0:
        each = devices
    elif devices == "auto":
        each = 1
    else:  # -1
        each = max(torch.cuda.device_count() if options.get("accelerator") != "cpu" else 1, 1)
    return each * options.get("num_nodes", 1)


def strategy_of(config: Mapping[str, Any]) -> Any:
    """Return Lightning's strategy for a stage's ``trainer.strategy``; ``auto`` is ddp with more than one process.

    Names without an entry here, and strategies that a user configures, are left to Lightning.
    """
    options = config["trainer"]
    name = options.get("strategy") or "auto"
    if name == "auto" and processes(options) > 1:
        name = "ddp"
    if name not in ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"):
        return name
    unused = name.endswith("true")
    return DDPStrategy(
        find_unused_parameters=unused,
        static_graph=not unused and _has_static_graph(config),
        gradient_as_bucket_view=True,  # gradients are not copied into the messages
        timeout=timedelta(seconds=options.get("timeout", TIMEOUT)),
    )


def _has_static_graph(config: Mapping[str, Any]) -> bool:
    """Return true if every step uses the same parameters equally often, as ddp's static_graph requires.

    Only the parts of sr-train are known to do so, with one scale. Accumulation is excluded: its first backward pass, in which
    ddp counts the uses, does not communicate.
    """
    parts = [config.get("task") or {}, config.get("model") or {}]
    if parts[0].get("discriminator"):
        parts.append(parts[0]["discriminator"])
    known = all(str(part.get("_target_", "")).startswith("sr_train.") for part in parts)
    return known and config.get("scales") is None and config["trainer"].get("accumulate_grad_batches", 1) == 1


def check_timeout(options: Mapping[str, Any]) -> None:
    """Raise UsageError unless ``trainer.timeout`` is a number of seconds."""
    timeout = options.get("timeout", TIMEOUT)
    if not (math.isfinite(timeout) and 1 <= timeout <= _LONGEST):
        raise UsageError(f"trainer.timeout={timeout}: expected seconds, a number of at least 1, e.g. {TIMEOUT}")


def prepare_networks(task: SRTask, given: bool | str, world: int) -> str | None:
    """Prepare a task for ``world`` processes; call it before ``fit``. Return a line on BatchNorm's statistics, if it has any.

    The EMA is only evaluated, so it keeps plain BatchNorm. Its tensors follow from those of the network in every process, and
    buffers that are not saved are constant: ddp does not broadcast them. Running statistics of synchronized layers are equal
    in all processes; those of local ones are broadcast by process 0, as before.
    """
    networks = task.networks()
    if world == 1:
        return None
    shared = sum(synchronize(n) for n in networks) if given is True or given == "auto" else 0
    local = sum(local_layers(n) for n in networks)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, sorted(_not_exchanged(task)))
    if shared and not local:
        return f"BatchNorm: statistics over all {world} devices"
    if shared:
        return (
            f"BatchNorm: statistics over all {world} devices in {shared} layers, over each device's images in {local}"
        )
    why = "trainer.sync_batchnorm=false" if given is False else "layers with a forward of their own"
    return f"BatchNorm: statistics over each device's images ({why})" if local else None


def _not_exchanged(task: SRTask) -> set[str]:
    """Return the names of the task's tensors that ddp does not have to exchange."""
    saved = set(task.state_dict())
    averaged = {name for name, _ in (*task.named_parameters(), *task.named_buffers()) if name.startswith("ema.")}
    return averaged | {name for name, _ in task.named_buffers() if name not in saved} | synchronized_buffers(task)


def share_buffers(trainer: L.Trainer, network: nn.Module) -> None:
    """Copy the network's buffers of process 0 to all processes, so that all of them validate the same network."""
    if trainer.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def statistics_notes(task: SRTask, before: Mapping[str, Any] | None, config: Mapping[str, Any]) -> list[str]:
    """Return a note if a continued stage computes BatchNorm's statistics over a different number of images than before.

    Args:
        task: the stage's task.
        before: the config that the stage was started with.
        config: the present one.
    """
    if before is None or not any(local_layers(n) for n in task.networks()):
        return []
    old, new = before.get("trainer") or {}, config["trainer"]
    defaults = {"accumulate_grad_batches": 1, "sync_batchnorm": "auto"}
    changed = [
        f"trainer.{k}: {old.get(k, d)} -> {new.get(k, d)}"
        for k, d in defaults.items()
        if old.get(k, d) != new.get(k, d)
    ]
    return (
        [f"BatchNorm's statistics are over a different number of images from here on ({', '.join(changed)})"]
        if changed
        else []
    )


class MicroBatches(L.Callback):
    """Callback that counts a checkpoint's micro-batches anew, as ``trainer.accumulate_grad_batches`` may have changed.

    Lightning takes a step when its count is a multiple of this number, and checkpoints are written between steps.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set the counts to those of a run that had the present number from its start."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        ready = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            shift = ready - counts["ready"]
            counts.update({name: count + shift for name, count in counts.items()})
