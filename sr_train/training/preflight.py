"""Check of all stages before the first stage is trained: build and open all that the stages need, and report all errors."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.loggers import WandbLogger

from sr_train.config.build import build
from sr_train.config.plan import Plan, Stage, with_trainer
from sr_train.console import ProblemsError, UsageError, collect_error, is_child, message_of, say
from sr_train.data.images import limit_pixels
from sr_train.data.module import SRData
from sr_train.data.readable import check_readable
from sr_train.evaluation.metrics import PerceptualMetric, check_scored
from sr_train.runs import resume
from sr_train.tasks.curves import try_optimizer
from sr_train.training.cluster import Processes
from sr_train.training.discriminator_start import check_discriminator_start, start_digest
from sr_train.training.network_check import try_network
from sr_train.training.outline import outline
from sr_train.training.parts import with_parts
from sr_train.training.trainer import check_deterministic, finding_unused, try_trainer, unchanged_globals
from sr_train.training.user_callbacks import checked_callbacks
from sr_train.training.wandb_login import check_login
from sr_train.training.warm_starts import Origin, check_warm_starts
from sr_train.weights.discriminator import Discriminator

_STARTS_A_RUN = ("CometLogger", "NeptuneLogger")  # their constructors start a run on a server


@dataclass
class Prepared:
    """Stage that can be trained, with its opened data and metrics.

    Networks are built later, when the stage is trained.
    """

    stage: Stage  #: stage in which ``trainer.precision``, ``trainer.strategy`` and ``task.parts`` have the values that are used
    data: SRData
    perceptual: dict[str, PerceptualMetric]  #: metrics other than PSNR and SSIM
    scores: list[str]  #: names of the scores of validation
    features: list[str]  #: digests of the feature networks of the loss
    source: Origin | None = None  #: content of ``init.weights``; weights of ``init.stage`` are read later
    discriminator: Discriminator | None = None  #: content of ``init.discriminator``, unless it is a stage

    def described(self, source: str | None, discriminator: Discriminator | None = None) -> dict[str, Any]:
        """Return the content of the stage's ``config.yaml``; ``source`` is the digest of its initial weights, if it has any.

        ``discriminator`` has the initial weights of the discriminator if they come from an earlier stage.
        """
        sources = [pairs for several in self.data.by_scale.values() for pairs in several]
        weights = [*([] if source is None else [source]), *start_digest(discriminator or self.discriminator)]
        return resume.describe(self.stage.config, sources, weights, self.features)

    def chosen(self) -> list[str]:
        """Return the metrics other than PSNR and SSIM that the config names, for images with HR."""
        return [name for name in self.perceptual if name in self.stage.config["validate"]["metrics"]]

    def take_origin(self) -> Origin | None:
        """Return the content of ``init.weights``, and remove it from this object, so that its memory is freed after use."""
        source, self.source = self.source, None
        return source


def preflight(plan: Plan, processes: Processes | None = None) -> list[Prepared]:
    """Build the task, data, trainer, optimizer, loggers and callbacks of every selected stage, then check warm starts.

    Raise all errors of all stages together. Nothing is written and no global state is changed.
    """
    found: dict[str, list[Exception]] = {}
    prepared: list[Prepared] = []
    for stage in plan.stages:
        if stage.name in plan.selected:
            ready = prepare(stage, found.setdefault(stage.name, []), processes)
            prepared += [] if ready is None else [ready]
    if any(found.values()):
        _refuse(plan, found)
    sources = check_warm_starts(plan)
    for ready in prepared:
        ready.source = sources.get(ready.stage.name)
        ready.discriminator = check_discriminator_start(plan, ready.stage)
    return prepared


def _refuse(plan: Plan, found: Mapping[str, Sequence[Exception]]) -> None:
    """Raise all errors of the stages together, including errors of their initial weights."""
    others: list[Exception] = []
    with redirect_stdout(io.StringIO()), collect_error(others, "init"):
        check_warm_starts(plan)
        for stage in plan.stages:
            if stage.name in plan.selected:
                check_discriminator_start(plan, stage)
    problems = _merged(found)
    problems += [e for e in others if not any(message_of(e) in message_of(p) for p in problems)]
    raise problems[0] if len(problems) == 1 else ProblemsError(problems)


def _merged(found: Mapping[str, Sequence[Exception]]) -> list[Exception]:
    """Return each problem once. The names of the stages are added to a problem, unless all stages have the problem."""
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


def prepare(stage: Stage, problems: list[Exception], processes: Processes | None = None) -> Prepared | None:
    """Build and open all that one stage needs. If there are errors, add them to ``problems`` and return None.

    This function also sets the stage's ``max_pixels`` for the whole process, because image headers are read when
    sources are opened.
    """
    stage, task, perceptual, scores, features = outline(stage, problems)
    with tempfile.TemporaryDirectory() as folder, unchanged_globals():
        config = _moved(stage.config, str(stage.folder), folder)
        loggers = _build_loggers(config["logger"] or {}, problems)
        callbacks = _build_callbacks(config, loggers, scores, problems)
        trainer = try_trainer(config, callbacks, problems, processes)
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        if task is not None and trainer is not None:
            stage = with_parts(stage, task, trainer)
        if task is not None:
            with collect_error(problems):
                check_deterministic(config["trainer"], task.model, device)
            with collect_error(problems, "model"):
                stage = _reaching_all(stage, type(task.model).__name__, try_network(stage))
            with collect_error(problems, "task.optimizer", usage=True, names_key=False):
                if config["task"].get("optimizer") is not None:
                    optimizer = build(config["task"]["optimizer"])
                    try_optimizer(optimizer, task.parameter_groups(), rate=task.rate, device=device)
    with collect_error(problems):
        limit_pixels(config["max_pixels"])
    data = _open_data(stage.config["data"], trainer, problems)  # outside of unchanged_globals, which hides warnings
    if problems or data is None or scores is None:
        return None
    return Prepared(stage, data, perceptual, scores, features)


def _reaching_all(stage: Stage, network: str, unused: Sequence[str]) -> Stage:
    """Return the stage with the strategy ddp_find_unused_parameters_true if some parameters get no gradient (``unused``).

    Plain ddp would wait for their gradients. Without ``unused`` parameters, return the stage unchanged.
    """
    strategy = finding_unused(stage.config["trainer"])
    if not unused or strategy == stage.config["trainer"]["strategy"]:
        return stage
    shown = ", ".join(unused[:4])
    say(f"stage {stage.name}: {network}: no gradient for {shown}, so trainer.strategy={strategy} is used")
    return with_trainer(stage, strategy=strategy)


def _moved(value: Any, folder: str, elsewhere: str) -> Any:
    """Return a config in which paths below ``folder`` are replaced by paths below ``elsewhere``.

    Constructors that are called for a check may then create files in a temporary folder only.
    """
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
        with collect_error(problems, f"logger.{name}", usage=True, names_key=False):
            loggers.append(build(spec))
            if isinstance(loggers[-1], WandbLogger) and not is_child():
                with collect_error(problems, f"logger.{name}", names_key=False):
                    check_login(loggers[-1])
    return loggers


def _build_callbacks(
    config: Mapping[str, Any], loggers: Sequence[Any], scores: Sequence[str] | None, problems: list[Exception]
) -> list[L.Callback]:
    """Build and check the user's callbacks; add errors to ``problems``. The standard callbacks are not built here."""
    before = len(problems)
    built: dict[str, Callback] = {}
    for name, spec in (config["callbacks"] or {}).items():
        if not spec:
            continue
        with collect_error(problems, f"callbacks.{name}", usage=True, names_key=False):
            callback = build(spec)
            if not isinstance(callback, Callback):
                raise UsageError(
                    f"callbacks.{name}: {spec.get('_target_')} is not a lightning.pytorch.callbacks.Callback"
                )
            built[name] = callback
            if isinstance(callback, (DeviceStatsMonitor, LearningRateMonitor)) and not loggers:
                raise UsageError(f"callbacks.{name}: {type(callback).__name__} needs a logger: give logger=[csv]")
    if len(problems) == before and scores is not None:
        with collect_error(problems, "callbacks", usage=True):
            return checked_callbacks(config, built, scores)
    return []


def _open_data(config: Mapping[str, Any], trainer: L.Trainer | None, problems: list[Exception]) -> SRData | None:
    """Open all training sources and validation sets, and check that the batch can be divided evenly by the devices.

    Add errors to ``problems``, and return None if the data cannot be opened.
    """
    if any(isinstance(p, UsageError) and "data." in str(p) for p in problems):
        return None
    with collect_error(problems, "data"):
        data: SRData = build(config)
        if trainer is not None and data.accumulate > 0:
            with collect_error(problems, "data", usage=True):
                data.per_device(trainer.world_size)
        with collect_error(problems, "data.val"):
            if not is_child():
                check_readable(data.val)
        with collect_error(problems, "data.val"):
            check_scored(data.val)
        return data
    return None
