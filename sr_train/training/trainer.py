"""Construction of a stage's Lightning Trainer, and the check of its options."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import nn

from sr_train.config.build import build
from sr_train.console import UsageError, collect_error
from sr_train.devices import memory_is_full
from sr_train.models.deform import DeformableConv
from sr_train.training.checkpointing import StreamedCheckpoints
from sr_train.training.cluster import Processes, use_processes
from sr_train.training.parallel import MicroBatches, check_timeout, strategy_of

_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "single_device")

_NOT_LIGHTNINGS = {
    "max_time": "user_callbacks.py adds a callback for max_time",
    "timeout": "belongs to the strategy",
    "sync_batchnorm": "models/batchnorm.py is used, because Lightning's option sync_batchnorm does not work on a CPU",
}

_PROFILERS = ("simple", "advanced", "pytorch")


def build_trainer(
    config: Mapping[str, Any], callbacks: Sequence[L.Callback], folder: Path, processes: Processes | None = None
) -> L.Trainer:
    """Build Lightning's Trainer. sr-train's callbacks replace Lightning's checkpoints, validation and progress display.

    Raise ValueError if Lightning refuses an option.
    """
    given = {k: v for k, v in config["trainer"].items() if v is not None and k not in _NOT_LIGHTNINGS}
    given["strategy"] = strategy_of(config)
    batches = (config.get("task") or {}).get("discriminator_steps", 1)  # a step of this task reads so many batches
    given["accumulate_grad_batches"] = given.get("accumulate_grad_batches", 1) * batches
    try:
        trainer = build(
            given,
            callbacks=[*callbacks, MicroBatches()],
            plugins=[StreamedCheckpoints(), *([] if processes is None else [processes])],
            logger=[build(spec) for spec in (config["logger"] or {}).values() if spec],
            default_root_dir=str(folder),
            max_epochs=-1,
            use_distributed_sampler=False,  # our sampler distributes the positions
            limit_val_batches=0,  # sr_train.training.validation validates
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,  # EarlyStopping would wait for the end of an epoch
            val_check_interval=int(config["validate"]["every"]),
            log_every_n_steps=int(config["record"]["every"]),  # for values of self.log
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from None
    if processes is not None:
        use_processes(trainer, processes)
    # With several processes, Lightning lets all of them wait for a message of process 0 before every batch, to end at SIGTERM.
    # Stop receives the signals instead of Lightning.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing
    return trainer


def _nothing() -> None:
    """Do nothing."""


def try_trainer(
    config: Mapping[str, Any],
    callbacks: Sequence[L.Callback],
    problems: list[Exception],
    processes: Processes | None = None,
) -> L.Trainer | None:
    """Build the stage's trainer without loggers. If there are errors, add them to ``problems`` and return None."""
    options, before = config["trainer"], len(problems)
    for check in (_check_strategy, _check_profiler, _check_accelerator, _check_devices, check_timeout):
        with collect_error(problems):
            check(options)
    # Options with errors get Lightning's defaults, so that the others are checked as well.
    refused = {key for key in options if any(f"trainer.{key}=" in str(p) for p in problems)}
    if "accelerator" in refused:
        refused.add("devices")
    kept = {k: v for k, v in options.items() if k not in refused}
    trainer = None
    with collect_error(problems, "trainer", usage=True):
        trainer = build_trainer({**config, "trainer": kept, "logger": {}}, callbacks, Path(config["folder"]), processes)
        known = isinstance(trainer.strategy, (DDPStrategy, SingleDeviceStrategy))
        if not known or isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise _refused_strategy(options["strategy"])
    return trainer if len(problems) == before else None


def check_deterministic(options: Mapping[str, Any], network: nn.Module, device: torch.device) -> None:
    """Raise ValueError if a network cannot be trained with ``trainer.deterministic=true`` on this device.

    Without this check, torch would raise an error in the first step.
    """
    convs = [m for m in network.modules() if isinstance(m, DeformableConv)]
    trained = any(p.requires_grad for conv in convs for p in conv.parameters())
    if options.get("deterministic") is True and device.type == "cuda" and trained:
        raise ValueError(
            f"trainer.deterministic=true: {type(network).__name__}'s deformable convolution has no deterministic backward pass "
            "on CUDA (grid_sample and torchvision's deform_conv2d add in any order); give trainer.deterministic=warn, which "
            "makes all other operations deterministic, or false"
        )


def on_one_device(trainer: Mapping[str, Any]) -> bool:
    """Return true if the trainer's options ``devices`` and ``num_nodes`` select one device."""
    return trainer["devices"] in (1, "1", "auto") and trainer["num_nodes"] == 1


def finding_unused(trainer: Mapping[str, Any]) -> str:
    """Return the trainer's strategy, changed from ddp to ddp_find_unused_parameters_true.

    Plain ddp would wait for parameters that get no gradient. Strategies other than ddp are returned unchanged.
    """
    strategy = trainer["strategy"]
    if strategy == "auto" and not on_one_device(trainer):
        strategy = "ddp"
    return f"{strategy}_find_unused_parameters_true" if strategy in ("ddp", "ddp_spawn", "ddp_fork") else strategy


def _refused_strategy(strategy: object) -> UsageError:
    """Return the error for a strategy that shards the network (checkpoints are folders) or forks the process."""
    return UsageError(f"trainer.strategy={strategy}: choose from {', '.join(_STRATEGIES)}")


def _check_strategy(options: Mapping[str, Any]) -> None:
    if isinstance(options["strategy"], str) and options["strategy"] not in _STRATEGIES:
        raise _refused_strategy(options["strategy"])


def _check_profiler(options: Mapping[str, Any]) -> None:
    profiler = options.get("profiler")
    if isinstance(profiler, str) and profiler not in _PROFILERS:
        raise UsageError(
            f"trainer.profiler={profiler}: choose from {', '.join(_PROFILERS)}, or null; profile=true is sr-train's own"
        )


def _check_accelerator(options: Mapping[str, Any]) -> None:
    """Raise UsageError for an unknown ``trainer.accelerator``, ValueError if this machine does not have it."""
    cuda, mps = CUDAAccelerator.is_available, MPSAccelerator.is_available
    there = {"gpu": lambda: cuda() or mps(), "cuda": cuda, "mps": mps, "cpu": lambda: True, "auto": lambda: True}
    accelerator = str(options["accelerator"])
    if accelerator not in there:
        raise UsageError(f"trainer.accelerator={accelerator}: choose from auto, cpu, gpu, cuda, mps")
    if not there[accelerator]():
        raise ValueError(
            f"trainer.accelerator={accelerator}: this machine has no such device; give trainer.accelerator=cpu or auto"
        )


def _check_devices(options: Mapping[str, Any]) -> None:
    """Raise UsageError for a wrong ``trainer.devices``, ValueError if this machine does not have these devices."""
    devices, accelerator = options["devices"], str(options["accelerator"])
    wanted = int(devices) if str(devices).lstrip("-").isdecimal() else devices
    if wanted == 0 or (isinstance(wanted, int) and wanted < -1) or wanted == []:
        raise UsageError(f"trainer.devices={devices}: expected an integer of at least 1, or -1 for all GPUs")
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if accelerator in ("auto", "cpu") and not gpus and (wanted == -1 or isinstance(wanted, list)):
        raise ValueError(f"trainer.devices={devices}: selects GPUs, but no GPU is used here; give trainer.devices=1")
    if gpus and isinstance(wanted, int) and wanted > gpus:
        raise ValueError(
            f"trainer.devices={devices}: this machine has {gpus} GPUs; give at most trainer.devices={gpus}"
        )


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Context for a check before a run: restore torch's global flags and the environment variables at the end.

    Warnings are hidden inside the ``with`` block, because the run prints them later, when it builds the same parts
    again.
    """
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings(), unchanged_flags():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def unchanged_flags() -> Iterator[None]:
    """Restore torch's global flags after the ``with`` block, so that the options of one stage do not affect the next stage."""
    cudnn = torch.backends.cudnn
    kernels = cudnn.benchmark, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = kernels
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        torch.autograd.set_detect_anomaly(anomaly, check_nan)


@contextmanager
def advising_less_memory() -> Iterator[None]:
    """Raise MemoryError with remedies if the ``with`` block, e.g. a training step, does not fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        remedies = "a smaller data.batch or data.lr_patch, task.recompute=true or trainer.accumulate_grad_batches=2"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MemoryError(f"the device's memory is full; try {remedies} ({first})") from None
