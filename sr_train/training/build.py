"""Trainer and task of a stage, built from its config."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from sr_train.config.build import build
from sr_train.data.module import means_of, set_name
from sr_train.evaluation.metrics import PROTOCOL, open_measures
from sr_train.tasks.base import SRTask
from sr_train.training.checkpointing import StreamedCheckpoints
from sr_train.training.warm_starts import Source
from sr_train.weights.warm_start import warm_start


def on_one_device(trainer: Mapping[str, Any]) -> bool:
    """Return true where the trainer's own keys say one device."""
    return trainer["devices"] in (1, "1") and trainer["num_nodes"] == 1


def finding_unused(trainer: Mapping[str, Any]) -> str:
    """The strategy that looks for parameters without a gradient, which plain ddp would wait for."""
    strategy = trainer["strategy"]
    if strategy == "auto" and not on_one_device(trainer):
        strategy = "ddp"
    return f"{strategy}_find_unused_parameters_true" if strategy in ("ddp", "ddp_spawn", "ddp_fork") else strategy


def scored_sets(data: Mapping[str, Any]) -> list[str]:
    """What the scores of validation are called, sets and their means over the scales."""
    names, scales = list(data["val"] or {}), data.get("scales") or ()
    return [*means_of(names, scales), *(set_name(n, s, scales) for n in names for s in scales or (0,))]


def stage_seed(seed: int, stage: str) -> int:
    """A stage's own seed: what it draws does not depend on what ran before it in the process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}/weights".encode(), digest_size=4).digest(), "little")


def build_trainer(config: Mapping[str, Any], callbacks: Sequence[L.Callback], folder: Path) -> L.Trainer:
    """Lightning's Trainer with our callbacks in place of its loops' own habits."""
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
            limit_val_batches=0,  # sr_train.training.validation validates at step boundaries
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
    torch.manual_seed(stage_seed(config["seed"], stage))
    parts = {name: build(config[name]) for name in ("model", "loss", "curve")}
    if source is not None:
        init, where = config["init"], f"stage {stage} from {source.file}"
        warm_start(parts["model"], source.weights.state, init["skip"], grow=init["grow"], where=where)
    return build(config["task"], **parts)


def score_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the scores that a stage's validation measures. Raises what its metrics lack."""
    validate = config["validate"]
    measures = open_measures(validate["metrics"], validate["lpips"], keys="validate.")
    plain = [m for m in validate["metrics"] if m not in measures]
    sets = scored_sets(config["data"])
    metrics = [f"{s}/{p}/{m}" for s in sets for p in validate["protocols"] for m in plain]
    return metrics + [f"{s}/{PROTOCOL}/{m}" for s in sets for m in measures]
