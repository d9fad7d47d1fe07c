"""KEY=VALUE arguments: the stage and the key that each one names, and options of config groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from sr_train.config.check import OWN, callable_at, is_known
from sr_train.config.folders import groups
from sr_train.config.type_hints import fits, hints_of
from sr_train.console import ConfigError

NESTED = {"discriminator": "discriminator@task.discriminator"}  # groups that a task's file chooses, as Hydra calls them

NODES = {"discriminator": "task.discriminator", "optimizer": "task.optimizer"}  # groups below another's node

TRAINED = (
    "model",
    "task",
    "optimizer",
    "discriminator",
    "loss",
    "curve",
)  # groups that bring all of their node's keys

_LISTS = ("stage", "sets", "logger")  # keys of the command line that take several names


# -- the plan ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Typed:
    """One override: which stage it names, if any."""

    stage: str | None
    key: str
    value: Any
    text: str  #: as typed
    choice: str = ""  #: of an option of a config group, as Hydra takes it


def as_typed(override: Override) -> Any:
    """Return the value of a key that takes names: what Hydra reads as a number or a boolean stays as it was typed."""
    value, text = override.value(), (override.input_line or "").partition("=")[2].strip()
    if isinstance(value, list):
        items = [item.strip() for item in text[1:-1].split(",")]
        if len(items) == len(value):
            return [v if isinstance(v, str) else item for v, item in zip(value, items, strict=True)]
    return text if isinstance(value, (bool, int, float)) else value


def _several(override: Override, *, takes_list: bool | None) -> str:
    """Report values separated by commas, which Hydra sweeps over."""
    text, values = override.input_line, (override.input_line or "").partition("=")[2]
    as_list = f"{override.key_or_group}=[{values}]"
    if takes_list:
        return f"{text}: give a list, {as_list}"
    hint = f"; a list is typed {as_list}" if takes_list is None else ""
    return f"{text!r}: several values need a sweep: add -m{hint}"


def _takes_list(config: DictConfig, key: str) -> bool | None:
    """Return whether a key holds a list, by its value or its argument's annotation; None where neither tells."""
    parent, _, last = key.rpartition(".")
    if OmegaConf.is_list(OmegaConf.select(config, key)) or key in _LISTS:
        return True
    if not is_known(config, key):
        return None
    node = OmegaConf.select(config, parent) if parent else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    hint = OWN.get(key, Any)
    if target is not None:
        with suppress(ImportError, AttributeError, ValueError):  # reported where the config is checked
            hint = hints_of(callable_at(str(target))).get(last, Any)
    return hint is not Any and fits([], hint)


def split_typed(overrides: Sequence[Override], names: Sequence[str], base: DictConfig) -> list[Typed]:
    """Return what was typed, each with the stage that it names. Raises ConfigError for sweeps and deletions."""
    typed: list[Typed] = []
    problems: list[str] = []
    for override in overrides:
        text = override.input_line or override.key_or_group
        head, _, rest = override.key_or_group.partition(".")
        stage, key = (head, rest) if head in names and rest else (None, override.key_or_group)
        if override.is_sweep_override():
            problems.append(_several(override, takes_list=_takes_list(base, key)))
            continue
        if override.is_delete():
            problems.append(f"{text!r}: nothing can be deleted; set {override.key_or_group}=null")
            continue
        value = override.value()
        if isinstance(value, str):  # task.optimizer=adamw
            key = next((group for group, node in NODES.items() if node == key), key)
        if key in groups():
            value = as_typed(override)
        typed.append(Typed(stage, key, value, text, _choice(key, override, value)))
    if problems:
        raise ConfigError(problems)
    return typed


def _choice(group: str, override: Override, value: Any) -> str:
    sign = "+" if (override.input_line or "").startswith("+") and group not in NESTED else ""
    text = (override.input_line or "").partition("=")[2]
    if isinstance(value, str) and not isinstance(override.value(), str):
        text = f"'{value}'"  # as a string: 1e3
    return f"{sign}{NESTED.get(group, group)}={text}"


def is_choice(key: str, value: Any, group_names: Sequence[str]) -> bool:
    """Return whether a typed key chooses an option of a config group."""
    return key in group_names and isinstance(value, (str, list))


def stands_below(key: str, nodes: Iterable[str]) -> bool:
    """Return whether a key stands in or below one of these nodes; the optimizer is chosen apart from its task."""
    place = NODES.get(key, key)
    apart = place == "task.optimizer" or place.startswith("task.optimizer.")
    return any(place == n or (place.startswith(f"{n}.") and not (apart and n == "task")) for n in nodes)


def in_order(typed: Sequence[Typed]) -> list[Typed]:
    """Mappings typed whole first, the outermost before those inside it: they would replace single keys typed before."""
    return sorted(typed, key=lambda t: t.key.count(".") if isinstance(t.value, Mapping) else 99)


def pick(overrides: list[Override], key: str, problems: list[str]) -> Any:
    """Take the last value typed for a key of the run as a whole, and remove it from the list."""
    value = None
    for override in [o for o in overrides if o.key_or_group == key]:
        overrides.remove(override)
        if override.is_sweep_override():
            problems.append(_several(override, takes_list=key in _LISTS))
        else:
            value = as_typed(override)
    return value
