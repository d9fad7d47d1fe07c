"""Compose the config of one stage.

A later source of values wins: config groups, then the experiment, then the stage's entries, then the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict

from sr_train.config.check import hint_at, is_known, known_names, signature
from sr_train.config.compose import chosen_options, compose_config
from sr_train.config.folders import conf_folders, groups
from sr_train.config.overrides import NESTED, NODES, OUTER, TRAINED, Typed, in_order, is_choice, stands_below
from sr_train.console import ConfigError

_WHOLE = ("task.rate_scale",)  # mappings whose keys are globs, which may contain dots

_BLOCKS = ("validate", "checkpoint", "record", "init", "paths")  # blocks of conf/train.yaml that need all of their keys


def _flatten(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of a stage as (dotted key, value)."""
    for key, value in entries.items():
        whole = f"{prefix}{key}" in _WHOLE
        if isinstance(value, Mapping) and value and "_target_" not in value and not whole:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_OF_OPTIMIZER = "task.discriminator_optimizer"  # options of one optimizer, which another one does not have


def _replaced(
    experiment: Sequence[str], own: Mapping[str, Any], picks: Sequence[Typed]
) -> tuple[dict[str, str], list[Typed]]:
    """Return which options of config groups the command line replaces in a stage.

    The first result is {group: option in the recipe} for each group whose option is replaced. The second result
    contains the options from the command line that this stage uses. A stage whose task has no discriminator does not
    use ``discriminator=``, and a stage whose loss has no adversarial term does not use ``adversarial=``.
    """
    if not any(t.key in TRAINED for t in picks):
        return {}, list(picks)
    recipe = chosen_options([*experiment, *(f"{NESTED.get(k, k)}={v}" for k, v in own.items())])
    outer = {t.key: t for t in picks if t.key in OUTER.values() and t.value != recipe.get(t.key)}
    if outer:
        kept = [f"{k}={v}" for k, v in own.items() if k not in NESTED and k not in outer]
        known = chosen_options([*experiment, *kept, *(t.choice for t in outer.values())])
    else:
        known = recipe
    placed = [t for t in picks if t.key not in NESTED or NESTED[t.key] in known]
    last = {t.key: t.value for t in placed if t.key in TRAINED}
    old = {group: str(recipe.get(NESTED.get(group, group), "none")) for group in last}
    return {group: old[group] for group, value in last.items() if value != old[group]}, placed


def _renew(config: DictConfig, groups_: Iterable[str], choices: Sequence[str], experiment: Sequence[str]) -> list[str]:
    """Replace the config of each config group in ``groups_`` by the YAML file of its newly chosen option.

    Values that the experiment had set in these groups are dropped. Return the dropped values as KEY=VALUE.
    """
    dropped: list[str] = []
    found = chosen_options([*experiment, *choices])
    wanted = [NESTED.get(group, group) for group in TRAINED]
    fresh = compose_config("train", [f"{key}={found[key]}" for key in wanted if found.get(key) is not None])
    for node in (NODES.get(group, group) for group in groups_):
        old, new = (dict(_leaves(OmegaConf.select(c, node), node)) for c in (config, fresh))
        mine = {key: value for key, value in old.items() if stands_below(key, [node])}
        dropped += [f"{key}={value}" for key, value in mine.items() if new.get(key) != value]
        optimizer = config.task.optimizer
        OmegaConf.update(config, node, OmegaConf.select(fresh, node), merge=False)
        if node == "task":
            config.task.optimizer = optimizer
    if "optimizer" in groups_ and (given := OmegaConf.select(config, _OF_OPTIMIZER)) is not None:
        dropped += [f"{_OF_OPTIMIZER}={json.dumps(OmegaConf.to_container(given))}"]
        OmegaConf.update(config, _OF_OPTIMIZER, None, merge=False)
    return dropped


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of a node and their unresolved values, as typed on a command line."""
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if isinstance(plain, Mapping) and plain:
        for key, value in plain.items():
            yield from _leaves(value, f"{prefix}.{key}")
    else:
        yield prefix, plain if isinstance(plain, str) else json.dumps(plain, default=str)


def _replacement(config: DictConfig, t: Typed) -> Any:
    """Return the new value of a key that was given a mapping.

    Raise ConfigError for a mapping without ``_target_`` if the key describes an object.
    """
    there = OmegaConf.select(config, t.key, throw_on_missing=False)
    if "_target_" in t.value or not isinstance(there, DictConfig):
        return t.value
    if "_target_" in there:
        prefix = t.text.partition("=")[0].lstrip("+")
        keys = " ".join(f"{prefix}.{key}={value}" for key, value in t.value.items()) or f"{prefix}.KEY=VALUE"
        raise ConfigError(
            [f"{t.text}: a mapping replaces all of {t.key}, so it needs a _target_; to set single keys, give {keys}"]
        )
    if t.key == "loss.weights":  # ready terms that are not used keep their null
        return {**{str(name): None for name, weight in there.items() if weight is None}, **t.value}
    defaults = compose_config("train", []) if t.key in _BLOCKS else {}
    return {**defaults.get(t.key, {}), **t.value}


class Composed(NamedTuple):
    """The unresolved config of one stage."""

    config: DictConfig
    reached: set[str]  #: arguments of the command line that were applied, as typed
    notes: list[str]


def stage_config(
    name: str,
    run_name: str,
    experiment: Sequence[str],
    entries: Mapping[str, Any],
    typed: Sequence[Typed],
    *,
    recipe: bool,
) -> Composed:
    """Compose one stage. If there are problems, raise one ConfigError that lists all of them.

    ``recipe`` is true if ``entries`` come from an experiment file. Entries for keys of a config group are then dropped
    if the user chose another option of this group. Entries from the command line (``stages={...}``) are always kept.
    """
    group_names = groups()
    mine = [t for t in typed if t.stage in (None, name)]
    own = list(_flatten(entries))
    picks = [t for t in mine if is_choice(t.key, t.value, group_names)]
    replaced, picks = _replaced(experiment, {k: v for k, v in own if is_choice(k, v, group_names)}, picks)
    nodes = [NODES.get(group, group) for group in replaced]
    nodes += [_OF_OPTIMIZER] if "optimizer" in replaced else []
    dropped = [(k, v) for k, v in own if k in replaced or (recipe and stands_below(k, nodes))]
    own = [entry for entry in own if entry not in dropped]
    choices = [f"{NESTED.get(k, k)}={v}" for k, v in own if is_choice(k, v, group_names)] + [t.choice for t in picks]
    config = compose_config("train", [*experiment, *choices])
    notes: list[str] = []
    with open_dict(config):
        config.name, config.stage, config.stages = run_name, name, None
        for group in ("sets", "logger", "callbacks"):  # without an option, the group has no node
            if group not in config:
                config[group] = {}
        if replaced:
            gone = [f"{k}={v}" for k, v in dropped if k not in replaced]
            gone += _renew(config, replaced, choices, experiment)
            what = ", ".join(f"{group}={_chosen(picks, group)} instead of {old}" for group, old in replaced.items())
            if gone:
                notes.append(f"stage {name}: {what}; these settings of the recipe are not used: {', '.join(gone)}")
            rate = dict(own).get("task.rate")
            if "optimizer" in replaced and rate is not None and not any(t.key == "task.rate" for t in mine):
                notes.append(f"stage {name}: task.rate={rate:g} was chosen for the optimizer {replaced['optimizer']}")
        _set_own(config, name, [(k, v) for k, v in own if not is_choice(k, v, group_names)])
        reached = {t.text for t in picks} | _set_typed(
            config, [t for t in mine if not is_choice(t.key, t.value, group_names)]
        )
        _drop_channels(config)
        problems = _name_parts(config, f"stage {name}")
    for key, value in [*own, *((t.key, t.value) for t in picks)]:
        if key in _PARTS and isinstance(value, list):
            problems += _check_tops(key, [str(v) for v in value])
    if problems:
        raise ConfigError(problems)
    return Composed(config, reached, notes)


def _chosen(picks: Sequence[Typed], group: str) -> str:
    return next(str(t.value) for t in reversed(picks) if t.key == group)


def _set_own(config: DictConfig, name: str, entries: Sequence[tuple[str, Any]]) -> None:
    """Set the entries of a stage. Raise ConfigError that lists the unknown keys, if there are any."""
    problems: list[str] = []
    for key, value in entries:
        if not is_known(config, key):
            problems.append(f"stage {name}: unknown key {key!r}{hint_at(key, known_names(config, key) or [])}")
        OmegaConf.update(config, key, value, merge=not isinstance(value, Mapping), force_add=True)
    if problems:
        raise ConfigError(problems)


def _set_typed(config: DictConfig, typed: Sequence[Typed]) -> set[str]:
    """Set the keys of the command line that exist in the stage. Return the texts of the arguments that were used."""
    if any(t.key == "init.weights" for t in typed):  # replaces the recipe's init.stage
        config.init.stage = None
    reached = set()
    for t in in_order(typed):
        if is_known(config, t.key):
            value = _replacement(config, t) if isinstance(t.value, Mapping) else t.value
            OmegaConf.update(config, t.key, value, merge=False, force_add=True)
            reached.add(t.text)
    return reached


def _drop_channels(config: DictConfig) -> None:
    """Remove ``image_channels: ${channels}`` of a YAML file if ``_target_`` was replaced by a class without this argument."""
    for node in (OmegaConf.select(config, key) for key in ("model", "task.discriminator")):
        if not isinstance(node, DictConfig) or "image_channels" not in node:
            continue
        entries = OmegaConf.to_container(node, resolve=False)
        try:
            known = signature(str(node.get("_target_")))
        except (ImportError, AttributeError, ValueError):
            continue  # check_config reports it
        untouched = isinstance(entries, dict) and entries["image_channels"] == "${channels}"
        if untouched and known is not None and "image_channels" not in known:
            del node["image_channels"]


_PARTS = ("logger", "callbacks")  # groups that contain any number of named objects


def _name_parts(config: DictConfig, where: str) -> list[str]:
    """Name the loggers and callbacks of ``config`` in place, and return messages for entries that cannot be used.

    ``callbacks: {_target_: pkg.Timer, every: 5}`` becomes ``callbacks: {Timer: {_target_: pkg.Timer, every: 5}}``. Entries that
    already have a name and a ``_target_`` are kept.
    """
    problems = []
    for group in _PARTS:
        node = config[group]
        if node is None:
            continue
        if "_target_" in node:
            try:
                known = signature(str(node["_target_"]))
            except (ImportError, AttributeError, ValueError):
                continue  # check_config reports it
            entries = OmegaConf.to_container(node)
            assert isinstance(entries, dict)
            named = {
                k: v for k, v in entries.items() if isinstance(v, dict) and "_target_" in v and k not in (known or ())
            }
            stray = [
                k for k in entries if known is not None and k not in (*named, *known) and not str(k).startswith("_")
            ]
            problems += [
                f"{where}: {group}.{k}: is not an argument of {node['_target_']}; of the chosen files of {group}, only one may "
                "have _target_ as a top-level key; in the other files, write NAME: {_target_: ...}"
                for k in stray
            ]
            own = {k: v for k, v in entries.items() if k not in named}
            config[group] = {**named, str(node["_target_"]).rpartition(".")[2]: own}
        else:
            problems += [
                f"{where}: {group}.{k}={json.dumps(v, default=str)}: expected {{_target_: PACKAGE.CLASS, ...}}, or null"
                for k, v in node.items()
                if v is not None and not (isinstance(v, DictConfig) and (not v or "_target_" in v))
            ]
    return problems


def _check_tops(group: str, names: Sequence[str]) -> list[str]:
    """Return a problem if two chosen files have ``_target_`` as a top-level key: Hydra would merge the two objects."""
    files = [folder / group / f"{name}.yaml" for name in names for folder in conf_folders()]
    tops = [
        f.stem for f in files if f.is_file() and re.search(r"^_target_:", f.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    if len(tops) < 2:
        return []
    return [
        f"{group}=[{','.join(names)}]: {' and '.join(tops)} have _target_ as a top-level key, so one object would replace "
        "the other; in each file, write NAME: {_target_: ...}"
    ]
