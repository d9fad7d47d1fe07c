"""``sr-train``: every stage of an experiment, one after the other."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import build, conf_folder, header, run

if TYPE_CHECKING:
    import lightning as L

    from sr_train.stages import Plan, Stage

_GROUPS = ("experiment", "model", "task", "loss", "curve", "data", "sets", "trainer", "callbacks", "paths")


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


def stage_seed(seed: int, stage: str) -> int:
    """A stage's own seed: what it draws does not depend on what ran before it in the process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}/weights".encode(), digest_size=4).digest(), "little")


def full_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config with its constructor's defaults filled in: what a weights file keeps."""
    module, _, name = str(model["_target_"]).rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    return {"_target_": model["_target_"], **defaults, **{k: v for k, v in model.items() if k != "_target_"}}


def _trainer(config: Mapping[str, Any], folder: Path) -> L.Trainer:
    options = dict(config["trainer"])
    if options["precision"] == "auto":
        options["precision"] = "bf16-mixed" if native_bf16(str(options["accelerator"])) else "32-true"
    callbacks = [build(c) for c in config["callbacks"].values() if c]
    every = int(config["validate"]["every"]) * int(options["accumulate_grad_batches"])
    return build(
        options,
        callbacks=callbacks,
        default_root_dir=str(folder),
        max_epochs=-1,
        use_distributed_sampler=False,  # the sampler shares the positions out itself
        check_val_every_n_epoch=None,
        val_check_interval=every,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def run_stage(plan: Plan, stage: Stage) -> Path:
    """Train one stage from its newest checkpoint, or from the start; returns its weights file."""
    folder = stage.folder
    done = folder / "weights.safetensors"
    if done.exists():
        print(f"stage {stage.name}: complete already ({done})")
        return done

    import torch

    import sr_train
    from sr_train.weights import Weights, save_weights

    config = stage.config
    torch.manual_seed(stage_seed(config["seed"], stage.name))
    data = build(config["data"])
    parts = {name: build(config[name]) for name in ("model", "loss", "curve")}
    task = build(config["task"], **parts)
    trainer = _trainer(config, folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    count = sum(p.numel() for p in task.model.parameters())
    print(
        f"stage {stage.name}: {type(task.model).__name__} x{config['scale']}, {count:,} parameters, "
        f"{len(data.dataset.sources)} sources with {sum(map(len, data.dataset.sources))} images, "
        f"{trainer.precision}, up to step {trainer.max_steps}; {folder}",
        flush=True,
    )
    trainer.fit(task, datamodule=data, ckpt_path=str(checkpoint) if checkpoint.exists() else None, weights_only=True)
    if trainer.global_step < trainer.max_steps:
        raise KeyboardInterrupt
    # An infinite loader has no epoch end to validate at: the scores of the finished network are taken here.
    scores = trainer.validate(task, datamodule=data, verbose=False) if data.val else [{}]
    origin = {"run": plan.name, "stage": stage.name, "step": trainer.global_step, "sr_train": sr_train.__version__}
    save_weights(
        done,
        Weights(
            model=full_arguments(config["model"]),
            state=task.averaged().state_dict(),
            origin=origin,
            scores={k: float(v) for k, v in scores[0].items()},
        ),
    )
    shown = "  ".join(f"{k} {v:.3f}" for k, v in scores[0].items() if k.endswith("/psnr"))
    print(f"stage {stage.name}: done. {shown}\nweights: {done}")
    return done


def train(arguments: list[str]) -> int:
    """Compose all stages, then run those that are open."""
    if not arguments:
        print(list_experiments())
        return 0
    from sr_train.stages import plan

    composed = plan(arguments)
    print(f"run {composed.name}: {' -> '.join(composed.selected)} in {composed.folder}", flush=True)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for stage in composed.stages:
        if stage.name in composed.selected:
            run_stage(composed, stage)
    return 0


def main() -> None:
    """Entry point of ``sr-train``."""
    run("sr-train", "train", train, show_groups=_GROUPS)
