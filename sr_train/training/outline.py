"""Check of a stage's config values. The stage's metrics are built, and its task on the meta device (without memory)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from sr_train.config.build import build
from sr_train.config.check import callable_at
from sr_train.config.plan import Stage, with_trainer
from sr_train.console import UsageError, collect_error, listed
from sr_train.data.lone import is_lone
from sr_train.devices import resolve_precision
from sr_train.evaluation.metrics import PerceptualMetric, open_perceptual
from sr_train.metrics.lpips import LPIPS
from sr_train.metrics.protocol import get_protocols
from sr_train.models import contract
from sr_train.models.features import FILES, FeatureExtractor
from sr_train.models.frozen_features import FeatureError, FrozenFeatures
from sr_train.tasks.base import SRTask
from sr_train.tasks.curves import check_covers
from sr_train.tasks.gan import GANTask
from sr_train.tasks.multiscale import MultiScaleTask
from sr_train.tasks.pixel import PixelTask
from sr_train.training.discriminator_check import check_discriminator
from sr_train.training.loss_check import check_gan_loss, check_penalty, check_pixel_loss
from sr_train.training.score_names import best_metric, score_names
from sr_train.training.trainer import finding_unused
from sr_train.weights.network import outline as on_meta


class Outline(NamedTuple):
    """Stage whose config values have been checked, with its task on the meta device and its metrics."""

    stage: Stage  #: stage in which ``trainer.precision`` and ``trainer.strategy`` have the values that are used
    task: SRTask | None  #: task on the meta device; None if parts of the task have errors
    perceptual: dict[str, PerceptualMetric]  #: metrics other than PSNR and SSIM
    scores: list[str] | None  #: names of the scores of validation; None if the metrics have errors
    features: list[str]  #: digests of the feature networks of the loss


def outline(stage: Stage, problems: list[Exception]) -> Outline:
    """Check a stage's config values, and build its task on the meta device. Add errors to ``problems``."""
    config, trainer, validate = stage.config, stage.config["trainer"], stage.config["validate"]
    problems += [UsageError(text) for text in _bad_numbers(config)]
    precision, perceptual, scores = trainer["precision"], dict[str, PerceptualMetric](), None
    with collect_error(problems):
        precision = resolve_precision(precision, str(trainer["accelerator"]))
    with collect_error(problems):
        _check_window(config["data"])
    with collect_error(problems):
        _check_channels(config)
    with collect_error(problems):
        lone = any(map(is_lone, (config["data"]["val"] or {}).values()))
        perceptual = open_perceptual(validate["metrics"], validate["lpips"], keys="validate.", without_hr=lone)
        scores = score_names(config, perceptual)
        if validate["best"] is not None and best_metric(validate["best"], scores) not in scores:
            choices = ", ".join(scores) or "null"
            raise UsageError(f"validate.best={validate['best']} is not measured; choose from {choices}")
    curves = {"curve": config["curve"], "task.discriminator_curve": config["task"].get("discriminator_curve")}
    for key, curve in curves.items():
        with collect_error(problems, key, usage=True):
            if curve is not None:
                check_covers(build(curve), int(trainer["max_steps"]), key=key)
    task = _outline_of_task(stage, problems)
    strategy = trainer["strategy"] if task is None or task.uses_all else finding_unused(trainer)
    features = [] if task is None else [m.digest() for m in task.modules() if isinstance(m, (FrozenFeatures, LPIPS))]
    return Outline(with_trainer(stage, precision=precision, strategy=strategy), task, perceptual, scores, features)


def _bad_numbers(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each number in a stage's config that is out of its allowed range."""
    leasts = {
        "trainer": {"max_steps": 1, "num_nodes": 1, "accumulate_grad_batches": 1},
        "data": {"batch": 1, "lr_patch": 1, "workers": 0, "prefetch_factor": 1},
        "validate": {"pictures": 0, "crop": 1, "every": 1},
        "checkpoint": {"every": 1, "keep": 2},
        "record": {"every": 1},
    }
    numbers = [(f"{group}.{name}", config[group].get(name), least) for group, names in leasts.items()
               for name, least in names.items()]  # fmt: skip
    for key, value, least in [*numbers, ("profile_steps", config["profile_steps"], 1)]:
        if value is not None and value < least:
            yield f"{key}={value}: expected an integer of at least {least}"
    clip = config["trainer"].get("gradient_clip_val")
    if clip is not None and not clip > 0:
        yield f"trainer.gradient_clip_val={clip}: expected a positive number, or null"


def _check_window(data: Mapping[str, Any]) -> None:
    """Raise UsageError unless ``data.frames`` and ``data.intervals`` describe a valid window of frames."""
    frames, intervals = data.get("frames", 1), data.get("intervals", [1])
    if frames < 1 or frames % 2 == 0:
        raise UsageError(
            f"data.frames={frames}: expected an odd number: the center frame and equally many frames on each side"
        )
    if not intervals or any(i < 1 for i in intervals):
        raise UsageError(f"data.intervals={intervals}: expected integers of at least 1, e.g. [1] or [1,2]")


def _check_channels(config: Mapping[str, Any]) -> None:
    """Raise UsageError for losses and metrics that are not defined for images of ``channels`` channels."""
    if config["channels"] in (1, 3):
        return
    validate, why = config["validate"], f"channels={config['channels']}"
    luma = [p.name for p in get_protocols(validate["protocols"]) if p.color != "rgb"]
    if luma and config["data"]["val"]:
        raise UsageError(f"{why}: {', '.join(luma)}: scores gray or RGB images only; give validate.protocols=[rgb]")
    if "lpips" in validate["metrics"]:
        raise UsageError(f"{why}: lpips: compares gray or RGB images only; remove it from validate.metrics")
    if "niqe" in validate["metrics"] or any(map(is_lone, (config["data"]["val"] or {}).values())):
        raise UsageError(
            f"{why}: niqe: scores gray or RGB images only; remove it from validate.metrics, and sets without hr"
        )
    if config["loss"].get("perceptual") is not None:
        raise UsageError(f"{why}: a perceptual loss needs gray or RGB images; give loss.perceptual=null, or loss=gan")


def _outline_of_task(stage: Stage, problems: list[Exception]) -> SRTask | None:
    """Build the stage's task on the meta device. If there are errors, add them to ``problems`` and return None."""
    config, before = stage.config, len(problems)
    logits: tuple[int, ...] | None = None
    with collect_error(problems, "task.discriminator", usage=True):
        if config["task"].get("discriminator") is not None:
            logits = check_discriminator(stage.name, config)
    parts: dict[str, Any] = {"loss": _loss(stage, problems)}
    with collect_error(problems, "model", usage=True):
        parts["model"] = on_meta(lambda: build(config["model"]))
        _check_input(stage.name, config, parts["model"])
        _check_network_scales(stage, parts["model"])
    with collect_error(problems, "curve", usage=True):
        parts["curve"] = build(config["curve"])
    with collect_error(problems, "loss"):
        if parts["loss"] is not None:
            _check_loss(config, parts["loss"], logits)
    if len(problems) > before:
        return None
    task: SRTask | None = None
    with collect_error(problems, "task", usage=True), torch.device("meta"):
        task = build(config["task"], **parts)
    if isinstance(task, GANTask) and task.penalty is not None:
        with collect_error(problems, "task.penalty", usage=True):
            check_penalty(task.penalty)
    return task


def _check_loss(config: Mapping[str, Any], loss: nn.Module, logits: tuple[int, ...] | None) -> None:
    """Raise ValueError unless the loss can be called as the task does; a task with a step of its own is left out.

    ``logits`` is the shape of the logits of the stage's discriminator, if there is one and its shape is known.
    """
    step = getattr(callable_at(str(config["task"]["_target_"])), "training_step", None)
    side = int(config["data"]["lr_patch"]) * max(config["scales"] or [config["scale"]])
    if step is GANTask.training_step:
        check_gan_loss(loss, side, logits or (1, 1))
    elif step in (PixelTask.training_step, MultiScaleTask.training_step):
        check_pixel_loss(loss, side)


def _loss(stage: Stage, problems: list[Exception]) -> nn.Module | None:
    """Build the stage's loss; add errors to ``problems``.

    The weights of a perceptual loss's feature network are read or downloaded here.
    """
    loss = stage.config["loss"]
    extractor = (loss.get("perceptual") or {}).get("extractor") or {}
    with collect_error(problems, "loss", usage=True):
        try:
            return build(loss)
        except FeatureError as error:  # an error of a file, not of a value
            if extractor.get("_target_") != f"{FeatureExtractor.__module__}.{FeatureExtractor.__name__}":
                raise
            give = f", or give the file, loss.perceptual.extractor.weights={FILES[extractor['network']]}"
            file = give if extractor.get("weights") is None else ""
            without = "Or train without a perceptual loss: loss.perceptual=null"
            problems.append(ValueError(f"stage {stage.name}: {error}{file}. {without}"))
    return None


def _check_input(name: str, config: Mapping[str, Any], model: nn.Module) -> None:
    """Raise UsageError if the network does not accept the stage's training data.

    Images or windows of frames are compared, the number of channels, and the size of the patches.
    """
    kind, takes, given = type(model).__name__, contract.frames(model), config["data"].get("frames")
    if takes != given:
        need = "images" if takes is None else f"windows of {takes} frames"
        have = "images" if given is None else f"windows of {given} frames"
        remedy = {True: "choose image data, e.g. data=toy", False: f"give data.frames={takes}"}[takes is None]
        if takes is not None and given is not None and "frames" in config["model"]:
            remedy = f"give model.frames={given}, or data.frames={takes}"
        if given is None:
            remedy = "choose video data, e.g. data=toy_clips"
        raise UsageError(f"stage {name}: {kind} needs {need}, but the data contains {have}: {remedy}")
    if contract.channels(model) != config["channels"]:
        raise UsageError(
            f"stage {name}: channels={config['channels']}, but {kind} takes images of {contract.channels(model)} channels: add "
            "image_channels: ${channels} to its YAML file, and the attribute image_channels to its class; see docs/extending.md"
        )
    patch, multiple = config["data"]["lr_patch"], contract.multiple_of(model)
    if patch % multiple:
        raise UsageError(f"stage {name}: data.lr_patch={patch}: {kind} needs a multiple of {multiple}")


def _check_network_scales(stage: Stage, model: Any) -> None:
    """Raise ValueError unless the data and the network have the same scales."""
    own = contract.scales(model)
    if sorted(stage.scales) != sorted(own):
        raise ValueError(
            f"stage {stage.name}: the network upscales by {listed(own)}, but the data's scale is {listed(stage.scales)}: give "
            "only scale= (or scales= for a network with several scales), from which model.scale and data.scale are derived"
        )
