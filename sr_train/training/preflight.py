"""What a stage of several scales (MDSR) asks of the rest: the data's scales, ddp, the names of its scores."""

from __future__ import annotations

import configparser
import io
import netrc
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from sr_train.config.build import build
from sr_train.config.plan import Plan, Stage
from sr_train.console import ProblemsError, UsageError, is_child, message_of, told
from sr_train.tasks.base import SRTask
from sr_train.tasks.curves import try_optimizer
from sr_train.training.build import build_trainer, score_names
from sr_train.training.network_check import try_network
from sr_train.training.stage import outline
from sr_train.training.stopping import checked_callbacks
from sr_train.training.warm_starts import check_warm_starts

_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "single_device")

_PROFILERS = ("simple", "advanced", "pytorch")

_STARTS_A_RUN = ("CometLogger", "NeptuneLogger")  # their constructors do, on a server


def check_stages(plan: Plan) -> None:
    """Build the task, data, trainer, optimizer, loggers and callbacks of every selected stage, then compare warm starts.

    Raises everything that is wrong, of all stages at once. Nothing is written and no global state is changed.
    """
    stages = [s for s in plan.stages if s.name in plan.selected]
    found = {stage.name: problems_of(stage) for stage in stages}
    if not any(found.values()):
        check_warm_starts(plan)
        return
    others: list[Exception] = []
    with redirect_stdout(io.StringIO()), told(others, "init"):
        check_warm_starts(plan)
    problems = _merged(found)
    problems += [e for e in others if not any(message_of(e) in message_of(p) for p in problems)]
    if is_child() and all(isinstance(p, UsageError) for p in problems):  # rank 0 finds and prints the same
        raise SystemExit(2)
    raise problems[0] if len(problems) == 1 else ProblemsError(problems)


def _merged(found: Mapping[str, Sequence[Exception]]) -> list[Exception]:
    """Each problem once, with its stages before it unless all stages have it."""
    stages: dict[str, list[str]] = {}
    errors: dict[str, Exception] = {}
    for name, problems in found.items():
        for error in problems:
            text = message_of(error)
            errors.setdefault(text, error)
            if name not in stages.setdefault(text, []):
                stages[text].append(name)
    merged: list[Exception] = []
    for text, error in errors.items():
        if len(stages[text]) == len(found) or text.startswith("stage "):
            merged.append(error)
        else:
            kind = UsageError if isinstance(error, UsageError) else ValueError
            merged.append(kind(f"stage {', '.join(stages[text])}: {text}"))
    return merged


def problems_of(stage: Stage) -> list[Exception]:
    """Everything that is wrong with one stage."""
    task, problems = outline(stage)
    with tempfile.TemporaryDirectory() as folder, unchanged_globals():
        config = _moved(stage.config, str(stage.folder), folder)
        loggers = _build_loggers(config["logger"] or {}, problems)
        callbacks = _build_callbacks(config, loggers, problems)
        trainer = _build_trainer(config, callbacks, problems)
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        if task is not None:
            with told(problems, "model"):
                try_network(stage)
            _try_optimizer(config["task"], task, device, problems)
        _open_data(config["data"], trainer, problems)
    return problems


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Put torch's global flags and the environment back to what they were; warnings are given when the run builds again."""
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings(), unchanged_flags():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def unchanged_flags() -> Iterator[None]:
    """Put torch's global flags back to what they were: what one stage asks for does not hold for the next."""
    cudnn = torch.backends.cudnn
    kernels = cudnn.benchmark, cudnn.deterministic
    strict, lenient = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    anomaly, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = kernels
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        torch.autograd.set_detect_anomaly(anomaly, check_nan)


def _moved(value: Any, folder: str, elsewhere: str) -> Any:
    """A config whose paths in ``folder`` are in another one: constructors may create files."""
    if isinstance(value, Mapping):
        return {k: _moved(v, folder, elsewhere) for k, v in value.items()}
    if isinstance(value, list):
        return [_moved(v, folder, elsewhere) for v in value]
    if isinstance(value, str) and (value == folder or value.startswith(f"{folder}/")):
        return elsewhere + value[len(folder) :]
    return value


def _build_loggers(specs: Mapping[str, Any], problems: list[Exception]) -> list[Any]:
    loggers: list[Any] = []
    for name, spec in specs.items():
        if not spec or str(spec.get("_target_")).endswith(_STARTS_A_RUN):
            continue
        with told(problems, f"logger.{name}", usage=True, ours=False):
            loggers.append(build(spec))
            if isinstance(loggers[-1], WandbLogger) and not is_child():
                with told(problems, f"logger.{name}", ours=False):
                    _check_login(loggers[-1])
    return loggers


def _check_login(logger: Any) -> None:
    """W&B has credentials, or needs none. Read where it reads them; nothing is sent and nobody is asked."""
    settings = _wandb_settings()
    mode = logger._wandb_init.get("mode") or settings.get("mode")
    if (
        logger._offline
        or mode in ("offline", "dryrun", "disabled")
        or settings.keys() & {"api_key", "identity_token_file"}
    ):
        return
    host = settings.get("base_url", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    for file in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if file is not None and netrc.netrc(file).authenticators(host):
                return
    raise ValueError(
        f"no login for {host}: run wandb login, set WANDB_API_KEY, or give WANDB_MODE=offline and send the run later with "
        "wandb sync"
    )


def _wandb_settings() -> dict[str, str]:
    """W&B's settings: of the user's file, of the folder's, of the environment; the later ones win."""
    folder = os.environ.get("WANDB_CONFIG_DIR", str(Path.home() / ".config" / "wandb"))
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error):
        parser.read([Path(folder) / "settings", Path(os.environ.get("WANDB_DIR", ".")) / "wandb" / "settings"])
    settings = dict(parser["default"]) if "default" in parser else {}
    names = ("mode", "api_key", "identity_token_file", "base_url")
    return {**settings, **{n: v for n in names if (v := os.environ.get(f"WANDB_{n.upper()}"))}}


def _build_callbacks(config: Mapping[str, Any], loggers: Sequence[Any], problems: list[Exception]) -> list[L.Callback]:
    """Build the user's own callbacks; ours are made of numbers that are checked already."""
    before = len(problems)
    built: dict[str, Callback] = {}
    for name, spec in (config["callbacks"] or {}).items():
        if not spec:
            continue
        with told(problems, f"callbacks.{name}", usage=True, ours=False):
            callback = build(spec)
            if not isinstance(callback, Callback):
                raise UsageError(f"callbacks.{name}: {spec.get('_target_')} is no lightning.pytorch.callbacks.Callback")
            built[name] = callback
            if isinstance(callback, (DeviceStatsMonitor, LearningRateMonitor)) and not loggers:
                raise UsageError(f"callbacks.{name}: {type(callback).__name__} needs a logger: give logger=[csv]")
    if len(problems) == before:
        with told(problems, "callbacks", usage=True):
            return checked_callbacks(config, built, score_names(config))
    return []


def _build_trainer(
    config: Mapping[str, Any], callbacks: Sequence[L.Callback], problems: list[Exception]
) -> L.Trainer | None:
    """The stage's trainer, without its loggers, or None with what is wrong added to ``problems``."""
    options, before = config["trainer"], len(problems)
    for check in (_check_strategy, _check_profiler, _check_accelerator, _check_devices):
        with told(problems):
            check(options)
    # What is refused already is left to Lightning's defaults, so that the rest is tried as well.
    refused = {key for key in options if any(f"trainer.{key}=" in str(p) for p in problems)}
    if "accelerator" in refused:
        refused.add("devices")
    kept = {k: v for k, v in options.items() if k not in refused}
    trainer = None
    with told(problems, "trainer", usage=True):
        trainer = build_trainer({**config, "trainer": kept, "logger": {}}, callbacks, Path(config["folder"]))
        known = isinstance(trainer.strategy, (DDPStrategy, SingleDeviceStrategy))
        if not known or isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise _refused_strategy(options["strategy"])
    return trainer if len(problems) == before else None


def _refused_strategy(strategy: object) -> UsageError:
    """The error for a strategy that shards the network, whose checkpoints are no files, or that forks this process."""
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
    """The accelerator that is asked for is there."""
    cuda, mps = CUDAAccelerator.is_available, MPSAccelerator.is_available
    there = {"gpu": lambda: cuda() or mps(), "cuda": cuda, "mps": mps, "cpu": lambda: True, "auto": lambda: True}
    accelerator = str(options["accelerator"])
    if accelerator not in there:
        raise UsageError(f"trainer.accelerator={accelerator}: choose from auto, cpu, gpu, cuda, mps")
    if not there[accelerator]():
        raise ValueError(f"trainer.accelerator={accelerator}: there is none here; give trainer.accelerator=cpu or auto")


def _check_devices(options: Mapping[str, Any]) -> None:
    """As many devices as are asked for are there."""
    devices, accelerator = options["devices"], str(options["accelerator"])
    wanted = int(devices) if str(devices).lstrip("-").isdecimal() else devices
    if wanted == 0 or (isinstance(wanted, int) and wanted < -1) or wanted == []:
        raise UsageError(f"trainer.devices={devices}: expected a whole number from 1 on, or -1 for all GPUs")
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if accelerator in ("auto", "cpu") and not gpus and (wanted == -1 or isinstance(wanted, list)):
        raise ValueError(f"trainer.devices={devices}: names GPUs, and none is used here; give trainer.devices=1")
    if gpus and isinstance(wanted, int) and wanted > gpus:
        raise ValueError(f"trainer.devices={devices}: this machine has {gpus}; give at most trainer.devices={gpus}")


def _try_optimizer(config: Mapping[str, Any], task: SRTask, device: Any, problems: list[Exception]) -> None:
    if config.get("optimizer") is None:
        return
    with told(problems, "task.optimizer", usage=True, ours=False):
        try_optimizer(build(config["optimizer"]), task.parameter_groups(), rate=task.rate, device=device)


def _open_data(config: Mapping[str, Any], trainer: L.Trainer | None, problems: list[Exception]) -> None:
    """Open every source, and share the batch out among the devices."""
    if any(isinstance(p, UsageError) and "data." in str(p) for p in problems):
        return
    with told(problems, "data"):
        data = build(config)
        if trainer is not None and data.accumulate > 0:
            with told(problems, "data", usage=True):
                data.per_device(trainer.world_size)
