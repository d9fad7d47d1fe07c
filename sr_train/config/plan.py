"""Compose and check the configs of all stages of a run before the first one starts.

A later source of values wins: config groups, then the experiment, then the stage, then the command line. The entries of
a stage in an experiment file have the syntax of the command line. On the command line, ``STAGE.KEY=V`` sets a key of
one stage, and ``KEY=V`` sets the key in every stage that has it. Hydra refuses unknown keys on the command line only;
therefore the composed configs are checked here against the signatures of the constructors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sr_train.config.check import check_config, check_values, hint_at, is_known, known_names
from sr_train.config.compose import compose_config, parse, shorten, top_keys
from sr_train.config.degrade_part import check_degrade, with_named
from sr_train.config.derived import check_derived, check_losses, check_weight
from sr_train.config.folders import check_choice, foreign_hint, groups, near, none_chosen, then
from sr_train.config.init_check import check_inits
from sr_train.config.overrides import NESTED, Typed, as_typed, lacks, pick, split_typed
from sr_train.config.paths import kind_of
from sr_train.config.stage_config import Composed, stage_config
from sr_train.console import ConfigError

#: groups that cannot be null
_NEEDED = ("model", "task", "loss", "curve", "data", "degrade", "trainer", "paths", *NESTED)


@dataclass(frozen=True)
class Stage:
    """One stage of a plan. ``config`` contains plain values, is resolved, and is never changed."""

    name: str
    config: Mapping[str, Any]

    @property
    def scales(self) -> list[int]:
        """Scales of the network: one, or several for MDSR."""
        return list(self.config["scales"] or [self.config["scale"]])

    @property
    def folder(self) -> Path:
        """Folder that all files of the stage are written to."""
        return Path(self.config["folder"])


def with_trainer(stage: Stage, **resolved: Any) -> Stage:
    """Return a stage with other values for keys of ``trainer``."""
    return dataclasses.replace(stage, config={**stage.config, "trainer": {**stage.config["trainer"], **resolved}})


@dataclass(frozen=True)
class Plan:
    """All stages of a run. ``selected`` contains the names of the stages to run now."""

    name: str
    stages: tuple[Stage, ...]
    selected: tuple[str, ...]
    notes: tuple[str, ...] = ()  #: messages for the user: values of the recipe that the command line replaced

    @property
    def folder(self) -> Path:
        """The run's folder, which contains a folder for each stage."""
        return self.stages[0].folder.parent


def _check_choices(overrides: Sequence[Override]) -> list[str]:
    """Return a problem for each option of a config group that does not exist, with similar names."""
    problems = []
    for override in overrides:
        group = override.key_or_group.rpartition(".")[2]
        if kind_of("train", override.key_or_group) is not None:  # paths.data
            continue
        if group in groups() and override.key_or_group.count(".") < 2 and not override.is_sweep_override():
            value = as_typed(override)
            names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            if value is None and group in _NEEDED:
                problems.append(none_chosen(group))
            if all(isinstance(n, str) for n in names):
                problems += check_choice(group, names)
    return problems


def _run_name(typed: Any, base: DictConfig, experiment: str | None) -> str:
    """Return the run's name. Raise ConfigError unless it can be a folder below ``paths.runs``."""
    value = typed if typed is not None else base.get("name")
    name = str(value or experiment or "run")
    if not isinstance(value, (str, int, type(None))) or isinstance(value, bool):
        raise ConfigError([f"name={value}: expected a string, e.g. name=wide; put a number in a YAML file in quotes"])
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ConfigError(
            [f"name={name}: expected the name of a folder below {base.paths.runs}, e.g. name=wide or name=sweep/wide"]
        )
    return name


def _named_stages(stages: Any) -> dict[str, Any]:
    """Return the entries of a recipe's stages by name. Raise ConfigError for names and entries of a wrong type."""
    if not isinstance(stages, dict) or not all(isinstance(v, dict | None) for v in stages.values()):
        raise ConfigError([f"stages={stages}: expected {{NAME: {{KEY: VALUE}}}}"])
    numbers = [
        f"stages: YAML reads the name {n!r} as a {type(n).__name__}" for n in stages if isinstance(n, (bool, float))
    ]
    if numbers:
        raise ConfigError(
            [f"{problem}, not as a string: put it in quotes, or choose another name" for problem in numbers]
        )
    return {str(name): entries or {} for name, entries in stages.items()}


def _select(selection: Any, names: Sequence[str]) -> list[str]:
    """Return the names of the stages that ``stage=`` selects. Raise ConfigError for unknown names."""
    if selection is None:
        return list(names)
    selected = [str(s) for s in (selection if isinstance(selection, list) else [selection])]
    problems = [
        f"stage={s}: there is no such stage; stages are {', '.join(names)}{near(s, names)}"
        for s in selected
        if s not in names
    ]
    if problems:
        raise ConfigError(problems)
    return selected


def plan(arguments: Sequence[str]) -> Plan:
    """Compose all stages of a command line. If there are problems, raise one ConfigError that lists all of them."""
    overrides = parse(arguments)
    wrong: list[str] = []
    experiment, run_name, selection, given = (
        pick(overrides, key, wrong) for key in ("experiment", "name", "stage", "stages")
    )
    wrong += _check_choices(overrides)
    if experiment is not None:
        wrong += check_choice("experiment", [str(experiment)])
    if wrong:
        raise ConfigError(wrong)
    chosen = [] if experiment is None else [f"experiment='{str(experiment).replace(chr(39), chr(92) + chr(39))}'"]
    base = compose_config("train", chosen)
    if "experiment" in base:  # without @package _global_, the file's keys are below this key
        raise ConfigError(
            [f"experiment={experiment}: its YAML needs the first line '# @package _global_', and keys below it"]
        )
    stages = _named_stages(given or (OmegaConf.to_container(base.stages) if base.stages else {"main": {}}))
    names = list(stages)
    selected = _select(selection, names)
    run_name = _run_name(run_name, base, experiment)
    typed = split_typed(overrides, names, base)
    problems = _check_shared(typed, selected, names)
    composed: dict[str, Composed] = {}
    for name in names:
        try:
            composed[name] = stage_config(name, run_name, chosen, stages[name], typed, recipe=given is None)
        except ConfigError as error:
            problems += error.problems
            continue
    built = [stage for name in composed for stage in _checked(name, composed[name].config, problems)]
    problems += check_inits({s.name: s.config for s in built}, names)
    for stage in built:
        found = [check_weight(t.text, t.key, stage.name, stage.config) for t in typed if t.stage in (None, stage.name)]
        problems += [problem for problem in found if problem is not None]
    losses = {t.stage or name: str(t.value) for t in typed if t.key == "loss" for name in names}
    problems += check_losses({stage.name: stage.config for stage in built if stage.name in selected}, losses)
    if len(composed) == len(names):
        problems += _check_reached(typed, composed, selected)
    if problems:
        raise ConfigError(problems)
    notes = [note for name in selected for note in composed[name].notes]
    return Plan(run_name, tuple(built), tuple(selected), tuple(notes))


def _checked(name: str, config: DictConfig, problems: list[str]) -> list[Stage]:
    """Check the config of one stage, replace its ``${KEY}``, and append all problems to ``problems``.

    Return a list with the stage, or an empty list if a key is wrong.
    """
    found = check_config(config, top_keys(), f"stage {name}")
    problems += found
    if found:
        return []
    resolved = with_named(_resolved(config, name, problems), f"stage {name}", problems)
    problems += check_values(resolved, f"stage {name}")
    problems += _check_scales(resolved, f"stage {name}")
    problems += check_derived(resolved, f"stage {name}")
    problems += check_degrade(resolved, f"stage {name}", known_names(config, "data._"))
    return [Stage(name, resolved)]


def _check_shared(typed: Sequence[Typed], selected: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a problem for each argument ``KEY=VALUE`` whose key needs another value in each stage (scale, init, ...).

    Such an argument is only allowed as ``STAGE.KEY=VALUE``, or if one stage is selected.
    """
    if len(selected) < 2:
        return []
    return [
        f"{t.text}: would set this key in {len(selected)} stages, but each stage needs its own value; "
        f"give {names[-1]}.{t.text}, or select a stage: stage={names[-1]}"
        for t in typed
        if t.stage is None and (t.key in ("scale", "scales") or t.key.startswith("init."))
    ]


def _check_reached(typed: Sequence[Typed], composed: Mapping[str, Composed], selected: Sequence[str]) -> list[str]:
    """Return a problem for each argument whose key exists in no stage.

    Also return a problem for ``discriminator=`` and ``adversarial=`` if the task or loss of a selected stage has none.
    """
    problems = []
    for t in typed:
        having = [name for name, stage in composed.items() if t.text in stage.reached]
        lacking = [name for name in ([t.stage] if t.stage else selected) if name not in having]
        if t.key in NESTED and lacking:
            advice = f": give {having[0]}.{t.text}" if having else ""
            problems.append(f"{t.text}: {lacks(t.key, lacking[0], composed[lacking[0]].config, advice)}")
        elif not having:
            problems.append(f"{t.text}: {_unknown(t, composed)}")
    return problems


def _check_scales(config: Mapping[str, Any], where: str) -> list[str]:
    """Return a problem unless exactly one of ``scale`` and ``scales`` is given."""
    scale, scales = config.get("scale"), config.get("scales")
    if scale is None and not scales:
        return [
            f"{where}: scale=null, scales={scales}: give scale=4, or for a network of several scales (mdsr) scales=[2,3,4]"
        ]
    if scale is not None and scales is not None:
        return [
            f"{where}: scale={scale} and scales={scales}: a network has one or the other; for MDSR give scales=[{scale}] with "
            "scale=null, for other networks scales=null"
        ]
    return []


def _resolved(config: DictConfig, name: str, problems: list[str]) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        problems.append(f"stage {name}: {shorten(str(error))}")
        return {}
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _known_depth(config: DictConfig, parts: Sequence[str]) -> int:
    """Return the number of leading parts of a dotted key that exist in a config."""
    return next((i for i in range(len(parts)) if not is_known(config, ".".join(parts[: i + 1]))), len(parts))


def _unknown(typed: Typed, composed: Mapping[str, Composed]) -> str:
    """Return the message for an unknown key: its unknown part, similar names and the existing keys."""
    if typed.key in composed:
        return f"is a stage; give its keys as {typed.key}.KEY=VALUE"
    configs = [composed[typed.stage].config] if typed.stage else [stage.config for stage in composed.values()]
    parts = typed.key.split(".")
    depth = min(max(_known_depth(c, parts) for c in configs), len(parts) - 1)
    wrong, leaf = ".".join(parts[: depth + 1]), depth == len(parts) - 1
    lists = [known_names(c, wrong) or [] for c in configs if _known_depth(c, parts) == depth]
    names = [n for n in dict.fromkeys(n for found in lists for n in found) if not n.startswith("_")]
    shown = names and (depth or leaf) and not foreign_hint(typed.key)
    keys = f"keys are {', '.join(sorted(names)[:30])}" if shown else ""
    if typed.stage and wrong in ("loss.weights", "loss.terms"):
        loss = str(configs[0].loss.get("_target_", "null")).rpartition(".")[2]
        return f"the loss of stage {typed.stage} is {loss}, one term; a sum of terms with weights is {typed.stage}.loss=content"
    if typed.stage:
        before = ".".join([typed.stage, *parts[:depth], ""])
        subject, hint = f"stage {typed.stage} has no {wrong!r}", hint_at(typed.key, names, parts[depth], before)
    elif leaf:
        subject, hint = "no stage has this key", hint_at(typed.key, names, parts[depth])
    else:
        names = names if depth else [*names, *composed]
        before = ".".join([*parts[:depth], ""]).lstrip(".")
        subject, hint = f"no stage has {wrong!r}", hint_at(typed.key, names, parts[depth], before)
    return f"{subject}{then(hint, keys) if keys else hint}"
