"""Config of a started stage, and the check that the stage may continue with the current config and data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from yaml import YAMLError

from sr_train.config.folders import present_path
from sr_train.files import write_bytes
from sr_train.runs.checkpoints import list_checkpoints

#: Keys, each with all keys below it, that may change when a run is resumed. A change of any other key needs another run.
#: Data and source weights are compared by content (``fingerprint``), not by path. The arguments of Lightning's Trainer that
#: affect the weights may not change: precision, gradient_clip_*, and deterministic, which makes a GPU's results reproducible.
#: How a step's batch is divided into devices and micro-batches may change; with BatchNorm a note reports it.
FREE = (
    "name", "stage", "stages", "check", "profile", "profile_steps", "report", "init.stage", "init.weights",
    "init.discriminator", "resume", "requeue", "folder",
    "paths", "launcher", "sets", "logger", "callbacks", "record", "checkpoint", "validate", "data.val", "data.workers",
    "data.cache", "data.stage", "data.train", "data.accumulate", "data.prefetch_factor", "data.patience", "task.protocols",
    "task.tile", "task.ema_device", "task.patience", "task.compile", "task.recompute", "task.optimizer.fused", "model.deform",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator", "trainer.benchmark", "trainer.max_steps",
    "trainer.max_time", "trainer.timeout", "trainer.detect_anomaly", "trainer.profiler", "trainer.plugins",
    "trainer.accumulate_grad_batches", "trainer.sync_batchnorm", "max_pixels", "sheet", "data.degrade",
)  # fmt: skip

_STEPS = "trainer.max_steps"

_LPIPS = "sr_train.losses.lpips.LPIPSLoss"
_FEW = 5  # differing keys of a degradation that are listed

_EARLIER: dict[str, Any] = {  # keys that configs of earlier versions do not have, and their values in these versions
    **dict.fromkeys(("channels", "data.channels", "model.image_channels", "task.discriminator.image_channels"), 3),
    "degrade": {},
    "data.usm": False,
    "curve.warmup": 0,
    "loss.perceptual.extractor.precision": "auto",
    "task.parts": 1,
    "task.discriminator_steps": 1,
    "task.discriminator_first": 0,
    "task.discriminator_trainable[0]": "*",
}


class ChangedError(ValueError):
    """Error for a run that was started with another config or other data."""


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a config: {"a": {"b": [1, 2]}} -> {"a.b[0]": 1, "a.b[1]": 2}.

    Empty lists and mappings remain as values.
    """
    if isinstance(value, Mapping) and value:
        return {
            k: v
            for key, item in value.items()
            for k, v in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    if isinstance(value, list) and value:
        return {k: v for i, item in enumerate(value) for k, v in flatten(item, f"{prefix}[{i}]").items()}
    return {prefix: value}


def _free(key: str) -> bool:
    """Return true if a key may change when a run is resumed: ``FREE`` contains the key, or a key above it.

    ``key`` is flat, e.g. ``data.train[0].hr``. The path of a feature network's weights may change, too: the weights are
    compared by content (``fingerprint.features``).
    """
    if key.startswith("loss.") and key.endswith(".extractor.weights"):
        return True
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in FREE)


def _files_of_features(flat: Mapping[str, Any]) -> set[str]:
    """Return the keys of files of LPIPS as a loss. The files are compared by content, too."""
    losses = [
        key.removesuffix("_target_") for key, value in flat.items() if value == _LPIPS and key.endswith("._target_")
    ]
    return {f"{loss}{name}" for loss in losses for name in ("weights", "features")}


def fingerprint(sources: Sequence[Any]) -> list[str]:
    """Return a digest for each training source, computed from the names and sizes of its images, without paths."""
    digests = []
    for pairs in sources:
        digest = hashlib.blake2b(digest_size=8)
        for i, key in enumerate(pairs.keys):
            digest.update(f"{key} {pairs.hr_size(i)} {pairs.lr_size(i)}\n".encode())
        kind = "pairs" if pairs.lr is not None else "images"
        digests.append(f"{len(pairs)} {kind} {digest.hexdigest()}")
    return digests


def environment() -> dict[str, Any]:
    """Return the versions and machine properties that must be equal so that a resumed run continues bit for bit."""
    return {
        "torch": str(torch.__version__),
        "lightning": version("lightning"),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def describe(
    config: Mapping[str, Any], sources: Sequence[Any], weights: Sequence[Any], features: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the content of a stage's ``config.yaml``.

    Args:
        config: config of the stage.
        sources: sources of its training images.
        weights: digest of its initial weights, if it has any.
        features: digests of the feature networks of its loss.
    """
    data = {"sources": fingerprint(sources), "weights": list(weights), "features": list(features)}
    train = [s for s in config["data"]["train"] if isinstance(s, Mapping)]
    if any("degrade" in source for source in train):
        data["degrade"] = [source.get("degrade", "that of the stage") for source in train]
    return {**config, "fingerprint": data, "environment": environment()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``key: old -> new`` for every key that has changed although it must not change when a run is resumed."""
    a, b = (_completed(flatten(_without_unused_terms(config))) for config in (old, new))
    if not any(key.startswith("fingerprint.features") for key in a):  # of an earlier version
        b = {key: value for key, value in b.items() if not key.startswith("fingerprint.features")}
    files = _files_of_features(a) | _files_of_features(b)
    lines = []
    if (one := a.get("degrade._target_", "bicubic")) != (
        other := b.get("degrade._target_", "bicubic")
    ):  # no list of keys
        lines.append(f"degrade: {one} -> {other}")
        a, b = ({k: v for k, v in flat.items() if k.partition(".")[0] != "degrade"} for flat in (a, b))
    for key in dict.fromkeys([*a, *b]):
        if key in files or _free(key) or key.startswith("environment."):
            continue
        if a.get(key) != b.get(key):
            lines.append(f"{key}: {_show(a, key)} -> {_show(b, key)}")
    made = [line for line in lines if line.startswith("degrade.")]
    if len(made) > _FEW:  # another option of the group
        lines = [line for line in lines if line not in made[_FEW:]]
        lines.append(f"degrade: {len(made) - _FEW} more keys differ")
    return lines


def _without_unused_terms(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config without the terms of its loss that have no weight, and so are not part of the loss."""
    loss = config.get("loss")
    if not isinstance(loss, Mapping) or not isinstance(loss.get("terms"), Mapping):
        return config
    weights = loss.get("weights") or {}
    used = {name: term for name, term in loss["terms"].items() if weights.get(name) is not None}
    kept = {name: weight for name, weight in weights.items() if weight is not None or name not in loss["terms"]}
    loss = {**{k: v for k, v in loss.items() if k != "terms"}, "weights": kept, **({"terms": used} if used else {})}
    return {**config, "loss": loss}


def _completed(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a flat config with the keys that an earlier version did not have."""
    there = any(key.startswith("degrade.") for key in flat)
    return {**{k: v for k, v in _EARLIER.items() if k != "degrade" or not there}, **flat}


def _with_new_paths(value: Any) -> Any:
    """Return a config in which dotted paths of an earlier version of sr-train are replaced by the current paths."""
    if isinstance(value, Mapping):
        return {k: _with_new_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_new_paths(v) for v in value]
    if isinstance(value, str):
        return present_path(value)
    return value


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], default=str) if key in flat else "(missing)"


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the content of a stage's ``config.yaml``; None if there is no such file.

    Raise ChangedError if the file cannot be read.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return None
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OSError, ValueError) as error:
        raise ChangedError(f"{path}: cannot be read ({str(error).splitlines()[0]}); resume=force replaces it") from None
    if not isinstance(loaded, dict):
        raise ChangedError(f"{path}: is not a config; resume=force replaces it")
    config: dict[str, Any] = {str(k): _with_new_paths(v) for k, v in loaded.items()}
    data = config.get("data")
    if isinstance(data, dict) and "stage" in data and "stage_name" not in data:  # of an earlier version
        data["stage_name"] = data.pop("stage")
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a stage's ``config.yaml``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode())


def check(folder: Path, new: Mapping[str, Any], *, force: bool) -> list[str]:
    """Compare a stage's new config with the config that the stage was started with in its folder.

    Return notes for the user. If there are differences, raise ChangedError that contains all of them and the remedies,
    unless ``force`` is true.
    """
    begun = (folder / "weights.safetensors").exists() or bool(list_checkpoints(folder / "checkpoints"))
    if not begun:  # it failed before its first checkpoint, so nothing can be lost
        return []
    try:
        old = read_config(folder)
        if not old:
            raise ChangedError(
                f"{folder / 'config.yaml'}: is missing or empty, but the stage has started; resume=force continues it"
            )
    except ChangedError:
        if not force:
            raise
        return ["continues without the config that it was started with"]
    lines = differences(old, new)
    before, now = flatten(old).get(_STEPS), flatten(new).get(_STEPS)
    if isinstance(before, int) and isinstance(now, int) and now < before and (folder / "weights.safetensors").exists():
        lines.append(f"{_STEPS}: {before} -> {now} (a finished stage can be extended, not shortened)")
    if lines and not force:
        shown = "\n  ".join(lines)
        raise ChangedError(
            f"{folder}: was started with another config or other data:\n  {shown}\n"
            "name=OTHER starts another run; resume=force continues this one with the differences; "
            "resume=never renames the folder and starts from scratch"
        )
    notes = [f"continues with a difference: {line}{_effect(line)}" for line in lines]
    old_env, new_env = old.get("environment") or {}, new["environment"]
    changed = [f"{k} {old_env[k]} -> {v}" for k, v in new_env.items() if k in old_env and old_env[k] != v]
    if changed:
        notes.append(f"not bit for bit equal to an uninterrupted run: {', '.join(changed)}")
    return notes


def _effect(line: str) -> str:
    """Return an addition for a difference that changes nothing after the first step, or an empty string."""
    return (
        " (without effect: the stage has started from the earlier ones)"
        if line.startswith("fingerprint.weights")
        else ""
    )


def move_aside(folder: Path) -> Path | None:
    """Rename a folder to the first free ``NAME.old-N``; return the new path, or None if there is no folder."""
    if not folder.exists():
        return None
    n = 1
    while (aside := folder.with_name(f"{folder.name}.old-{n}")).exists():
        n += 1
    os.rename(folder, aside)  # noqa: PTH104
    return aside
