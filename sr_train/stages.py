"""A run is a list of stages: how a command line becomes the configs of all of them, before the first one starts.

Precedence: groups < experiment < stage < typed. A stage's entries in an experiment file are overrides, as they would be
typed; typed, ``STAGE.KEY=V`` reaches one stage and a bare ``KEY=V`` every stage that has the key. Hydra refuses unknown
keys on the command line only, so what was composed is checked here against the constructors' signatures.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from sr_train.configs import conf_folders, groups, near, options_of, ours, search_path
from sr_train.typecheck import fits, hints_of, name_of

CONF = "sr_train.conf"
_OPEN = ("sets", "callbacks", "data.train", "data.val")  # a user's own names stand below these
_WHOLE = ("task.rate_scale",)  # mappings whose keys are globs, with dots of their own
_OURS = {  # arguments of Lightning's Trainer that sr-train gives itself: typed, they would be ignored
    "callbacks", "logger", "default_root_dir", "max_epochs", "min_epochs", "use_distributed_sampler", "num_sanity_val_steps",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "val_check_interval",
    "check_val_every_n_epoch", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "fast_dev_run", "overfit_batches", "barebones", "min_steps", "reload_dataloaders_every_n_epochs",
    "enable_autolog_hparams", "inference_mode", "model_registry",
}  # fmt: skip
_NESTED = {
    "discriminator": "discriminator@task.discriminator"
}  # groups that a task's file chooses, as Hydra calls them
_NODES = {"discriminator": "task.discriminator", "optimizer": "task.optimizer"}  # groups below another's node
_TRAINED = (
    "model",
    "task",
    "optimizer",
    "discriminator",
    "loss",
    "curve",
)  # groups that bring all of their node's keys
_LISTS = ("stage", "sets", "logger")  # keys of the command line that take several names
_BLOCKS = ("validate", "checkpoint", "record", "init", "paths")  # of conf/train.yaml: all of their keys are needed
_GIVEN = {"model", "loss", "curve"}  # arguments of a task that are groups of their own


class ConfigError(ValueError):
    """Everything that is wrong with a command line and the files it composes, at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Stage:
    """One training run of a plan; ``config`` is plain and resolved."""

    name: str
    config: dict[str, Any]

    @property
    def scales(self) -> list[int]:
        """What is trained: one scale, or those of a network of several."""
        return list(self.config["scales"] or [self.config["scale"]])

    @property
    def folder(self) -> Path:
        """Where everything of this stage is written."""
        return Path(self.config["folder"])


@dataclass(frozen=True)
class Plan:
    """All stages of a run, those to be run now being ``selected``."""

    name: str
    stages: tuple[Stage, ...]
    selected: tuple[str, ...]
    notes: tuple[str, ...] = ()  #: what the command line replaced in the recipe, for the user

    @property
    def folder(self) -> Path:
        """The run's folder, which holds one folder a stage."""
        return self.stages[0].folder.parent


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/NAME.yaml``; Hydra's errors become a ConfigError."""
    return _compose(name, overrides, hydra=False)


@cache
def _top_keys() -> list[str]:
    """Keys of ``conf/train.yaml`` with its groups: the same whatever a user adds."""
    return [str(k) for k in compose_config("train", [])]


def _options(overrides: Sequence[str]) -> dict[str, Any]:
    """The option of each config group of ``conf/train.yaml``, groups named as Hydra names them."""
    return dict(_compose("train", overrides, hydra=True).hydra.runtime.choices)


def _compose(name: str, overrides: Sequence[str], *, hydra: bool) -> DictConfig:
    running = GlobalHydra.instance().hydra  # a sweep's own Hydra, which composes no stages
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module(CONF, version_base="1.3"):
            return compose(name, overrides=[*search_path(), *overrides], return_hydra_config=hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([_shorten(str(error))]) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = "a YAML file" if mark is None else f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError([f"{where}: cannot be read as YAML: {error.problem or error.context}"]) from None
    finally:
        GlobalHydra.instance().clear()
        if running is not None:
            GlobalHydra.instance().initialize(running)


def _shorten(message: str) -> str:
    """The lines of a Hydra error that help."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("Config search path", "provider=", "full_key", "object_type"))
    )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse command-line overrides by Hydra's grammar."""
    parsed, problems = [], []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            problems.append(f"{text!r}: not KEY=VALUE ({_shorten(str(error))})")
    if problems:
        raise ConfigError(problems)
    return parsed


def _flatten(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A stage's entries as (dotted key, value)."""
    for key, value in entries.items():
        whole = f"{prefix}{key}" in _WHOLE
        if isinstance(value, Mapping) and value and "_target_" not in value and not whole:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _callable(target: str) -> Callable[..., Any]:
    """What a dotted path names."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def _signature(target: str) -> Mapping[str, inspect.Parameter] | None:
    """Parameters of the callable at a dotted path; None where it takes any."""
    parameters = inspect.signature(_callable(target)).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    if target == "lightning.Trainer":
        return {name: p for name, p in parameters.items() if name not in _OURS}
    return parameters


def known_names(config: DictConfig, key: str) -> list[str] | None:
    """Names that may stand beside ``key``'s last part; None where any may."""
    parent, _, _ = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if any(parent == o or parent.startswith(f"{o}.") for o in _OPEN):
        return None
    if not isinstance(node, DictConfig):
        return []
    names = [str(k) for k in node]
    if "_target_" in node:
        parameters = _signature(str(node["_target_"]))
        return None if parameters is None else list(dict.fromkeys([*names, *parameters]))
    return names


def _known(config: DictConfig, key: str) -> bool:
    names = known_names(config, key)
    return names is None or key.rpartition(".")[2] in names


_OWN = {  # keys of conf/train.yaml that no constructor checks
    "check": bool,
    "profile": bool,
    "profile_steps": int,
    "scale": int | None,
    "scales": list[int] | None,
    "seed": int,
    "init.stage": str | None,
    "init.weights": str | None,
    "init.skip": list[str],
    "init.grow": list[str],
    "resume": Literal["auto", "force", "never"],
    "validate.every": int,
    "validate.protocols": list[str],
    "validate.metrics": list[str],
    "validate.lpips": str | None,
    "validate.best": str | None,
    "validate.pictures": int,
    "validate.crop": int,
    "checkpoint.every": int,
    "checkpoint.keep": int,
    "record.every": int,
}
_UNCHECKED = {"trainer.precision"}  # "auto" is ours


def _expected(key: str, value: Any, hint: Any) -> str:
    """Say what was expected, with an example of the mappings that data is made of."""
    if key == "data.train":
        source = {"hr": value} if isinstance(value, str) else {"hr": "DIR"}
        source = value if isinstance(value, Mapping) else source
        example = ", ".join(f"{k}: {v}" for k, v in source.items())
        return f"expected a list of sources, e.g. data.train=[{{{example}}}], with LR files data.train=[{{hr: DIR, lr: DIR}}]"
    if key == "data.val":
        return "expected sets by name, e.g. data.val={mine: {hr: DIR}}"
    return f"expected {name_of(hint)}"


def _check_sets(sets: Mapping[str, Any], where: str) -> list[str]:
    return [
        f"{where}: sets.{name}={json.dumps(spec, default=str)}: expected a mapping, e.g. sets.{name}={{hr: "
        f"{spec if isinstance(spec, str) else 'DIR'}}}"
        for name, spec in sets.items()
        if not isinstance(spec, Mapping)
    ]


def check_values(config: Mapping[str, Any], where: str) -> list[str]:
    """Values of a resolved config that do not fit what the constructors, or this program, ask for."""
    problems: list[str] = []

    def walk(node: Mapping[str, Any], path: str) -> None:
        hints = hints_of(_callable(node["_target_"])) if isinstance(node.get("_target_"), str) else {}
        for key, value in node.items():
            full = f"{path}.{key}" if path else str(key)
            hint = _OWN.get(full, hints.get(str(key), Any))
            if isinstance(value, Mapping) and "_target_" in value:
                walk(value, full)
            elif full == "data.val" and isinstance(value, Mapping):
                problems.extend(_check_sets(value, where))
            elif full not in _UNCHECKED and not fits(value, hint):
                problems.append(f"{where}: {full}={json.dumps(value, default=str)}: {_expected(full, value, hint)}")
            elif isinstance(value, Mapping) and hint is Any:
                walk(value, full)

    walk(config, "")
    return problems


def check_config(config: DictConfig, allowed: Sequence[str], where: str) -> list[str]:
    """Everything wrong with a composed config: unknown keys, missing values, targets that do not exist."""
    problems = [f"{where}: unknown key {k!r}{_hint(str(k), allowed)}" for k in config if str(k) not in allowed]
    for key in OmegaConf.missing_keys(config):
        problems.append(f"{where}: {key} has no value; give {key}=...")
    problems += _check_node(config, "", where)
    return problems + _check_callbacks(config, where)


def _check_callbacks(config: DictConfig, where: str) -> list[str]:
    """Callbacks of Lightning's whose work sr-train does itself."""
    problems = []
    for name, node in (config.get("callbacks") or {}).items():
        target = str(node.get("_target_", "")) if isinstance(node, DictConfig) else ""
        advice = ours(target) if target.startswith(("lightning.", "pytorch_lightning.")) else None
        if advice:
            problems.append(f"{where}: callbacks.{name}: {target.rpartition('.')[2]} is not used; {advice}")
    return problems


def _check_node(node: DictConfig, path: str, where: str) -> list[str]:
    problems: list[str] = []
    target = node.get("_target_") if not OmegaConf.is_missing(node, "_target_") else None
    if isinstance(target, str):
        try:
            parameters = _signature(target)
        except (ImportError, AttributeError, ValueError):
            return [f"{where}: {path}._target_={target!r} does not exist"]
        names = [str(k) for k in node if not str(k).startswith("_")]
        if parameters is not None:
            problems += [
                f"{where}: unknown key '{path}.{n}'{_hint(f'{path}.{n}', list(parameters))}"
                for n in names
                if n not in parameters
            ]
            if not node.get("_partial_"):
                needed = {n for n, p in parameters.items() if p.default is p.empty} - set(names) - _GIVEN
                problems += [f"{where}: {path}.{n} has no value; give {path}.{n}=..." for n in sorted(needed)]
    for key in node:
        if isinstance(key, (bool, float)):
            problems.append(f"{where}: {path}: the name {key} is read as a {type(key).__name__}: put it into quotes")
        if not OmegaConf.is_missing(node, key) and not (isinstance(key, str) and OmegaConf.is_interpolation(node, key)):
            child = node[key]
            if isinstance(child, DictConfig):
                problems += _check_node(child, f"{path}.{key}".lstrip("."), where)
    return problems


# -- derived keys ------------------------------------------------------------------------------------------------

_FOLDER = "paths.runs=DIR or name=NAME"
_DERIVED: dict[str, tuple[str, str]] = {  # key: what its value is made of ("": nothing is typed for it), what to type
    "folder": ("${paths.runs}/${name}/${stage}", _FOLDER),
    "data.scale": ("${scale}", "scale={}"),
    "data.scales": ("${scales}", "scales={}"),
    "data.accumulate": ("${trainer.accumulate_grad_batches}", "trainer.accumulate_grad_batches={}"),
    "data.seed": ("${seed}", "seed={}"),
    "data.stage": ("${stage}", "another name to the stage, in stages={{NAME: ...}}"),
    "model.scale": ("${scale}", "scale={}"),
    "model.scales": ("${scales}", "scales={}"),
    "task.model": ("", "model=NAME and model.KEY=VALUE"),
    "task.loss": ("", "loss=NAME and loss.KEY=VALUE"),
    "task.curve": ("", "curve=NAME and curve.KEY=VALUE"),
    "task.protocols": ("${validate.protocols}", "validate.protocols={}"),
    "task.optimizer.lr": ("${task.rate}", "task.rate={}"),
    "task.optimizer.params": ("", "task.trainable and task.rate_scale, globs on the parameters' names"),
    "loss.perceptual.extractor.layers": ("${loss.perceptual.layers}", "loss.perceptual.layers={{LAYER: WEIGHT}}"),
    "logger.csv.folder": ("${folder}", _FOLDER),
    "logger.tensorboard.folder": ("${folder}", _FOLDER),
    "trainer.plugins": ("", "trainer.precision, trainer.strategy or checkpoint.KEY=VALUE"),
}
_SOURCE = re.compile(r"\$\{([\w.]+)\}")


def _lookup(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """(exists, value) of a dotted key of a plain config."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False, None
        node = node[part]
    return True, node


def _typed_as(value: Any) -> str:
    """A value as it is typed on a command line: [y,rgb], {a:1}, null."""
    return str(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")


def check_derived(config: Mapping[str, Any], where: str) -> list[str]:
    """Keys of a resolved config whose values differ from those that the program derives from other keys.

    Typed alone, such a key would be ignored, or reach only a part of what depends on its source.
    """
    problems = []
    for key, (made_of, remedy) in _DERIVED.items():
        exists, value = _lookup(config, key)
        sources = _SOURCE.findall(made_of)
        if len(sources) == 1:
            expected = _lookup(config, sources[0])[1]
        else:
            expected = _SOURCE.sub(lambda m: str(_lookup(config, m[1])[1]), made_of) or None
        if not exists or value == expected:
            continue
        why = f"follows {', '.join(sources)} ({_typed_as(expected)})" if sources else "is set by sr-train"
        problems.append(f"{where}: {key}={_typed_as(value)}: {why}; give {remedy.format(_typed_as(value))}")
    return problems


# -- the plan ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Typed:
    """One override: which stage it names, if any."""

    stage: str | None
    key: str
    value: Any
    text: str  #: as typed
    choice: str = ""  #: of an option of a config group, as Hydra takes it


def _as_typed(override: Override) -> Any:
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
    if not _known(config, key):
        return None
    node = OmegaConf.select(config, parent) if parent else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    hint = _OWN.get(key, Any)
    if target is not None:
        with suppress(ImportError, AttributeError, ValueError):  # reported where the config is checked
            hint = hints_of(_callable(str(target))).get(last, Any)
    return hint is not Any and fits([], hint)


def _split_typed(overrides: Sequence[Override], names: Sequence[str], base: DictConfig) -> list[_Typed]:
    typed: list[_Typed] = []
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
            key = next((group for group, node in _NODES.items() if node == key), key)
        if key in groups():
            value = _as_typed(override)
        typed.append(_Typed(stage, key, value, text, _choice(key, override, value)))
    if problems:
        raise ConfigError(problems)
    return typed


def _choice(group: str, override: Override, value: Any) -> str:
    sign = "+" if (override.input_line or "").startswith("+") and group not in _NESTED else ""
    text = (override.input_line or "").partition("=")[2]
    if isinstance(value, str) and not isinstance(override.value(), str):
        text = f"'{value}'"  # as a string: 1e3
    return f"{sign}{_NESTED.get(group, group)}={text}"


def _is_choice(key: str, value: Any, group_names: Sequence[str]) -> bool:
    return key in group_names and isinstance(value, (str, list))


def _below(key: str, nodes: Iterable[str]) -> bool:
    """Return whether a key stands in or below one of these nodes; the optimizer is chosen apart from its task."""
    place = _NODES.get(key, key)
    apart = place == "task.optimizer" or place.startswith("task.optimizer.")
    return any(place == n or (place.startswith(f"{n}.") and not (apart and n == "task")) for n in nodes)


def _replaced(
    experiment: Sequence[str], own: Mapping[str, Any], picks: Sequence[_Typed]
) -> tuple[dict[str, str], list[_Typed]]:
    """Find the groups for which another option was typed than the recipe's, and the typed options that have a place.

    Returns group -> the recipe's option. A group below a task (``discriminator``) has no place where the task has none.
    """
    if not any(t.key in _TRAINED for t in picks):
        return {}, list(picks)
    recipe = _options([*experiment, *(f"{_NESTED.get(k, k)}={v}" for k, v in own.items())])
    task = next((t for t in reversed(picks) if t.key == "task"), None)
    known = recipe if task is None or task.value == recipe.get("task") else _options([*experiment, task.choice])
    placed = [t for t in picks if t.key not in _NESTED or _NESTED[t.key] in known]
    last = {t.key: t.value for t in placed if t.key in _TRAINED}
    old = {group: str(recipe.get(_NESTED.get(group, group), "none")) for group in last}
    return {group: old[group] for group, value in last.items() if value != old[group]}, placed


def _renew(config: DictConfig, groups_: Iterable[str], choices: Sequence[str], experiment: Sequence[str]) -> list[str]:
    """Put the options of these groups in their place as they are in their files, without what the experiment sets there.

    Returns the keys that were dropped.
    """
    dropped: list[str] = []
    found = _options([*experiment, *choices])
    wanted = [_NESTED.get(group, group) for group in _TRAINED]
    fresh = compose_config("train", [f"{key}={found[key]}" for key in wanted if found.get(key) is not None])
    for node in (_NODES.get(group, group) for group in groups_):
        old, new = (dict(_leaves(OmegaConf.select(c, node), node)) for c in (config, fresh))
        mine = {key: value for key, value in old.items() if _below(key, [node])}
        dropped += [f"{key}={value}" for key, value in mine.items() if new.get(key) != value]
        optimizer = config.task.optimizer
        OmegaConf.update(config, node, OmegaConf.select(fresh, node), merge=False)
        if node == "task":
            config.task.optimizer = optimizer
    return dropped


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a config's node, as one would type them, nothing resolved."""
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if isinstance(plain, Mapping) and plain:
        for key, value in plain.items():
            yield from _leaves(value, f"{prefix}.{key}")
    else:
        yield prefix, plain if isinstance(plain, str) else json.dumps(plain, default=str)


def _replacement(config: DictConfig, t: _Typed) -> Any:
    """Return what a mapping typed whole puts in the place of what is there.

    Raises ConfigError for a mapping without ``_target_`` where an object is built.
    """
    there = OmegaConf.select(config, t.key, throw_on_missing=False)
    if "_target_" in t.value or not isinstance(there, DictConfig):
        return t.value
    if "_target_" in there:
        prefix = t.text.partition("=")[0].lstrip("+")
        keys = " ".join(f"{prefix}.{key}={value}" for key, value in t.value.items()) or f"{prefix}.KEY=VALUE"
        raise ConfigError(
            [
                f"{t.text}: a mapping typed whole replaces all of {t.key}, so it needs a _target_; to set single keys: {keys}"
            ]
        )
    defaults = compose_config("train", []) if t.key in _BLOCKS else {}
    return {**defaults.get(t.key, {}), **t.value}


def _in_order(typed: Sequence[_Typed]) -> list[_Typed]:
    """Mappings typed whole first, the outermost before those inside it: they would replace single keys typed before."""
    return sorted(typed, key=lambda t: t.key.count(".") if isinstance(t.value, Mapping) else 99)


class _Composed(NamedTuple):
    """One stage's config, not yet resolved."""

    config: DictConfig
    reached: set[str]  #: texts of the typed overrides that reached it
    notes: list[str]


def _stage_config(
    name: str,
    run_name: str,
    experiment: Sequence[str],
    entries: Mapping[str, Any],
    typed: Sequence[_Typed],
    *,
    recipe: bool,
) -> _Composed:
    """Compose one stage. Raises ConfigError.

    ``recipe``: the entries are an experiment's, of which another option of a group drops those of the old one. Entries that
    were typed (``stages={...}``) stay.
    """
    group_names = groups()
    mine = [t for t in typed if t.stage in (None, name)]
    own = list(_flatten(entries))
    picks = [t for t in mine if _is_choice(t.key, t.value, group_names)]
    replaced, picks = _replaced(experiment, {k: v for k, v in own if _is_choice(k, v, group_names)}, picks)
    nodes = [_NODES.get(group, group) for group in replaced]
    dropped = [(k, v) for k, v in own if k in replaced or (recipe and _below(k, nodes))]
    own = [entry for entry in own if entry not in dropped]
    choices = [f"{_NESTED.get(k, k)}={v}" for k, v in own if _is_choice(k, v, group_names)] + [t.choice for t in picks]
    config = compose_config("train", [*experiment, *choices])
    notes: list[str] = []
    with open_dict(config):
        config.name, config.stage, config.stages = run_name, name, None
        for group in ("sets", "logger", "callbacks"):  # an empty choice leaves no node
            if group not in config:
                config[group] = {}
        if replaced:
            gone = [f"{k}={v}" for k, v in dropped if k not in replaced]
            gone += _renew(config, replaced, choices, experiment)
            what = ", ".join(f"{group}={_chosen(picks, group)} instead of {old}" for group, old in replaced.items())
            notes += [f"stage {name}: {what}; dropped from the recipe: {', '.join(gone)}"] if gone else []
        _set_own(config, name, [(k, v) for k, v in own if not _is_choice(k, v, group_names)])
        reached = {t.text for t in picks} | _set_typed(
            config, [t for t in mine if not _is_choice(t.key, t.value, group_names)]
        )
        problems = _name_parts(config, f"stage {name}")
    for key, value in [*own, *((t.key, t.value) for t in picks)]:
        if key in _PARTS and isinstance(value, list):
            problems += _check_tops(key, [str(v) for v in value])
    if problems:
        raise ConfigError(problems)
    return _Composed(config, reached, notes)


def _chosen(picks: Sequence[_Typed], group: str) -> str:
    return next(str(t.value) for t in reversed(picks) if t.key == group)


def _set_own(config: DictConfig, name: str, entries: Sequence[tuple[str, Any]]) -> None:
    """Set a stage's entries of an experiment. Raises ConfigError with those that no schema knows."""
    problems: list[str] = []
    for key, value in entries:
        if not _known(config, key):
            problems.append(f"stage {name}: unknown key {key!r}{_hint(key, known_names(config, key) or [])}")
        OmegaConf.update(config, key, value, merge=not isinstance(value, Mapping), force_add=True)
    if problems:
        raise ConfigError(problems)


def _set_typed(config: DictConfig, typed: Sequence[_Typed]) -> set[str]:
    """Set what was typed for this stage, where the stage has the key; returns the texts of these."""
    if any(t.key == "init.weights" for t in typed):  # typed, it takes the place of the recipe's stage
        config.init.stage = None
    reached = set()
    for t in _in_order(typed):
        if _known(config, t.key):
            value = _replacement(config, t) if isinstance(t.value, Mapping) else t.value
            OmegaConf.update(config, t.key, value, merge=False, force_add=True)
            reached.add(t.text)
    return reached


_PARTS = ("logger", "callbacks")  # groups of any number of objects by name


def _name_parts(config: DictConfig, where: str) -> list[str]:
    """Give an object whose ``_target_`` stands at the top of its group a name, its class's; return what is no object."""
    problems = []
    for group in _PARTS:
        node = config[group]
        if node is None:
            continue
        if "_target_" in node:
            try:
                known = _signature(str(node["_target_"]))
            except (ImportError, AttributeError, ValueError):
                continue  # it is reported with the other targets
            entries = OmegaConf.to_container(node)
            assert isinstance(entries, dict)
            named = {
                k: v for k, v in entries.items() if isinstance(v, dict) and "_target_" in v and k not in (known or ())
            }
            stray = [
                k for k in entries if known is not None and k not in (*named, *known) and not str(k).startswith("_")
            ]
            problems += [
                f"{where}: {group}.{k}: is no argument of {node['_target_']}; of files whose _target_ is at the top one can be "
                "chosen, so name the others: NAME: {_target_: ...}"
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
    """Refuse two files whose ``_target_`` is at the top: Hydra would merge one into the other."""
    files = [folder / group / f"{name}.yaml" for name in names for folder in conf_folders()]
    tops = [
        f.stem for f in files if f.is_file() and re.search(r"^_target_:", f.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    if len(tops) < 2:
        return []
    return [
        f"{group}=[{','.join(names)}]: {' and '.join(tops)} have their _target_ at the top, so that one would replace "
        "the other; name them in their files: NAME: {_target_: ...}"
    ]


def _check_choice(group: str, names: Sequence[str]) -> list[str]:
    options = options_of(group)
    return [
        f"{group}={n}: there is no such {group}{near(n, options)}; there are {', '.join(options)}"
        for n in names
        if n not in options
    ]


def _check_choices(overrides: Sequence[Override]) -> list[str]:
    """Options of config groups that do not exist, with the nearest that do."""
    problems = []
    for override in overrides:
        group = override.key_or_group.rpartition(".")[2]
        if group in groups() and override.key_or_group.count(".") < 2 and not override.is_sweep_override():
            value = _as_typed(override)
            names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            if all(isinstance(n, str) for n in names):
                problems += _check_choice(group, names)
    return problems


def _pick(overrides: list[Override], key: str, problems: list[str]) -> Any:
    """Take the last value typed for a key of the run as a whole, and remove it from the list."""
    value = None
    for override in [o for o in overrides if o.key_or_group == key]:
        overrides.remove(override)
        if override.is_sweep_override():
            problems.append(_several(override, takes_list=key in _LISTS))
        else:
            value = _as_typed(override)
    return value


def _run_name(typed: Any, base: DictConfig, experiment: str | None) -> str:
    """Return the run's name. Raises ConfigError unless it is a folder's name below ``paths.runs``."""
    value = typed if typed is not None else base.get("name")
    name = str(value or experiment or "run")
    if not isinstance(value, (str, int, type(None))) or isinstance(value, bool):
        raise ConfigError(
            [f"name={value}: expected a string, e.g. name=wide; a number in a YAML file is put into quotes"]
        )
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ConfigError(
            [f"name={name}: expected a folder's name below {base.paths.runs}, e.g. name=wide or name=sweep/wide"]
        )
    return name


def _named_stages(stages: Any) -> dict[str, Any]:
    """Return the entries of a recipe's stages by name. Raises ConfigError."""
    if not isinstance(stages, dict) or not all(isinstance(v, dict | None) for v in stages.values()):
        raise ConfigError([f"stages={stages}: expected {{NAME: {{KEY: VALUE}}}}"])
    numbers = [
        f"stages: the name {n!r} is read as a {type(n).__name__}" for n in stages if isinstance(n, (bool, float))
    ]
    if numbers:
        raise ConfigError([f"{problem}, not as a string: put it into quotes, or choose another" for problem in numbers])
    return {str(name): entries or {} for name, entries in stages.items()}


def _select(selection: Any, names: Sequence[str]) -> list[str]:
    """Return the stages of ``stage=``. Raises ConfigError."""
    if selection is None:
        return list(names)
    selected = [str(s) for s in (selection if isinstance(selection, list) else [selection])]
    problems = [
        f"stage={s}: there is no such stage; they are {', '.join(names)}{near(s, names)}"
        for s in selected
        if s not in names
    ]
    if problems:
        raise ConfigError(problems)
    return selected


def plan(arguments: Sequence[str]) -> Plan:
    """Compose every stage that a command line asks for. Raises ConfigError with all that is wrong."""
    overrides = parse(arguments)
    wrong: list[str] = []
    experiment, run_name, selection, given = (
        _pick(overrides, key, wrong) for key in ("experiment", "name", "stage", "stages")
    )
    wrong += _check_choices(overrides)
    if experiment is not None:
        wrong += _check_choice("experiment", [str(experiment)])
    if wrong:
        raise ConfigError(wrong)
    chosen = [] if experiment is None else [f"experiment='{str(experiment).replace(chr(39), chr(92) + chr(39))}'"]
    base = compose_config("train", chosen)
    if "experiment" in base:  # what the file holds is below this key: it does not say that it is of the whole config
        raise ConfigError(
            [f"experiment={experiment}: its YAML needs the first line '# @package _global_', and keys below it"]
        )
    stages = _named_stages(given or (OmegaConf.to_container(base.stages) if base.stages else {"main": {}}))
    names = list(stages)
    selected = _select(selection, names)
    run_name = _run_name(run_name, base, experiment)
    typed = _split_typed(overrides, names, base)
    problems = _check_shared(typed, selected, names)
    composed: dict[str, _Composed] = {}
    for name in names:
        try:
            composed[name] = _stage_config(name, run_name, chosen, stages[name], typed, recipe=given is None)
        except ConfigError as error:
            problems += error.problems
            continue
    built = [stage for name in composed for stage in _checked(name, composed[name].config, problems)]
    problems += _check_inits(built, names)
    if len(composed) == len(names):
        problems += _check_reached(typed, composed, selected)
    if problems:
        raise ConfigError(problems)
    notes = [note for name in selected for note in composed[name].notes]
    return Plan(run_name, tuple(built), tuple(selected), tuple(notes))


def _checked(name: str, config: DictConfig, problems: list[str]) -> list[Stage]:
    """Resolve one stage; none, and more ``problems``, where keys of its config are wrong."""
    found = check_config(config, _top_keys(), f"stage {name}")
    problems += found
    if found:
        return []
    resolved = _resolved(config, name, problems)
    problems += check_values(resolved, f"stage {name}")
    problems += _check_scales(resolved, f"stage {name}")
    problems += check_derived(resolved, f"stage {name}")
    return [Stage(name, resolved)]


def _check_shared(typed: Sequence[_Typed], selected: Sequence[str], names: Sequence[str]) -> list[str]:
    """Keys that must name a stage where several are selected."""
    if len(selected) < 2:
        return []
    return [
        f"{t.text}: says it of {len(selected)} stages; name one, {names[-1]}.{t.text}, or select one with stage={names[-1]}"
        for t in typed
        if t.stage is None and (t.key in ("scale", "scales") or t.key.startswith("init."))
    ]


def _check_reached(typed: Sequence[_Typed], composed: Mapping[str, _Composed], selected: Sequence[str]) -> list[str]:
    """Every typed key is known to a stage, and a part of a task to every selected stage that it is typed for."""
    problems = []
    for t in typed:
        having = [name for name, stage in composed.items() if t.text in stage.reached]
        lacking = [name for name in ([t.stage] if t.stage else selected) if name not in having]
        if t.key in _NESTED and lacking:
            advice = f": give {having[0]}.{t.text}" if having else ""
            task = composed[lacking[0]].config.task.get("_target_", "null").rpartition(".")[2]
            problems.append(f"{t.text}: stage {lacking[0]} trains by {task}, which has no {t.key}{advice}")
        elif not having:
            problems.append(f"{t.text}: {_unknown(t, composed)}")
    return problems


def _check_scales(config: Mapping[str, Any], where: str) -> list[str]:
    """A network has one scale or several."""
    scale, scales = config.get("scale"), config.get("scales")
    if scale is None and not scales:
        return [f"{where}: scale=null, scales={scales}: give scale=4, or of a network of several (mdsr) scales=[2,3,4]"]
    if scale is not None and scales is not None:
        return [
            f"{where}: scale={scale} and scales={scales}: a network has one or the other; of MDSR give scales=[{scale}] with "
            "scale=null, of others scales=null"
        ]
    return []


def _check_inits(stages: Sequence[Stage], names: Sequence[str]) -> list[str]:
    """A stage starts from an earlier stage, from a file, or from nothing."""
    problems = []
    for stage in stages:
        init = stage.config["init"]
        earlier = names[: names.index(stage.name)]
        if init["stage"] is not None and init["weights"] is not None:
            problems.append(f"stage {stage.name}: give init.stage or init.weights, not both")
        if init["stage"] is not None and init["stage"] not in earlier:
            known = ", ".join(earlier) or "there are none"
            problems.append(f"stage {stage.name}: init.stage={init['stage']} is no earlier stage; {known}")
        for key in ("skip", "grow"):
            if init[key] and init["stage"] is None and init["weights"] is None:
                problems.append(f"stage {stage.name}: init.{key} without init.stage or init.weights")
    return problems


def _resolved(config: DictConfig, name: str, problems: list[str]) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        problems.append(f"stage {name}: {_shorten(str(error))}")
        return {}
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _known_depth(config: DictConfig, parts: Sequence[str]) -> int:
    """Count the leading parts of a dotted key that a config knows."""
    return next((i for i in range(len(parts)) if not _known(config, ".".join(parts[: i + 1]))), len(parts))


def _unknown(typed: _Typed, composed: Mapping[str, _Composed]) -> str:
    """Say which part of a key no stage knows, with near names and the keys that there are."""
    if typed.key in composed:
        return f"is a stage; its keys are typed as {typed.key}.KEY=VALUE"
    configs = [composed[typed.stage].config] if typed.stage else [stage.config for stage in composed.values()]
    parts = typed.key.split(".")
    depth = min(max(_known_depth(c, parts) for c in configs), len(parts) - 1)
    wrong, leaf = ".".join(parts[: depth + 1]), depth == len(parts) - 1
    lists = [known_names(c, wrong) or [] for c in configs if _known_depth(c, parts) == depth]
    names = [n for n in dict.fromkeys(n for found in lists for n in found) if not n.startswith("_")]
    shown = names and (depth or leaf) and not ours(typed.key)
    keys = f"; keys here: {', '.join(sorted(names)[:30])}" if shown else ""
    if typed.stage:
        before = ".".join([typed.stage, *parts[:depth], ""])
        return f"stage {typed.stage} has no {wrong!r}{_hint(typed.key, names, parts[depth], before)}{keys}"
    if leaf:
        return f"no stage has this key{_hint(typed.key, names, parts[depth])}{keys}"
    names = names if depth else [*names, *composed]
    return f"no stage has {wrong!r}{_hint(typed.key, names, parts[depth], '.'.join([*parts[:depth], '']).lstrip('.'))}{keys}"


def _hint(key: str, known: Sequence[str], wanted: str | None = None, prefix: str = "") -> str:
    """Name what a key of another program is called here, or else the nearest names."""
    other = ours(key)
    return f"; {other}" if other else near(key.rpartition(".")[2] if wanted is None else wanted, known, prefix)
