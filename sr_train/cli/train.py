"""``sr-train``: every stage of an experiment, one after the other."""

from __future__ import annotations

import hashlib
import inspect
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sr_train.cli.common import build, conf_folder, header, run

if TYPE_CHECKING:
    import lightning as L

    from sr_train.checkpoints import Checkpoint
    from sr_train.data.module import SRData
    from sr_train.stages import Plan, Stage
    from sr_train.tasks.base import SRTask
    from sr_train.weights import Weights

_GROUPS = (
    "experiment",
    "model",
    "task",
    "optimizer",
    "loss",
    "curve",
    "data",
    "sets",
    "trainer",
    "logger",
    "callbacks",
    "paths",
)
_PRECISIONS = {"32": "32-true", "32-true": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
_HYDRA = ("-m", "--multirun", "--info", "-i", "-sc", "--shell-completion", "--hydra-help", "--version")


class StoppedError(Exception):
    """A run was asked to stop, and did so with a checkpoint."""

    def __init__(self, number: int, step: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}")


def list_experiments() -> str:
    """Every experiment with its one line, read from the YAML alone."""
    files = sorted((conf_folder() / "experiment").rglob("*.yaml"))
    width = max(len(f.stem) for f in files)
    rows = [f"  {f.stem:<{width}}  {next(iter(header(f)), '')}" for f in files]
    return "\n".join(
        ["usage: sr-train experiment=NAME [KEY=VALUE ...]", "", "Experiments:", *rows, "", "sr-train --help: keys"]
    )


def native_bf16(accelerator: str) -> bool:
    """Whether the hardware computes in bf16 itself; emulated bf16 is slower than fp32."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator not in ("auto", "cpu"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(precision: object, accelerator: str) -> str:
    """``auto`` and the short names to Lightning's; raises ValueError for what would silently become something else."""
    import torch

    if precision == "auto":
        return "bf16-mixed" if native_bf16(accelerator) else "32-true"
    if str(precision) not in _PRECISIONS:
        raise ValueError(f"trainer.precision={precision}: choose from auto, 32, bf16-mixed, 16-mixed")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if str(precision) == "16-mixed" and on_cpu:
        raise ValueError("trainer.precision=16-mixed needs a GPU; on a CPU give bf16-mixed, 32 or auto")
    return _PRECISIONS[str(precision)]


def stage_seed(seed: int, stage: str) -> int:
    """A stage's own seed: what it draws does not depend on what ran before it in the process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}/weights".encode(), digest_size=4).digest(), "little")


def full_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config with its constructor's defaults filled in: what a weights file keeps."""
    module, _, name = str(model["_target_"]).rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    return {"_target_": model["_target_"], **defaults, **{k: v for k, v in model.items() if k != "_target_"}}


class _Export:
    """Writes the network that counts as a self-describing file."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.model = full_arguments(stage.config["model"])
        self.origin = {"run": plan.name, "stage": stage.name}

    def __call__(self, task: SRTask, path: Path, scores: Mapping[str, float], step: int) -> None:
        import sr_train
        from sr_train.weights import Weights, save_weights

        origin = {**self.origin, "step": step, "ema": task.ema is not None, "sr_train": sr_train.__version__}
        save_weights(path, Weights(self.model, task.averaged().state_dict(), origin, dict(scores)))


def _callbacks(stage: Stage, data: SRData, export: _Export) -> list[L.Callback]:
    """The standard callbacks in the order in which a step needs them - log, validate, save, stop, show - after the user's."""
    from sr_train.callbacks import Checkpoints, Progress, Record, Stop
    from sr_train.validation import Validate

    config, folder, last = stage.config, stage.folder, int(stage.config["trainer"]["max_steps"])
    record = Record(every=config["record"]["every"], folder=str(folder))
    save = Checkpoints(folder=str(folder / "checkpoints"), last=last, **config["checkpoint"])
    options = {k: v for k, v in config["validate"].items() if k != "protocols"}
    metrics = [f"{s}/{p}/{m}" for s in data.val for p in config["validate"]["protocols"] for m in ("psnr", "ssim")]
    if config["validate"]["best"] is not None and config["validate"]["best"] not in metrics:
        raise ValueError(
            f"validate.best={config['validate']['best']} is not measured; choose from {', '.join(metrics)}"
        )
    validate = Validate(images=data.val_images(), last=last, export=export, folder=str(folder), **options)
    own = [build(c) for c in (config["callbacks"] or {}).values() if c]
    return [*own, record, validate, save, Stop(save), Progress(record)]


def _trainer(config: Mapping[str, Any], callbacks: Sequence[L.Callback], folder: Path) -> L.Trainer:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return build(
            {k: v for k, v in config["trainer"].items() if v is not None},
            callbacks=list(callbacks),
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


def _say(text: str) -> None:
    if not _child():
        print(text, flush=True)


def _task(config: Mapping[str, Any], stage: str, source: Source | None) -> SRTask:
    """The stage's task; its network is warm-started before the EMA copy is made."""
    import torch

    torch.manual_seed(stage_seed(config["seed"], stage))
    parts = {name: build(config[name]) for name in ("model", "loss", "curve")}
    if source is not None:
        from sr_train.weights import warm_start

        warm_start(
            parts["model"], source.weights.state, config["init"]["skip"], where=f"stage {stage} from {source.file}"
        )
    return build(config["task"], **parts)


class Source(NamedTuple):
    """What a stage starts from."""

    weights: Weights
    file: Path

    @property
    def digest(self) -> str:
        """Of the tensors: another source makes another run."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(self.weights.state):
            digest.update(name.encode())
            digest.update(self.weights.state[name].contiguous().float().numpy().tobytes())
        return digest.hexdigest()


def _source(plan: Plan, stage: Stage) -> Source | None:
    """The weights that a stage starts from; raises ValueError where its source stage is not complete."""
    from sr_train.cli.locate import load

    init = stage.config["init"]
    if init["weights"] is not None:
        return Source(*load(str(init["weights"])))
    if init["stage"] is None:
        return None
    folder = next(s.folder for s in plan.stages if s.name == init["stage"])
    if not (folder / "weights.safetensors").exists():
        raise ValueError(
            f"stage {stage.name} starts from stage {init['stage']}, which is not complete ({folder}); run that first, or "
            f"give {stage.name}.init.weights=FILE"
        )
    return Source(*load(str(folder)))


def check_warm_starts(plan: Plan) -> None:
    """Compare every selected stage's network with its source's by name and shape, before the first one is trained.

    The costliest failure is a bad warm start after three days. Prints what is copied, started afresh and unused.
    """
    import torch

    from sr_train.weights import match_warm_start

    def outline(config: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        with torch.device("meta"):
            return build(config["model"]).state_dict()

    for stage in plan.stages:
        init = stage.config["init"]
        if stage.name not in plan.selected or (init["stage"] is None and init["weights"] is None):
            continue
        if init["weights"] is not None:
            source = _source(plan, stage)
            assert source is not None
            state, name = source.weights.state, str(source.file)
        else:
            state, name = (
                outline(next(s.config for s in plan.stages if s.name == init["stage"])),
                f"stage {init['stage']}",
            )
        decided = match_warm_start(outline(stage.config), state, init["skip"], where=f"stage {stage.name} from {name}")
        _say(f"stage {stage.name} starts from {name}:")
        for what, names in (("copied", decided.copied), ("afresh", decided.afresh), ("unused", decided.unused)):
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if what != "copied" else ""
            _say(f"  {what:<7}{len(names):>5} tensors  {shown}".rstrip())


def preflight(stage: Stage) -> None:
    """What can be refused before anything is trained: precision, numbers, metrics, the network's and the data's arguments."""
    import torch

    config = stage.config
    trainer, validate = config["trainer"], config["validate"]
    trainer["precision"] = resolve_precision(trainer["precision"], str(trainer["accelerator"]))
    if trainer["max_steps"] < 1:
        raise ValueError(f"trainer.max_steps={trainer['max_steps']}: expected a whole number from 1 on")
    if trainer.get("gradient_clip_val") is not None and not trainer["gradient_clip_val"] > 0:
        raise ValueError(
            f"trainer.gradient_clip_val={trainer['gradient_clip_val']}: expected a positive number, or null"
        )
    for name, least in (("pictures", 0), ("crop", 1), ("every", 1)):
        if validate[name] < least:
            raise ValueError(f"validate.{name}={validate[name]}: expected a whole number from {least} on")
    if config["data"]["batch"] < 1 or config["data"]["workers"] < 0:
        raise ValueError(
            f"data.batch={config['data']['batch']} must be at least 1, data.workers={config['data']['workers']} 0"
        )
    with torch.device("meta"):
        build(config["model"])


def run_stage(plan: Plan, stage: Stage) -> Path:
    """Train one stage, from its newest checkpoint or from the start, unless it is complete; returns its weights file.

    Raises StoppedError where a signal ended it, with a checkpoint.
    """
    from sr_train.checkpoints import newest_checkpoint
    from sr_train.cli import resume
    from sr_train.files import remove_leftovers

    folder, config = stage.folder, stage.config
    preflight(stage)
    last = int(config["trainer"]["max_steps"])
    data = build(config["data"])
    source = _source(plan, stage)
    described = resume.describe(config, data.sources, [] if source is None else [source.digest])
    for note in resume.check(folder, described, force=config["resume"] == "force"):
        _say(f"stage {stage.name}: {note}")
    done = folder / "weights.safetensors"
    if done.exists() and _trained(folder) >= last:
        _say(f"stage {stage.name}: complete already ({done})")
        return done
    found = newest_checkpoint(folder / "checkpoints", lambda text: _say(f"stage {stage.name}: {text}"))
    if found is not None and found.step > last:
        raise ValueError(f"{found.path}: is beyond trainer.max_steps={last}; a run can be extended, not shortened")
    task = _task(config, stage.name, source)
    export = _Export(plan, stage)
    callbacks = _callbacks(stage, data, export)
    trainer = _trainer(config, callbacks, folder)
    data.per_device(trainer.world_size)
    if trainer.is_global_zero:
        for where in (folder, folder / "checkpoints"):
            remove_leftovers(where)
        resume.write_config(folder, described)
        done.unlink(missing_ok=True)  # of a stage that is being extended: it means that the stage is complete
    _introduce(stage, task, data, found)
    _fit(trainer, task, data, found)
    _finish(trainer, task, callbacks, export, done)
    return done


def _trained(folder: Path) -> int:
    """Steps of a complete stage."""
    from sr_train.weights import load_weights

    return int(load_weights(folder / "weights.safetensors").origin.get("step", 0))


def _introduce(stage: Stage, task: SRTask, data: SRData, found: Checkpoint | None) -> None:
    count = sum(p.numel() for p in task.model.parameters())
    images = sum(map(len, data.sources))
    trainer = stage.config["trainer"]
    where = "from the start" if found is None else f"from step {found.step} ({found.path.name})"
    _say(
        f"stage {stage.name}: {type(task.model).__name__} x{stage.config['scale']}, {count:,} parameters, {images} images, "
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
    except (RuntimeError, KeyError) as error:
        if found is not None and trainer.global_step <= found.step and "state_dict" in str(error):
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{found.path}: does not fit this network; delete it if it is foreign ({reason})"
            ) from None
        raise


def _finish(trainer: L.Trainer, task: SRTask, callbacks: Sequence[L.Callback], export: _Export, done: Path) -> None:
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
        _say(f"stage {done.parent.name}: best {validate.best:.3f} at step {validate.best_step}: {best}")
    _say(f"weights: {done}")


def _quiet() -> None:
    """Lightning's advice is for those who write loops; ours is on screen already."""
    import logging

    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    warnings.filterwarnings("ignore", message=".*is a wrapper class for the backend.*")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def _child() -> bool:
    """Whether this process was launched by another rank of the same run."""
    return any(int(os.environ.get(k) or 0) > 0 for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def train(arguments: list[str]) -> int:
    """Compose all stages, then run those that are open."""
    if not arguments:
        print(list_experiments())
        return 0
    if any(a.split("=")[0] in _HYDRA for a in arguments):
        return _hydra(arguments)
    from sr_train.stages import plan

    cfg = [i for i, a in enumerate(arguments) if a.split("=")[0] in ("--cfg", "-c", "--resolve")]
    if cfg:
        rest = [a for i, a in enumerate(arguments) if i not in cfg and not (i - 1 in cfg and a in ("job", "all"))]
        _print_config(plan(rest))
        return 0
    return run_plan(plan(arguments), arguments)


def _print_config(composed: Plan) -> None:
    from omegaconf import OmegaConf

    for stage in composed.stages:
        if stage.name in composed.selected:
            print(f"# stage {stage.name}\n{OmegaConf.to_yaml(OmegaConf.create(stage.config))}")


def run_plan(composed: Plan, arguments: Sequence[str]) -> int:
    """Run the selected stages of a plan, holding the run's lock."""
    from sr_train.cli import resume
    from sr_train.cli.lock import hold

    mode = composed.stages[0].config["resume"]
    if mode not in ("auto", "force", "never"):
        raise ValueError(f"resume={mode}: choose from auto, force, never")
    command = shlex.join(["sr-train", *arguments])
    _quiet()
    with nullcontext() if _child() else hold(composed.folder):
        if mode == "never" and not _child():
            whole = set(composed.selected) == {s.name for s in composed.stages}
            old = [composed.folder] if whole else [s.folder for s in composed.stages if s.name in composed.selected]
            for folder in old:
                aside = resume.move_aside(folder)
                if aside is not None:
                    print(f"{folder}: moved aside to {aside}")
            command = command.replace(" resume=never", "")
        if not _child():
            print(f"run {composed.name}: {' -> '.join(composed.selected)} in {composed.folder}", flush=True)
        for stage in composed.stages:
            if stage.name in composed.selected:
                preflight(stage)
                build(stage.config["data"])  # every source is opened before the first stage is trained
        check_warm_starts(composed)
        try:
            for stage in composed.stages:
                if stage.name in composed.selected:
                    run_stage(composed, stage)
        except StoppedError as stopped:
            if not _child():
                print(f"sr-train: {stopped}; continue with: {command}", file=sys.stderr)
            return 128 + stopped.number
    return 0


def _hydra(arguments: list[str]) -> int:
    """Sweeps, shell completion and Hydra's own information, by Hydra."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from sr_train.stages import plan

    # A stage's keys (gan.trainer.max_steps) are in no schema that Hydra knows: they are added.
    known = {p.name for p in conf_folder().iterdir() if p.is_dir()} | {"validate", "checkpoint", "record", "hydra"}
    argv = [
        f"+{a}" if "." in a.partition("=")[0] and not a.startswith("-") and a.partition(".")[0] not in known else a
        for a in arguments
    ]
    code = 0

    @hydra.main(config_path="pkg://sr_train.conf", config_name="train", version_base="1.3")
    def job(_: Any) -> None:
        nonlocal code
        chosen = HydraConfig.get()
        task = [o.removeprefix("+") for o in chosen.overrides.task]
        if not any(o.startswith("name=") for o in task):
            experiment = next((o.partition("=")[2] for o in task if o.startswith("experiment=")), "run")
            swept = chosen.job.override_dirname.replace("/", "_").replace("+", "") or "default"
            task.append(f"name='{experiment}/{swept}'")
        code = max(code, run_plan(plan(task), task))
        if code > 128:  # a signal ends the sweep, not one job of it
            raise SystemExit(code)

    sys.argv = ["sr-train", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    job()
    return code


def main() -> None:
    """Entry point of ``sr-train``."""
    run("sr-train", "train", train, show_groups=_GROUPS)
