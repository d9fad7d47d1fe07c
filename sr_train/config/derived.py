"""Keys whose values sr-train derives from other keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from sr_train.config.folders import near

_FOLDER = "paths.runs=DIR or name=NAME"

_DERIVED: dict[str, tuple[str, str]] = {  # key: its value ("": set in the code), and what to type instead
    "folder": ("${paths.runs}/${name}/${stage}", _FOLDER),
    "data.scale": ("${scale}", "scale={}"),
    "data.scales": ("${scales}", "scales={}"),
    "data.channels": ("${channels}", "channels={}"),
    "data.degrade": ("${degrade}", "degrade=NAME or degrade.KEY=VALUE"),
    "data.accumulate": ("${trainer.accumulate_grad_batches}", "trainer.accumulate_grad_batches={}"),
    "data.seed": ("${seed}", "seed={}"),
    "data.stage_name": ("${stage}", "stages={{NAME: ...}}, which sets the name of the stage"),
    "model.scale": ("${scale}", "scale={}"),
    "model.scales": ("${scales}", "scales={}"),
    "model.image_channels": ("${channels}", "channels={}"),
    "task.discriminator.image_channels": ("${channels}", "channels={}"),
    "task.model": ("", "model=NAME and model.KEY=VALUE"),
    "task.loss": ("", "loss=NAME and loss.KEY=VALUE"),
    "task.curve": ("", "curve=NAME and curve.KEY=VALUE"),
    "task.protocols": ("${validate.protocols}", "validate.protocols={}"),
    "task.tile": ("${validate.tile}", "validate.tile={}"),
    "task.optimizer.lr": ("${task.rate}", "task.rate={}"),
    "task.optimizer.params": (
        "",
        "task.trainable=[GLOB] or task.rate_scale={{GLOB: FACTOR}}; GLOB matches parameter names",
    ),
    "loss.perceptual.extractor.layers": ("${loss.perceptual.layers}", "loss.perceptual.layers={{LAYER: WEIGHT}}"),
    "logger.csv.folder": ("${folder}", _FOLDER),
    "logger.tensorboard.folder": ("${folder}", _FOLDER),
    "trainer.plugins": ("", "trainer.precision, trainer.strategy or checkpoint.KEY=VALUE"),
}

_SOURCE = re.compile(r"\$\{([\w.]+)\}")


def check_losses(configs: Mapping[str, Mapping[str, Any]], typed: Mapping[str, str]) -> list[str]:
    """Return a problem for each stage whose task trains one network, but whose loss is for a generator and a discriminator.

    Args:
        configs: resolved config of each stage by its name.
        typed: for the stages whose loss was typed without a stage, the option as typed.
    """
    gans = [name for name, config in configs.items() if "discriminator" in (config.get("task") or {})]
    problems = []
    for name, config in configs.items():
        if name in gans or not _is_adversarial(config.get("loss")):
            continue
        task = str((config.get("task") or {}).get("_target_")).rpartition(".")[2]
        option = typed.get(name)
        if option is not None and gans:
            given, advice = f"loss={option}: stage {name}", f"give {gans[0]}.loss={option}"
        else:
            given, advice = f"stage {name}", "give e.g. loss=l1, or task=gan"
        problems.append(
            f"{given} trains one network ({task}), but this loss is for a generator and a discriminator: {advice}"
        )
    return problems


def check_weight(text: str, key: str, stage: str, config: Mapping[str, Any]) -> str | None:
    """Return a problem for a typed weight, ``loss.weights.NAME``, of a term that the stage's loss does not have.

    Args:
        text: argument as typed.
        key: its key.
        stage: name of the stage.
        config: resolved config of the stage.
    """
    name = key.removeprefix("loss.weights.")
    loss = config.get("loss") or {}
    terms = {**loss, **(loss.get("terms") or {})}
    weights = loss.get("weights")
    if name == key or "." in name or terms.get(name) is not None or not isinstance(weights, Mapping):
        return None
    known = [n for n in weights if n != name and terms.get(n) is not None]
    own, ready = ([n for n in known if (weights[n] is None) == off] for off in (False, True))
    what = f"{text}: the loss of stage {stage} has no term {name}; its terms are {', '.join(own)}"
    hint = near(name, known, f"{stage}.loss.weights.")
    key = f"{stage}.loss"
    place = name if name in loss else f"terms.{name}"
    others = f". Terms that only need a weight: {', '.join(ready)}" if ready else ""
    advice = f"To add a term, choose a loss that has it, e.g. {key}=esrgan, or give {key}.{place}={{_target_: CLASS}}{others}"
    return f"{what}{hint or f'. {advice}'}"


def _is_adversarial(loss: object) -> bool:
    """Return true if the class of a loss has the methods of two networks, and none to be called with images alone."""
    if not isinstance(loss, Mapping) or "_target_" not in loss:
        return False
    with suppress(ImportError, AttributeError, ValueError):  # reported elsewhere
        module, _, name = str(loss["_target_"]).rpartition(".")
        methods = dir(getattr(import_module(module), name))
        return "generator" in methods and "discriminator" in methods
    return False


def _lookup(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Return (exists, value) for a dotted key of a plain config."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False, None
        node = node[part]
    return True, node


def _typed_as(value: Any) -> str:
    """Format a value for a command line: [y,rgb], {a:1}, null."""
    return str(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")


def check_derived(config: Mapping[str, Any], where: str) -> list[str]:
    """Return a problem for each derived key of a resolved config that was set to another value.

    A derived key gets its value from another key, e.g. data.scale from scale. A value of its own would have no effect,
    or would disagree with the other keys that are derived from the same key.
    """
    problems = []
    data = config.get("data")
    if isinstance(data, Mapping) and "stage_name" not in data and data.get("stage") == config.get("stage") is not None:
        problems.append(
            f"{where}: data.stage={data['stage']}: is now the folder for local copies of stores; in a YAML file of an earlier "
            "version, replace stage: ${stage} by stage_name: ${stage}"
        )
    for key, (made_of, remedy) in _DERIVED.items():
        exists, value = _lookup(config, key)
        sources = _SOURCE.findall(made_of)
        if len(sources) == 1:
            expected = _lookup(config, sources[0])[1]
        else:
            expected = _SOURCE.sub(lambda m: str(_lookup(config, m[1])[1]), made_of) or None
        if not exists or value == expected:
            continue
        why = f"is derived from {', '.join(sources)} ({_typed_as(expected)})" if sources else "is set by sr-train"
        problems.append(f"{where}: {key}={_typed_as(value)}: {why}; give {remedy.format(_typed_as(value))}")
    return problems
