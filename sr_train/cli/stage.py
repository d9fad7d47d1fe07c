"""One stage of a run: built, trained from its newest checkpoint or from the start, exported."""

from __future__ import annotations

import gc
import hashlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import UsageError, build, is_child, listed, say
from sr_train.cli.locate import WEIGHTS, full_arguments, own_packages
from sr_train.cli.measures import PROTOCOL, open_measures
from sr_train.cli.precision import native_bf16, resolve_precision
from sr_train.cli.several import check_network_scales, finding_unused, scored_sets
from sr_train.cli.sitting import Sitting, check_continues, remove_set_aside
from sr_train.cli.starts import find_source

if TYPE_CHECKING:
    import lightning as L
    from torch import nn

    from sr_train.callbacks import Checkpoints, Record
    from sr_train.checkpoints import Checkpoint
    from sr_train.cli.starts import Source
    from sr_train.data.module import SRData
    from sr_train.stages import Plan, Stage
    from sr_train.tasks.base import SRTask
    from sr_train.validation import Validate


class StoppedError(Exception):
    """A run was asked to stop, and did so with a checkpoint."""

    def __init__(self, number: int, step: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}")


def stage_seed(seed: int, stage: str) -> int:
    """A stage's own seed: what it draws does not depend on what ran before it in the process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}/weights".encode(), digest_size=4).digest(), "little")


class Export:
    """Writes the network that counts as a self-describing file."""

    def __init__(self, plan: Plan, stage: Stage, source: Source | None) -> None:
        self.model = full_arguments(stage.config["model"])
        self.origin: dict[str, Any] = {"run": plan.name, "stage": stage.name}
        if source is not None:
            self.origin["ancestors"] = source.ancestors

    def __call__(self, task: SRTask, path: Path, scores: Mapping[str, float], step: int) -> None:
        """Write ``task.averaged()`` with its scores and its origin."""
        import sr_train
        from sr_train.weights import Weights, save_weights

        origin = {**self.origin, "step": step, "ema": task.ema is not None, "sr_train": sr_train.__version__}
        save_weights(path, Weights(self.model, task.averaged().state_dict(), origin, dict(scores)))


def _callbacks(stage: Stage, data: SRData, export: Export, sitting: Sitting) -> list[L.Callback]:
    """The standard callbacks in the order in which a step needs them - log, validate, save, stop, show - after the user's."""
    from sr_train.callbacks import Checkpoints, Progress, Record, Stop
    from sr_train.validation import Validate

    config, folder, last = stage.config, stage.folder, int(stage.config["trainer"]["max_steps"])
    record = Record(every=config["record"]["every"], folder=str(folder))
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
        **options,
    )
    own = [build(c) for c in (config["callbacks"] or {}).values() if c]
    measure = _measure(stage, record, validate, save) if config["profile"] else []
    return [*own, record, validate, save, Stop(save), *measure, Progress(record)]


def _measure(stage: Stage, record: Record, validate: Validate, save: Checkpoints) -> list[L.Callback]:
    """What ``profile=true`` adds."""
    from sr_train.profiling import Measure

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


def build_trainer(config: Mapping[str, Any], callbacks: Sequence[L.Callback], folder: Path) -> L.Trainer:
    """Lightning's Trainer with our callbacks in place of its loops' own habits."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from sr_train.callbacks import StreamedCheckpoints

    try:
        return build(
            {k: v for k, v in config["trainer"].items() if v is not None},
            callbacks=list(callbacks),
            plugins=[StreamedCheckpoints()],
            logger=[build(spec) for spec in (config["logger"] or {}).values() if spec],
            default_root_dir=str(folder),
            max_epochs=-1,
            use_distributed_sampler=False,  # the sampler shares the positions out itself
            limit_val_batches=0,  # sr_train.validation validates at step boundaries
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(f"trainer: {error}") from None


def build_task(config: Mapping[str, Any], stage: str, source: Source | None) -> SRTask:
    """The stage's task; its network is warm-started before the EMA copy is made."""
    import torch

    torch.manual_seed(stage_seed(config["seed"], stage))
    parts = {name: build(config[name]) for name in ("model", "loss", "curve")}
    if source is not None:
        from sr_train.weights import warm_start

        init, where = config["init"], f"stage {stage} from {source.file}"
        warm_start(parts["model"], source.weights.state, init["skip"], grow=init["grow"], where=where)
    return build(config["task"], **parts)


def preflight(stage: Stage) -> None:
    """What can be refused before the first stage is trained: precision, numbers, metrics, the arguments of all parts."""
    import torch

    from sr_train.weights import outline

    config = stage.config
    trainer, validate = config["trainer"], config["validate"]
    trainer["precision"] = resolve_precision(trainer["precision"], str(trainer["accelerator"]))
    if trainer["max_steps"] < 1:
        raise UsageError(f"trainer.max_steps={trainer['max_steps']}: expected a whole number from 1 on")
    if trainer.get("gradient_clip_val") is not None and not trainer["gradient_clip_val"] > 0:
        raise UsageError(
            f"trainer.gradient_clip_val={trainer['gradient_clip_val']}: expected a positive number, or null"
        )
    leasts = {
        "data": {"batch": 1, "lr_patch": 1, "workers": 0},
        "validate": {"pictures": 0, "crop": 1, "every": 1},
        "checkpoint": {"every": 1, "keep": 2},
        "record": {"every": 1},
    }
    for group, names in leasts.items():
        for name, least in names.items():
            if config[group][name] < least:
                raise UsageError(f"{group}.{name}={config[group][name]}: expected a whole number from {least} on")
    if config["profile_steps"] < 1:
        raise UsageError(f"profile_steps={config['profile_steps']}: expected a whole number from 1 on")
    _check_window(config["data"])
    measures = open_measures(validate["metrics"], validate["lpips"], keys="validate.")
    plain = [m for m in validate["metrics"] if m not in measures]
    sets = scored_sets(config["data"])
    metrics = [f"{s}/{p}/{m}" for s in sets for p in validate["protocols"] for m in plain]
    metrics += [f"{s}/{PROTOCOL}/{m}" for s in sets for m in measures]
    if validate["best"] is not None and validate["best"] not in metrics:
        raise UsageError(
            f"validate.best={validate['best']} is not measured; choose from {', '.join(metrics) or 'null'}"
        )
    if config["task"].get("discriminator") is not None:
        _check_discriminator(stage.name, config)
    _check_features(stage.name, config["loss"])
    try:
        model = outline(lambda: build(config["model"]))
        _check_input(stage.name, config, model)
        check_network_scales(stage, model)
        loss, curve = build(config["loss"]), build(config["curve"])  # here features are read from a file
        with torch.device("meta"):
            task = build(config["task"], model=model, loss=loss, curve=curve)
        if not task.uses_all:
            trainer["strategy"] = finding_unused(trainer)
    except ValueError as error:
        raise UsageError(str(error)) from None


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


def _check_discriminator(name: str, config: Mapping[str, Any]) -> None:
    """A discriminator is built for patches of one size."""
    import torch

    spec, patch = config["task"]["discriminator"], int(config["data"]["lr_patch"])
    side, size = config["scale"] * patch, spec.get("size")
    if isinstance(size, int) and size != side:
        whole, rest = divmod(size, config["scale"])
        remedy = (
            f"task.discriminator.size={side}" if rest else f"data.lr_patch={whole} or task.discriminator.size={side}"
        )
        raise UsageError(
            f"stage {name}: task.discriminator.size={size}, but HR patches are of {side} px (scale {config['scale']} x "
            f"data.lr_patch {patch}): give {remedy}"
        )
    with torch.device("meta"):
        build(spec)


def _check_features(name: str, loss: Mapping[str, Any]) -> None:
    """The weights of the perceptual loss' network are at hand, or can be downloaded now."""
    from sr_train.models.features import FeatureError, FeatureExtractor, check_weights

    extractor = (loss.get("perceptual") or {}).get("extractor") or {}
    if extractor.get("_target_") != f"{FeatureExtractor.__module__}.{FeatureExtractor.__name__}":
        return
    try:
        check_weights(**{k: v for k, v in extractor.items() if k != "_target_"})
    except FeatureError as error:
        said = str(error).replace("extractor.weights=", "loss.perceptual.extractor.weights=")
        raise ValueError(f"stage {name}: {said}. Or train without a perceptual loss: loss.perceptual=null") from None


def run_stage(plan: Plan, stage: Stage) -> Path:
    """Train one stage, from its newest checkpoint or from the start, unless it is complete; returns its weights file.

    Raises StoppedError where a signal ended it, with a checkpoint.
    """
    from sr_train.checkpoints import newest_checkpoint
    from sr_train.cli import resume

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
    if done.exists() and _trained(stage) >= last:
        _say_all(stage, notes)
        if not is_child():
            remove_set_aside(folder)  # of a process that was killed before it did so
        say(f"stage {stage.name}: complete already ({done})")
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
    if trainer.is_global_zero and trainer.global_step == last:
        sitting.finish()
    _finish(trainer, task, callbacks, export, done)
    if trainer.is_global_zero:
        remove_set_aside(folder)
    return done


def _trained(stage: Stage) -> int:
    """Steps of a finished stage. Reads its weights whole, which fails where they are damaged."""
    from sr_train.weights import load_weights

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
    import torch

    from sr_train.checkpoints import CheckpointError

    try:
        trainer.fit(task, datamodule=data, ckpt_path=None if found is None else str(found.path), weights_only=True)
    except SystemExit:  # Lightning's answer to a second Ctrl-C
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        remedies = "a smaller data.batch or data.lr_patch, task.recompute=true or trainer.accumulate_grad_batches=2"
        raise MemoryError(f"the device's memory is full; try {remedies} ({str(error).splitlines()[0]})") from None
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


def _finish(trainer: L.Trainer, task: SRTask, callbacks: Sequence[L.Callback], export: Export, done: Path) -> None:
    """Write the stage's weights, or say why it ended early."""
    from sr_train.callbacks import Stop
    from sr_train.validation import Validate

    stop = next(c for c in callbacks if isinstance(c, Stop))
    if trainer.global_step != trainer.max_steps:
        raise StoppedError(stop.received or signal.SIGINT, trainer.global_step)
    validate = next(c for c in callbacks if isinstance(c, Validate))
    if trainer.is_global_zero:
        export(task, done, validate.scores, trainer.global_step)
    trainer.strategy.barrier()
    if validate.best is not None:
        best = done.with_name("best.safetensors")
        say(f"stage {done.parent.name}: best {validate.best:.3f} at step {validate.best_step}: {best}")
    say(f"weights: {done}")
