"""Training by several processes: Lightning's strategy, BatchNorm's statistics, and tensors that ddp need not exchange."""

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
    """Return the number of processes that the trainer's options ``devices`` and ``num_nodes`` request."""
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

    Names of other strategies than ddp, and strategies that a user configures as objects, are passed to Lightning
    unchanged.
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
    """Return true if every step uses the same parameters the same number of times, as ddp's option static_graph requires.

    The result is false for a GAN that updates one network alone, or that has a penalty, because some steps then use other
    parameters than others.

    The answer is certain only for sr-train's own tasks, networks and discriminators, and with one scale. The result is
    false for accumulation, because ddp counts the uses in the first backward pass, which does not communicate with
    accumulation.
    """
    parts = [config.get("task") or {}, config.get("model") or {}]
    alone = parts[0].get("discriminator_steps", 1) > 1 or parts[0].get("discriminator_first", 0) > 0
    if alone or parts[0].get("penalty") is not None or parts[0].get("trainable") == []:
        return False
    if parts[0].get("discriminator"):
        parts.append(parts[0]["discriminator"])
    known = all(str(part.get("_target_", "")).startswith("sr_train.") for part in parts)
    return known and config.get("scales") is None and config["trainer"].get("accumulate_grad_batches", 1) == 1


def check_timeout(options: Mapping[str, Any]) -> None:
    """Raise UsageError unless ``trainer.timeout`` is a number of seconds, at least 1."""
    timeout = options.get("timeout", TIMEOUT)
    if not (math.isfinite(timeout) and 1 <= timeout <= _LONGEST):
        raise UsageError(f"trainer.timeout={timeout}: expected seconds, a number of at least 1, e.g. {TIMEOUT}")


def prepare_networks(task: SRTask, given: bool | str, world: int) -> str | None:
    """Prepare the networks of a task for training by ``world`` processes, before ``fit`` is called.

    Return a line for the user on BatchNorm's statistics; None without BatchNorm. ``given`` is the value of
    ``trainer.sync_batchnorm``. The EMA is only evaluated, so it keeps plain BatchNorm. ddp does not exchange three
    kinds of tensors: tensors of the EMA, which every process computes from the network; buffers that are not saved,
    which are constant; and running statistics of synchronized BatchNorm layers, which are equal in all processes.
    Process 0 broadcasts the running statistics of other BatchNorm layers.
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
    """Return the names of the task's tensors that ddp need not exchange: they are equal in all processes."""
    saved = set(task.state_dict())
    averaged = {name for name, _ in (*task.named_parameters(), *task.named_buffers()) if name.startswith("ema.")}
    return averaged | {name for name, _ in task.named_buffers() if name not in saved} | synchronized_buffers(task)


def share_buffers(trainer: L.Trainer, network: nn.Module) -> None:
    """Copy the network's buffers from process 0 to all processes, so that all processes validate the same network."""
    if trainer.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def statistics_notes(task: SRTask, before: Mapping[str, Any] | None, config: Mapping[str, Any]) -> list[str]:
    """Return a note if a continued stage computes BatchNorm's statistics over a different number of images than before.

    Args:
        task: the stage's task.
        before: config with which the stage was started; None if this config is not known.
        config: current config of the stage.
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
    """Callback that computes the micro-batch counters of a loaded checkpoint again.

    The counters must be computed again if ``trainer.accumulate_grad_batches`` has changed. Lightning makes an optimizer
    step when the number of micro-batches is a multiple of ``trainer.accumulate_grad_batches``. Checkpoints are written
    between steps.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's micro-batch counters as if ``trainer.accumulate_grad_batches`` had always had its current value."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        ready = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            shift = ready - counts["ready"]
            counts.update({name: count + shift for name, count in counts.items()})
