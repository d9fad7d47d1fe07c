"""Parsed KEY=VALUE arguments: the stage and key of each, and the chosen options of config groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from sr_train.config.check import OWN, callable_at, is_known
from sr_train.config.folders import groups
from sr_train.config.paths import kind_of, unquoted
from sr_train.config.type_hints import fits, hints_of
from sr_train.console import ConfigError, for_shell

NESTED = {  # groups that the file of another group chooses -> Hydra's name
    "discriminator": "discriminator@task.discriminator",
    "adversarial": "adversarial@loss.adversarial",
}

OUTER = {"discriminator": "task", "adversarial": "loss"}  # groups of NESTED -> the group whose file chooses them

NODES = {  # groups inside another's node
    "discriminator": "task.discriminator",
    "optimizer": "task.optimizer",
    "adversarial": "loss.adversarial",
}

# groups that define all keys of their node
TRAINED = ("model", "task", "optimizer", "discriminator", "loss", "adversarial", "curve", "degrade")

_LISTS = ("stage", "sets", "logger")  # keys that take a list of names


@dataclass(frozen=True)
class Typed:
    """One argument of the command line. ``stage`` is None if it is for all stages."""

    stage: str | None
    key: str
    value: Any
    text: str  #: as typed
    choice: str = ""  #: for an option of a config group: the override in Hydra's syntax


def as_typed(override: Override) -> Any:
    """Return the value of a key whose value is a name, e.g. ``name`` or ``stage``, or a list of names.

    A name that looks like a number or a boolean stays a string, as typed: ``name=007`` returns "007".
    """
    value, text = override.value(), (override.input_line or "").partition("=")[2].strip()
    if isinstance(value, list):
        items = [item.strip() for item in text[1:-1].split(",")]
        if len(items) == len(value):
            return [v if isinstance(v, str) else item for v, item in zip(value, items, strict=True)]
    return text if isinstance(value, (bool, int, float)) else value


def _several(override: Override, *, takes_list: bool | None) -> str:
    """Return the message for an argument with several values separated by commas, which only a sweep may have."""
    text, values = override.input_line, (override.input_line or "").partition("=")[2]
    as_list = f"{override.key_or_group}=[{values}]"
    if takes_list:
        return f"{text}: give a list, {as_list}"
    hint = f"; for a list, give {as_list}" if takes_list is None else ""
    return f"{text!r}: several values need a sweep: add -m{hint}"


def _takes_list(config: DictConfig, key: str) -> bool | None:
    """Return true if a key takes a list, according to its default value or its type hint.

    Return None if the type of the key is unknown.
    """
    parent, _, last = key.rpartition(".")
    if OmegaConf.is_list(OmegaConf.select(config, key)) or key in _LISTS:
        return True
    if not is_known(config, key):
        return None
    node = OmegaConf.select(config, parent) if parent else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    hint = OWN.get(key, Any)
    if target is not None:
        with suppress(ImportError, AttributeError, ValueError):  # check_config reports it
            hint = hints_of(callable_at(str(target))).get(last, Any)
    return hint is not Any and fits([], hint)


def split_typed(overrides: Sequence[Override], names: Sequence[str], base: DictConfig) -> list[Typed]:
    """Return the arguments, each with the stage that its key begins with, if any.

    Raise ConfigError for sweeps (several values) and deletions of keys.
    """
    typed: list[Typed] = []
    problems: list[str] = []
    for override in overrides:
        text = override.input_line or override.key_or_group
        if kind_of("train", override.key_or_group) is not None:
            text = for_shell(unquoted("train", text))
        head, _, rest = override.key_or_group.partition(".")
        stage, key = (head, rest) if head in names and rest else (None, override.key_or_group)
        if override.is_sweep_override():
            problems.append(_several(override, takes_list=_takes_list(base, key)))
            continue
        if override.is_delete():
            problems.append(f"{text!r}: keys cannot be deleted; give {override.key_or_group}=null")
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
        text = f"'{value}'"  # quoted, so that 1e3 stays a string
    return f"{sign}{NESTED.get(group, group)}={text}"


def is_choice(key: str, value: Any, group_names: Sequence[str]) -> bool:
    """Return true if a typed key chooses an option of a config group."""
    return key in group_names and isinstance(value, (str, list))


def stands_below(key: str, nodes: Iterable[str]) -> bool:
    """Return true if ``key`` is one of the config nodes ``nodes``, or is below one of them.

    Keys of task.optimizer do not count as below ``task``, because the optimizer has its own config group.
    """
    place = NODES.get(key, key)
    apart = place == "task.optimizer" or place.startswith("task.optimizer.")
    return any(place == n or (place.startswith(f"{n}.") and not (apart and n == "task")) for n in nodes)


def lacks(group: str, stage: str, config: DictConfig, advice: str) -> str:
    """Return why a stage cannot use an option of a group of ``NESTED``. ``advice`` follows if it has no such object."""
    outer, node = OUTER[group], NODES[group]
    found = str(config[outer].get("_target_", "null")).rpartition(".")[2]
    if OmegaConf.select(config, node) is None:
        return f"the {outer} of stage {stage} is {found}, which has no {group}{advice}"
    return (
        f"the file of the {outer} of stage {stage} ({found}) contains its {group}; give {stage}.{node}={{_target_: CLASS}}, "
        f"or add /{group}: NAME to the defaults of the file"
    )


def in_order(typed: Sequence[Typed]) -> list[Typed]:
    """Sort the arguments so that one with a mapping comes before the keys that the mapping contains.

    A mapping replaces all keys below its own key, so a later argument would otherwise be lost.
    """
    return sorted(typed, key=lambda t: t.key.count(".") if isinstance(t.value, Mapping) else 99)


def pick(overrides: list[Override], key: str, problems: list[str]) -> Any:
    """Remove all arguments for a key of the whole run (e.g. ``name``) from ``overrides``.

    Return the last of their values.
    """
    value = None
    for override in [o for o in overrides if o.key_or_group == key]:
        overrides.remove(override)
        if override.is_sweep_override():
            problems.append(_several(override, takes_list=key in _LISTS))
        else:
            value = as_typed(override)
    return value
