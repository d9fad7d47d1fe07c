"""Initial weights of a stage's discriminator: ``init.discriminator``, a file or an earlier GAN stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sr_train.config.build import build
from sr_train.config.folders import files_of, options_of
from sr_train.config.help import keys_of
from sr_train.config.plan import Plan, Stage
from sr_train.console import say
from sr_train.tasks.base import SRTask
from sr_train.tasks.gan import GANTask
from sr_train.weights.discriminator import Discriminator, check_same, load_discriminator
from sr_train.weights.file import ANY
from sr_train.weights.mixing import digest
from sr_train.weights.network import outline
from sr_train.weights.open import full_arguments

_COST = (
    "it starts from scratch. It needs some thousand steps to become useful, and until then it may spoil a generator that was "
    "trained in a GAN: give init.discriminator=FILE"
)


def _network(spec: Mapping[str, Any]) -> nn.Module:
    return outline(lambda: build(spec))


def _earlier(plan: Plan, stage: Stage) -> Stage | None:
    """Return the earlier stage that ``init.discriminator`` names; None for a file."""
    name = stage.config["init"]["discriminator"]
    earlier = plan.stages[: [s.name for s in plan.stages].index(stage.name)]
    return next((s for s in earlier if s.name == name), None)


def check_discriminator_start(plan: Plan, stage: Stage) -> Discriminator | None:
    """Compare the discriminator of a stage with its initial weights, by names and shapes, and print where they come from.

    Return the content of the file; None without ``init.discriminator``, or if it names an earlier stage. Raise WeightsError
    for differences, or a file without a discriminator.
    """
    spec, init = stage.config["task"].get("discriminator"), stage.config["init"]
    if spec is None:
        return None
    if init["discriminator"] is None:
        if init["weights"] is not None or _was_gan(plan, init["stage"]):
            say(f"stage {stage.name}: discriminator: {_COST}")
        return None
    before, opened = _earlier(plan, stage), None
    network = _network(spec).state_dict()
    if before is not None:
        found, name = before.config["task"]["discriminator"], f"stage {before.name}"
        state, kind = _network(found).state_dict(), dict(found)
    else:
        opened, file = load_discriminator(str(init["discriminator"]), allow=[ANY])
        state, kind, name = opened.state, opened.model, str(file)
    check_same(
        network, state, where=f"stage {stage.name}: discriminator from {name}", remedy=_remedy(stage, spec, kind)
    )
    say(f"stage {stage.name}: discriminator starts from {name}: {len(network)} tensors copied{_by(opened)}")
    return opened


def find_discriminator_start(plan: Plan, stage: Stage, opened: Discriminator | None) -> Discriminator | None:
    """Return the initial weights of a stage's discriminator: ``opened``, or those of the earlier stage; None without any.

    Raise WeightsError if the earlier stage has no discriminator to start from yet.
    """
    before = None if opened is not None or stage.config["init"]["discriminator"] is None else _earlier(plan, stage)
    return opened if before is None else load_discriminator(str(before.folder), allow=[ANY])[0]


def start_digest(found: Discriminator | None) -> list[str]:
    """Return the digest of a discriminator's initial weights, as a list; an empty list without them."""
    return [] if found is None else [digest(found.state)]


def exported(task: SRTask, stage: Stage, origin: Mapping[str, Any]) -> Discriminator | None:
    """Return the discriminator of a trained task for its file; None if the task has none."""
    if not isinstance(task, GANTask):
        return None
    spec = stage.config["task"]["discriminator"]
    return Discriminator(full_arguments(spec), dict(task.discriminator.state_dict()), dict(origin))


def _was_gan(plan: Plan, name: str | None) -> bool:
    return any(s.name == name and s.config["task"].get("discriminator") is not None for s in plan.stages)


def _by(opened: Discriminator | None) -> str:
    layout = None if opened is None else opened.origin.get("layout")
    return f" ({layout})" if layout else ""


def _remedy(stage: Stage, spec: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return what to type, so that a stage has the discriminator of a file, or an empty string."""
    target = str(found.get("_target_", ""))
    options = [o for o in options_of("discriminator") if _target_of(o) == target]
    prefix = "" if stage.name == "main" else f"{stage.name}."
    other = bool(options) and target != spec.get("_target_")
    given = [f"{prefix}discriminator={options[0]}"] if other else []
    given += [f"{prefix}task.discriminator.{k}={v}" for k, v in found.items()
              if k not in ("_target_", "image_channels") and (other or spec.get(k, v) != v)]  # fmt: skip
    return f"; give {' '.join(given)}" if given else ""


def _target_of(option: str) -> str:
    file = next(f for f in files_of("discriminator") if f.stem == option)
    return next((value for key, value, _ in keys_of(file) if key == "_target_"), "")
