"""One stage of a run: built, trained from its newest checkpoint or from the start, exported."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

import sr_train
from sr_train.config.build import build
from sr_train.config.plan import Plan, Stage
from sr_train.console import ProblemsError, UsageError, is_child, listed, say, told
from sr_train.data.module import SRData
from sr_train.devices import advising_less_memory, native_bf16, resolve_precision
from sr_train.evaluation.metrics import open_measures
from sr_train.models.features import FILES, FeatureError, FeatureExtractor, check_weights
from sr_train.runs import resume
from sr_train.runs.checkpoints import Checkpoint, CheckpointError, newest_checkpoint
from sr_train.tasks.base import SRTask
from sr_train.tasks.curves import check_covers
from sr_train.training.build import build_task, build_trainer, finding_unused, score_names
from sr_train.training.callbacks import Stop
from sr_train.training.checkpointing import Checkpoints
from sr_train.training.discriminator_check import check_discriminator
from sr_train.training.profiling.profiler import Measure
from sr_train.training.progress import Progress
from sr_train.training.speed import Record
from sr_train.training.stage_folder import Sitting, check_continues, remove_set_aside
from sr_train.training.stopping import OPEN, StoppedError, callback_specs, finished_early, name_of, own_callbacks
from sr_train.training.validation import Validate
from sr_train.training.warm_starts import Source, find_source
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.network import outline as on_meta
from sr_train.weights.open import WEIGHTS, full_arguments, own_packages


def check_network_scales(stage: Stage, model: Any) -> None:
    """The data's scales are the network's."""
    own = list(getattr(model, "scales", [getattr(model, "scale", None)]))
    if sorted(stage.scales) != sorted(own):
        raise ValueError(
            f"stage {stage.name}: the network is for {listed(own)}, the data for {listed(stage.scales)}: give scale= (or of a "
            "network of several, scales=) and leave model.scale and data.scale to follow it"
        )


class Export:
    """Writes the network that counts as a self-describing file."""

    def __init__(self, plan: Plan, stage: Stage, source: Source | None) -> None:
        self.model = full_arguments(stage.config["model"])
        self.origin: dict[str, Any] = {"run": plan.name, "stage": stage.name}
        if source is not None:
            self.origin["ancestors"] = source.ancestors

    def __call__(
        self,
        task: SRTask,
        path: Path,
        scores: Mapping[str, float],
        step: int,
        finished: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``task.averaged()`` with its scores and its origin; ``finished`` tells what ended the stage early."""
        origin = {**self.origin, "step": step, "ema": task.ema is not None, "sr_train": sr_train.__version__}
        if finished is not None:
            origin["finished"] = dict(finished)
        save_weights(path, Weights(self.model, task.averaged().state_dict(), origin, dict(scores)))


def _callbacks(stage: Stage, data: SRData, export: Export, sitting: Sitting) -> list[L.Callback]:
    """The standard callbacks in the order in which a step needs them - log, validate, save, stop, show - after the user's."""
    config, folder, last = stage.config, stage.folder, int(stage.config["trainer"]["max_steps"])
    record = Record(every=config["record"]["every"], folder=str(folder), hyperparameters=config)
    written = sitting.checkpoint_written
    save = Checkpoints(folder=str(folder / "checkpoints"), last=last, written=written, **config["checkpoint"])
    options = {k: v for k, v in config["validate"].items() if k not in ("protocols", "lpips")}
    measures = open_measures(config["validate"]["metrics"], config["validate"]["lpips"], keys="validate.")
    validate = Validate(
        images=data.val_images(),
        last=last,
        export=export,
        folder=str(folder),
        measures=measures,
        means=data.means,
        basis={"lpips": Path(config["validate"]["lpips"] or "").name},
        **options,
    )
    stop = Stop(save, own=own_callbacks(config, score_names(config)), specs=callback_specs(config))
    measure = _measure(stage, record, validate, save) if config["profile"] else []
    return [*stop.watched(), record, validate, save, stop, *measure, Progress(record)]


def _measure(stage: Stage, record: Record, validate: Validate, save: Checkpoints) -> list[L.Callback]:
    """What ``profile=true`` adds."""
    return [
        Measure(
            folder=str(stage.folder),
            steps=stage.config["profile_steps"],
            record=record,
            validate=validate,
            checkpoints=save,
            native_bf16=native_bf16(str(stage.config["trainer"]["accelerator"])),
            compiled=stage.config["task"].get("compile", False),
        )
    ]


class Outline(NamedTuple):
    """A stage as far as its values decide it: its task on the meta device, and everything that is wrong with them."""

    task: SRTask | None
    problems: list[Exception]


def preflight(stage: Stage) -> None:
    """Raise what is wrong with a stage's values: precision, numbers, metrics, the arguments of all parts."""
    problems = outline(stage).problems
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ProblemsError(problems)


def outline(stage: Stage) -> Outline:
    """Check a stage's values and build its task on the meta device."""
    config = stage.config
    problems: list[Exception] = [UsageError(text) for text in _bad_numbers(config)]
    with told(problems):
        _resolve(config["trainer"])
    with told(problems):
        _check_window(config["data"])
    with told(problems):
        _check_metrics(config)
    curves = {"curve": config["curve"], "task.discriminator_curve": config["task"].get("discriminator_curve")}
    for key, curve in curves.items():
        with told(problems, key):
            if curve is not None:
                _check_curve(curve, int(config["trainer"]["max_steps"]), key)
    return Outline(_outline_of_task(stage, problems), problems)


def _bad_numbers(config: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that are out of their range."""
    leasts = {
        "trainer": {"max_steps": 1, "num_nodes": 1, "accumulate_grad_batches": 1},
        "data": {"batch": 1, "lr_patch": 1, "workers": 0},
        "validate": {"pictures": 0, "crop": 1, "every": 1},
        "checkpoint": {"every": 1, "keep": 2},
        "record": {"every": 1},
    }
    numbers = [(f"{group}.{name}", config[group].get(name), least) for group, names in leasts.items()
               for name, least in names.items()]  # fmt: skip
    for key, value, least in [*numbers, ("profile_steps", config["profile_steps"], 1)]:
        if value is not None and value < least:
            yield f"{key}={value}: expected a whole number from {least} on"
    clip = config["trainer"].get("gradient_clip_val")
    if clip is not None and not clip > 0:
        yield f"trainer.gradient_clip_val={clip}: expected a positive number, or null"


def _resolve(trainer: dict[str, Any]) -> None:
    """``precision`` by what the hardware computes."""
    trainer["precision"] = resolve_precision(trainer["precision"], str(trainer["accelerator"]))


def _check_metrics(config: Mapping[str, Any]) -> None:
    """Metrics that are known and can be computed here, the one that ``best.safetensors`` is chosen by among them."""
    metrics, validate = score_names(config), config["validate"]
    if validate["best"] is not None and validate["best"] not in metrics:
        raise UsageError(
            f"validate.best={validate['best']} is not measured; choose from {', '.join(metrics) or 'null'}"
        )


def _check_curve(curve: Mapping[str, Any], steps: int, key: str) -> None:
    """A curve that is built as it stands, and lasts for all steps."""
    try:
        check_covers(build(curve), steps, key=key)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _outline_of_task(stage: Stage, problems: list[Exception]) -> SRTask | None:
    """The stage's task on the meta device, or None with what is wrong with its parts added to ``problems``."""
    config, before = stage.config, len(problems)
    with told(problems, "task.discriminator", usage=True):
        if config["task"].get("discriminator") is not None:
            check_discriminator(stage.name, config)
    with told(problems, "loss"):
        _check_features(stage.name, config["loss"])
    parts: dict[str, Any] = {}
    with told(problems, "model", usage=True):
        parts["model"] = on_meta(lambda: build(config["model"]))
        _check_input(stage.name, config, parts["model"])
        check_network_scales(stage, parts["model"])
    if len(problems) > before:
        return None
    with told(problems, "loss", usage=True):
        parts["loss"] = build(config["loss"])  # here features are read from a file
    with told(problems, "curve", usage=True):
        parts["curve"] = build(config["curve"])
    if len(problems) > before:
        return None
    with told(problems, "task", usage=True):
        with torch.device("meta"):
            task: SRTask = build(config["task"], **parts)
        if not task.uses_all:
            config["trainer"]["strategy"] = finding_unused(config["trainer"])
        return task
    return None


def _check_window(data: Mapping[str, Any]) -> None:
    """The window of frames that video data is asked for."""
    frames, intervals = data.get("frames", 1), data.get("intervals", [1])
    if frames < 1 or frames % 2 == 0:
        raise UsageError(f"data.frames={frames}: expected an odd number: the centre frame and as many on each side")
    if not intervals or any(i < 1 for i in intervals):
        raise UsageError(f"data.intervals={intervals}: expected whole numbers from 1 on, e.g. [1] or [1,2]")


def _check_input(name: str, config: Mapping[str, Any], model: nn.Module) -> None:
    """The data is what the network takes: images or windows of so many frames, patches of a size it can halve."""
    kind, takes, given = type(model).__name__, getattr(model, "frames", None), config["data"].get("frames")
    if takes != given:
        need = "images" if takes is None else f"windows of {takes} frames"
        have = "images" if given is None else f"windows of {given} frames"
        remedy = {True: "choose data of images, e.g. data=toy", False: f"give data.frames={takes}"}[takes is None]
        if given is None:
            remedy = "choose data of clips, e.g. data=toy_clips"
        raise UsageError(f"stage {name}: {kind} takes {need}, the data gives {have}: {remedy}")
    patch, multiple = config["data"]["lr_patch"], getattr(model, "multiple_of", 1)
    if isinstance(multiple, int) and patch % multiple:
        raise UsageError(f"stage {name}: data.lr_patch={patch}: {kind} takes patches of a multiple of {multiple}")


def _check_features(name: str, loss: Mapping[str, Any]) -> None:
    """The weights of the perceptual loss' network are at hand, or can be downloaded now."""
    extractor = (loss.get("perceptual") or {}).get("extractor") or {}
    if extractor.get("_target_") != f"{FeatureExtractor.__module__}.{FeatureExtractor.__name__}":
        return
    try:
        check_weights(**{k: v for k, v in extractor.items() if k != "_target_"})
    except FeatureError as error:
        give = f", or give the file, loss.perceptual.extractor.weights={FILES[extractor['network']]}"
        remedy = f"{give if extractor.get('weights') is None else ''}. Or train without a perceptual loss: loss.perceptual=null"
        raise ValueError(f"stage {name}: {error}{remedy}") from None


def run_stage(plan: Plan, stage: Stage) -> Path:
    """Train one stage, from its newest checkpoint or from the start, unless it is complete; returns its weights file.

    Raises StoppedError where it was stopped before its end, with a checkpoint.
    """
    folder, config = stage.folder, stage.config
    preflight(stage)
    last = int(config["trainer"]["max_steps"])
    data = build(config["data"])
    source = find_source(plan, stage)
    described = resume.describe(
        config, [p for pairs in data.by_scale.values() for p in pairs], [] if source is None else [source.digest]
    )
    notes = resume.check(folder, described, force=config["resume"] == "force")
    done = folder / WEIGHTS
    trained = _trained(stage) if done.exists() else 0
    early = finished_early(done, config) if done.exists() else None
    if done.exists() and (early is not None or trained >= last):
        _say_all(stage, notes)
        if not is_child():
            remove_set_aside(folder)  # of a process that was killed before it did so
        say(f"stage {stage.name}: complete already ({done}{f'; finished by {early}' if early else ''})")
        return done
    found = newest_checkpoint(folder / "checkpoints", lambda text: say(f"stage {stage.name}: {text}"))
    if found is not None and found.step > last:
        raise ValueError(f"{found.path}: is beyond trainer.max_steps={last}; a run can be extended, not shortened")
    gc.collect()  # networks and features of the checks and of the stage before lie in cycles: 160 MB with two VGG19
    task = build_task(config, stage.name, source)
    check_continues(stage.name, folder, task, found, last, notes)
    found = None if found is None else found._replace(content={})  # read again where it is restored
    _say_all(stage, notes)
    export, sitting = Export(plan, stage, source), Sitting(folder, described, new=found is None)
    del source  # its tensors are copied: a network's size less for as long as the stage takes
    callbacks = _callbacks(stage, data, export, sitting)
    trainer = build_trainer(config, callbacks, folder)
    data.per_device(trainer.world_size)
    if trainer.is_global_zero:
        sitting.begin()
    _introduce(stage, task, data, found)
    _fit(trainer, task, data, found)
    _finish(trainer, task, callbacks, export, done, config, sitting)
    if trainer.is_global_zero:
        remove_set_aside(folder)
    return done


def _trained(stage: Stage) -> int:
    """Steps of a finished stage. Reads its weights whole, which fails where they are damaged."""
    step = load_weights(stage.folder / WEIGHTS, allow=own_packages(stage.config)).origin.get("step")
    return step if isinstance(step, int) else 0


def _say_all(stage: Stage, notes: Sequence[str]) -> None:
    for note in notes:
        say(f"stage {stage.name}: {note}")


def _introduce(stage: Stage, task: SRTask, data: SRData, found: Checkpoint | None) -> None:
    count = sum(p.numel() for p in task.model.parameters())
    images = f"{sum(map(len, data.sources))} {data.sources[0].unit}"
    trainer = stage.config["trainer"]
    where = "from the start" if found is None else f"from step {found.step} ({found.path.name})"
    say(
        f"stage {stage.name}: {type(task.model).__name__} {listed(stage.scales)}, {count:,} parameters, {images}, "
        f"{trainer['precision']}; {where} to step {trainer['max_steps']} in {stage.folder}"
    )


def _fit(trainer: L.Trainer, task: SRTask, data: SRData, found: Checkpoint | None) -> None:
    try:
        with advising_less_memory():
            trainer.fit(task, datamodule=data, ckpt_path=None if found is None else str(found.path), weights_only=True)
    except SystemExit:  # Lightning's answer to a second Ctrl-C
        raise KeyboardInterrupt from None
    except MisconfigurationException as error:  # of a callback that looks at the trainer when it begins
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from None
    except Exception as error:
        if found is not None and _while_restoring(error):
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise CheckpointError(
                f"{found.path}: cannot be continued from; nothing was changed ({reason}). Give the keys that the run was begun "
                f"with; or train another run from its weights: name=OTHER init.weights={found.path.parent.parent}"
            ) from None
        raise


def _while_restoring(error: Exception) -> bool:
    """Whether Lightning was taking a checkpoint apart: one that is whole but foreign raises whatever is missing."""
    return any("checkpoint_connector" in frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))


def _finish(
    trainer: L.Trainer,
    task: SRTask,
    callbacks: Sequence[L.Callback],
    export: Export,
    done: Path,
    config: Mapping[str, Any],
    sitting: Sitting,
) -> None:
    """Write the stage's weights, or raise StoppedError where it was left open."""
    stop = next(c for c in callbacks if isinstance(c, Stop))
    step = trainer.global_step
    finished = None if step == trainer.max_steps else stop.finished
    if step != trainer.max_steps and finished is None:
        if stop.received is not None or not (stop.asked or trainer.should_stop):
            number = stop.received or signal.SIGINT
            raise StoppedError(signal.Signals(number).name, step, 128 + number)
        raise StoppedError(name_of(stop.by, config), step, OPEN)
    if finished is not None:
        say(f"stage {done.parent.name}: finished by {finished['by']} at step {finished['step']}")
    validate = next(c for c in callbacks if isinstance(c, Validate))
    if trainer.is_global_zero:
        sitting.finish()
        export(task, done, validate.scores, step, finished)
    trainer.strategy.barrier()
    if validate.best is not None:
        best = done.with_name("best.safetensors")
        say(f"stage {done.parent.name}: best {validate.best:.3f} at step {validate.best_step}: {best}")
    say(f"weights: {done}")
