"""One stage of a run: built, trained from its newest checkpoint or from the start, exported."""

from __future__ import annotations

import gc
import hashlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, NamedTuple

from sr_train.cli.common import ProblemsError, UsageError, build, is_child, listed, say, told
from sr_train.cli.discriminators import check_discriminator
from sr_train.cli.ends import OPEN, StoppedError, callback_specs, finished_early, name_of, own_callbacks
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

    def __call__(
        self,
        task: SRTask,
        path: Path,
        scores: Mapping[str, float],
        step: int,
        finished: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``task.averaged()`` with its scores and its origin; ``finished`` tells what ended the stage early."""
        import sr_train
        from sr_train.weights import Weights, save_weights

        origin = {**self.origin, "step": step, "ema": task.ema is not None, "sr_train": sr_train.__version__}
        if finished is not None:
            origin["finished"] = dict(finished)
        save_weights(path, Weights(self.model, task.averaged().state_dict(), origin, dict(scores)))


def _callbacks(stage: Stage, data: SRData, export: Export, sitting: Sitting) -> list[L.Callback]:
    """The standard callbacks in the order in which a step needs them - log, validate, save, stop, show - after the user's."""
    from sr_train.callbacks import Checkpoints, Progress, Record, Stop
    from sr_train.validation import Validate

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
            {
                k: v for k, v in config["trainer"].items() if v is not None and k != "max_time"
            },  # it is among the callbacks
            callbacks=list(callbacks),
            plugins=[StreamedCheckpoints()],
            logger=[build(spec) for spec in (config["logger"] or {}).values() if spec],
            default_root_dir=str(folder),
            max_epochs=-1,
            use_distributed_sampler=False,  # the sampler shares the positions out itself
            limit_val_batches=0,  # sr_train.validation validates at step boundaries
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,  # for EarlyStopping, which would wait for the end of an epoch
            val_check_interval=int(config["validate"]["every"]),
            log_every_n_steps=int(config["record"]["every"]),  # of what a network or callback hands to self.log
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from None


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
    from sr_train.tasks.optim import check_covers

    try:
        check_covers(build(curve), steps, key=key)
    except ValueError as error:
        raise UsageError(str(error)) from None


def score_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the scores that a stage's validation measures. Raises what its metrics lack."""
    validate = config["validate"]
    measures = open_measures(validate["metrics"], validate["lpips"], keys="validate.")
    plain = [m for m in validate["metrics"] if m not in measures]
    sets = scored_sets(config["data"])
    metrics = [f"{s}/{p}/{m}" for s in sets for p in validate["protocols"] for m in plain]
    return metrics + [f"{s}/{PROTOCOL}/{m}" for s in sets for m in measures]


def _outline_of_task(stage: Stage, problems: list[Exception]) -> SRTask | None:
    """The stage's task on the meta device, or None with what is wrong with its parts added to ``problems``."""
    import torch

    from sr_train.weights import outline as on_meta

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
    from sr_train.models.features import FILES, FeatureError, FeatureExtractor, check_weights

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


@contextmanager
def advising_less_memory() -> Iterator[None]:
    """Say what helps where a training step does not fit into memory. Validation names its image itself."""
    from sr_train.tiling import memory_is_full

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        remedies = "a smaller data.batch or data.lr_patch, task.recompute=true or trainer.accumulate_grad_batches=2"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MemoryError(f"the device's memory is full; try {remedies} ({first})") from None


def _fit(trainer: L.Trainer, task: SRTask, data: SRData, found: Checkpoint | None) -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from sr_train.checkpoints import CheckpointError

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
    from sr_train.callbacks import Stop
    from sr_train.validation import Validate

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
