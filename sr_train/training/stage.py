"""One stage of a run: build the stage, train it from its newest checkpoint or from the start, and export its network."""

from __future__ import annotations

import gc
import hashlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

import sr_train
from sr_train.config.build import build
from sr_train.config.plan import Plan, Stage
from sr_train.console import for_shell, listed, say
from sr_train.data.loading import explaining_lost_processes
from sr_train.data.module import SRData
from sr_train.devices import native_bf16
from sr_train.losses.formula import formula
from sr_train.runs.checkpoints import Checkpoint, CheckpointError
from sr_train.runs.ranks import Ranks
from sr_train.tasks.base import SRTask
from sr_train.training.agreement import Beats
from sr_train.training.begin import Begin
from sr_train.training.callbacks import StepLog
from sr_train.training.checkpointing import Checkpoints
from sr_train.training.cluster import Processes, one_process
from sr_train.training.discriminator_start import exported, find_discriminator_start
from sr_train.training.parallel import prepare_networks
from sr_train.training.preflight import Prepared
from sr_train.training.profiling.profiler import StepProfiler
from sr_train.training.progress import Progress
from sr_train.training.signals import Signals, StoppedError
from sr_train.training.sitting import recorded
from sr_train.training.stage_folder import StageFolder, remove_set_aside
from sr_train.training.stopping import Stop
from sr_train.training.trainer import advising_less_memory, build_trainer
from sr_train.training.user_callbacks import callback_specs, name_of, own_callbacks
from sr_train.training.validation import Validate
from sr_train.training.warm_starts import Origin, find_origin
from sr_train.weights.discriminator import FILE as DISCRIMINATOR
from sr_train.weights.discriminator import Discriminator, save_discriminator
from sr_train.weights.file import Weights, save_weights
from sr_train.weights.open import WEIGHTS, full_arguments
from sr_train.weights.warm_start import warm_start


def stage_seed(seed: int, stage: str) -> int:
    """Return the seed for a stage's initial weights. It depends only on the run's seed and on the stage's name."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}/weights".encode(), digest_size=4).digest(), "little")


class Export:
    """Writer of the evaluated network (the EMA, if there is one) to a weights file that also contains the network's config."""

    def __init__(self, plan: Plan, stage: Stage, source: Origin | None) -> None:
        self.model = full_arguments(stage.config["model"])
        self.origin: dict[str, Any] = {"run": plan.name, "stage": stage.name, "data": _data_names(stage.config)}
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
        """Write ``task.averaged()`` with its scores and its origin (run, stage, step).

        ``finished`` describes the end of the stage if EarlyStopping has finished the stage early.
        """
        origin = {**self.origin, "step": step, "ema": task.ema is not None, "sr_train": sr_train.__version__}
        if finished is not None:
            origin["finished"] = dict(finished)
        save_weights(path, Weights(self.model, task.averaged().state_dict(), origin, dict(scores)))


def _data_names(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the training sources without their folders: DIV2K_train.lmdb, toy:chelsea,coffee."""
    sources = [s["hr"] if isinstance(s, Mapping) else s for s in config["data"]["train"]]
    return list(dict.fromkeys(str(s) if str(s).startswith("toy") else Path(str(s)).name for s in sources))


def _callbacks(
    prepared: Prepared, export: Export, files: StageFolder, ranks: Ranks, signals: Signals
) -> list[L.Callback]:
    """Build the user's callbacks and sr-train's own callbacks, in the order in which they are called.

    The order after a step is: the user's callbacks, log, validate, write a checkpoint, stop, display the progress.
    """
    stage, data = prepared.stage, prepared.data
    config, last = stage.config, int(stage.config["trainer"]["max_steps"])
    record = StepLog(every=config["record"]["every"], folder=str(stage.folder), hyperparameters=config)
    save = Checkpoints(
        folder=str(stage.folder / "checkpoints"), last=last, written=files.checkpoint_written, **config["checkpoint"]
    )
    options = {k: v for k, v in config["validate"].items() if k not in ("protocols", "lpips", "tile")}
    validate = Validate(
        images=data.val_images(),
        last=last,
        export=export,
        folder=str(stage.folder),
        perceptual=prepared.perceptual,
        means=data.means,
        basis={"lpips": Path(config["validate"]["lpips"] or "alex.pth").name},
        signals=signals,
        ranks=ranks,
        **options,
    )
    stop = Stop(save, signals=signals, own=own_callbacks(config, prepared.scores), specs=callback_specs(config))
    ours: list[L.Callback] = [record, validate, save, stop]
    if config["profile"]:
        ours.append(
            StepProfiler(
                folder=str(stage.folder),
                steps=config["profile_steps"],
                record=record,
                validate=validate,
                checkpoints=save,
                native_bf16=native_bf16(str(config["trainer"]["accelerator"])),
                compiled=config["task"].get("compile", False),
            )
        )
    return [*stop.watched(), *ours, Progress(record), Beats(ranks)]


def build_task(
    config: Mapping[str, Any], stage: str, source: Origin | None, discriminator: Discriminator | None = None
) -> SRTask:
    """Build the stage's task. Initial weights are copied into the network before the EMA copies the network.

    ``discriminator`` has the initial weights of the discriminator.
    """
    torch.manual_seed(stage_seed(config["seed"], stage))
    parts = {name: build(config[name]) for name in ("model", "loss", "curve")}
    if source is not None:
        init, where = config["init"], f"stage {stage} from {source.file}"
        warm_start(parts["model"], source.weights.state, init["skip"], grow=init["grow"], where=where)
    task = build(config["task"], **parts)
    if discriminator is not None:
        task.discriminator.load_state_dict(discriminator.state)
    return task


def run_stage(
    plan: Plan,
    prepared: Prepared,
    processes: Processes | None = None,
    signals: Signals | None = None,
    arguments: Sequence[str] = (),
) -> Path:
    """Train one stage from its newest checkpoint or from the start, unless the stage is finished.

    Return its weights file. Rank 0 decides from which checkpoint all ranks continue. Raise StoppedError if the stage
    was stopped before its end; then a checkpoint has been written before. ``arguments`` are those of the command, for the
    stage's history.
    """
    stage, data = prepared.stage, prepared.data
    folder, config = stage.folder, stage.config
    processes, signals = processes or one_process(), signals or Signals()
    ranks = processes.ranks
    source = find_origin(plan, stage, prepared.take_origin())
    judge = find_discriminator_start(plan, stage, prepared.discriminator)
    described = prepared.described(None if source is None else source.digest, judge)
    begin = Begin(stage, described, ranks)
    if begin.is_finished():
        return folder / WEIGHTS
    gc.collect()  # networks of the checks and of the previous stage are in reference cycles: 160 MB with two VGG19
    task = build_task(config, stage.name, source, judge)
    found = begin.choose_checkpoint(task)
    export, files = Export(plan, stage, source), StageFolder(folder, described, new=found is None)
    del source, judge  # their tensors are copied; this frees the memory of one network
    callbacks = _callbacks(prepared, export, files, ranks, signals)
    trainer = build_trainer(config, callbacks, folder, processes)
    statistics = prepare_networks(task, config["trainer"]["sync_batchnorm"], trainer.world_size)
    data.per_device(trainer.world_size)
    if trainer.is_global_zero:
        files.begin()
    _introduce(stage, task, data, found)
    if statistics is not None:
        say(f"stage {stage.name}: {statistics}")
    signals.training = True
    names = {"stage": stage.name, "stages": [s.name for s in plan.stages]}
    try:
        with recorded(trainer, folder, arguments, init=config["init"], **names):
            _fit(trainer, task, data, found)
            _finish(trainer, task, callbacks, export, stage, files)
    finally:
        signals.training = False
    if trainer.is_global_zero:
        remove_set_aside(folder)
    return folder / WEIGHTS


def _introduce(stage: Stage, task: SRTask, data: SRData, found: Checkpoint | None) -> None:
    count = sum(p.numel() for p in task.model.parameters())
    images = f"{sum(map(len, data.sources))} {data.sources[0].unit}"
    trainer = stage.config["trainer"]
    where = "from the start" if found is None else f"from step {found.step} ({found.path.name})"
    say(
        f"stage {stage.name}: {type(task.model).__name__} {listed(stage.scales)}, {count:,} parameters, {images}, "
        f"{trainer['precision']}; {where} to step {trainer['max_steps']} in {stage.folder}"
    )
    if isinstance(loss := getattr(task, "loss", None), nn.Module):
        say(f"stage {stage.name}: loss {formula(loss)}")
    for line in task.described():
        say(f"stage {stage.name}: {line}")


def _fit(trainer: L.Trainer, task: SRTask, data: SRData, found: Checkpoint | None) -> None:
    try:
        with explaining_lost_processes(), advising_less_memory():
            trainer.fit(task, datamodule=data, ckpt_path=None if found is None else str(found.path), weights_only=True)
    except SystemExit:  # raised by Lightning after a second Ctrl-C
        raise KeyboardInterrupt from None
    except MisconfigurationException as error:  # raised by callbacks that check the trainer at its start
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from None
    except Exception as error:
        if found is not None and _while_restoring(error):
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise CheckpointError(
                f"{found.path}: cannot be restored; nothing was changed ({reason}). Give the options that the run was started "
                "with, or train another run from its weights: name=OTHER "
                + for_shell(f"init.weights={found.path.parent.parent}")
            ) from None
        raise


def _while_restoring(error: Exception) -> bool:
    """Return true if an error was raised while Lightning restored a checkpoint.

    The type of the error does not matter.
    """
    return any("checkpoint_connector" in frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))


def _finish(
    trainer: L.Trainer, task: SRTask, callbacks: Sequence[L.Callback], export: Export, stage: Stage, files: StageFolder
) -> None:
    """Write the stage's weights, or raise StoppedError if the stage is not finished."""
    stop = next(c for c in callbacks if isinstance(c, Stop))
    validate = next(c for c in callbacks if isinstance(c, Validate))
    step = trainer.global_step
    finished = None if step == trainer.max_steps else stop.finished
    if validate.pending or (step != trainer.max_steps and finished is None):
        number = stop.received or stop.signals.agreed
        if number is None and not (stop.asked or trainer.should_stop):
            number = stop.signals.received or signal.SIGINT
        if number is not None:
            raise StoppedError(signal.Signals(number).name, step, number)
        raise StoppedError(name_of(stop.by, stage.config), step)
    if finished is not None:
        say(f"stage {stage.name}: finished by {finished['by']} at step {finished['step']}")
    done = stage.folder / WEIGHTS
    if trainer.is_global_zero:
        files.finish()
        own = exported(task, stage, {"run": export.origin["run"], "stage": stage.name, "step": step})
        if own is not None:  # written first, because weights.safetensors means that the stage is finished
            save_discriminator(done.with_name(DISCRIMINATOR), own)
        export(task, done, validate.scores, step, finished)
    trainer.strategy.barrier()
    if validate.best is not None:
        best = done.with_name("best.safetensors")
        say(f"stage {stage.name}: best {validate.best:.3f} at step {validate.best_step}: {best}")
    say(f"weights: {done}")
