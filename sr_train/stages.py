"""A run is a list of stages: how a command line becomes the configs of all of them, before the first one starts.

Precedence: groups < experiment < stage < typed. A stage's entries in an experiment file are overrides, as they would be
typed; typed, ``STAGE.KEY=V`` reaches one stage and a bare ``KEY=V`` every stage that has the key. Hydra refuses unknown
keys on the command line only, so what was composed is checked here against the constructors' signatures.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sr_train.configs import groups, options_of, search_path
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

    @property
    def folder(self) -> Path:
        """The run's folder, which holds one folder a stage."""
        return self.stages[0].folder.parent


def near(name: str, known: Sequence[str]) -> str:
    """ "; did you mean ...?" for a name that is not known, or nothing."""
    close = list(dict.fromkeys(get_close_matches(name, known, n=3, cutoff=0.6)))
    ratios = {other: SequenceMatcher(None, other, name).ratio() for other in close}
    close = [other for other in close if ratios[other] > max(ratios.values()) - 0.15]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/NAME.yaml``; Hydra's errors become a ConfigError."""
    running = GlobalHydra.instance().hydra  # a sweep's own Hydra, which composes no stages
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module(CONF, version_base="1.3"):
            return compose(name, overrides=[*search_path(), *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([_shorten(str(error))]) from None
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
            elif full not in _UNCHECKED and not fits(value, hint):
                problems.append(f"{where}: {full}={json.dumps(value, default=str)}: expected {name_of(hint)}")
            elif isinstance(value, Mapping) and hint is Any:
                walk(value, full)

    walk(config, "")
    return problems


def check_config(config: DictConfig, allowed: Sequence[str], where: str) -> list[str]:
    """Everything wrong with a composed config: unknown keys, missing values, targets that do not exist."""
    problems = [f"{where}: unknown key {k!r}{near(str(k), allowed)}" for k in config if str(k) not in allowed]
    for key in OmegaConf.missing_keys(config):
        problems.append(f"{where}: {key} has no value; give {key}=...")
    problems += _check_node(config, "", where)
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
                f"{where}: unknown key '{path}.{n}'{near(n, list(parameters))}" for n in names if n not in parameters
            ]
            if not node.get("_partial_"):
                needed = {n for n, p in parameters.items() if p.default is p.empty} - set(names) - _GIVEN
                problems += [f"{where}: {path}.{n} has no value; give {path}.{n}=..." for n in sorted(needed)]
    for key in node:
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, str(key)):
            child = node[key]
            if isinstance(child, DictConfig):
                problems += _check_node(child, f"{path}.{key}".lstrip("."), where)
    return problems


# -- the plan ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Typed:
    """One override: which stage it names, if any."""

    stage: str | None
    key: str
    value: Any
    text: str


def _split_typed(overrides: Sequence[Override], names: Sequence[str]) -> list[_Typed]:
    typed: list[_Typed] = []
    problems: list[str] = []
    for override in overrides:
        text = override.input_line or override.key_or_group
        if override.is_sweep_override():
            problems.append(f"{text!r}: several values need a sweep: add -m")
            continue
        if override.is_delete():
            problems.append(f"{text!r}: nothing can be deleted; set {override.key_or_group}=null")
            continue
        head, _, rest = override.key_or_group.partition(".")
        if head in names and rest:
            typed.append(_Typed(head, rest, override.value(), text.partition(".")[2]))
        else:
            typed.append(_Typed(None, override.key_or_group, override.value(), text))
    if problems:
        raise ConfigError(problems)
    return typed


def _is_choice(key: str, value: Any, group_names: Sequence[str]) -> bool:
    return key in group_names and isinstance(value, (str, list))


def _stage_config(
    name: str, run_name: str, experiment: Sequence[str], entries: Mapping[str, Any], typed: Sequence[_Typed]
) -> tuple[DictConfig, set[str]]:
    """One stage's config, not yet resolved, and the typed overrides that reached it."""
    group_names = groups()
    mine = [t for t in typed if t.stage in (None, name)]
    own = list(_flatten(entries))
    choices = [f"{_NESTED.get(k, k)}={v}" for k, v in own if _is_choice(k, v, group_names)]
    chosen = [t for t in mine if _is_choice(t.key, t.value, group_names)]
    choices += [f"{_NESTED[t.key]}={t.value}" if t.key in _NESTED else t.text for t in chosen]
    config = compose_config("train", [*experiment, *choices])
    reached = {t.text for t in mine if _is_choice(t.key, t.value, group_names)}
    problems: list[str] = []
    with open_dict(config):
        config.name, config.stage, config.stages = run_name, name, None
        for group in ("sets", "logger", "callbacks"):  # an empty choice leaves no node
            if group not in config:
                config[group] = {}
        for key, value in own:
            if _is_choice(key, value, group_names):
                continue
            if not _known(config, key):
                last = key.rpartition(".")[2]
                problems.append(f"stage {name}: unknown key {key!r}{near(last, known_names(config, key) or [])}")
            OmegaConf.update(config, key, value, force_add=True)
        if any(t.key == "init.weights" for t in mine):  # typed, it takes the place of the recipe's stage
            config.init.stage = None
        for t in mine:
            if not _is_choice(t.key, t.value, group_names) and _known(config, t.key):
                OmegaConf.update(config, t.key, t.value, force_add=True)
                reached.add(t.text)
    if problems:
        raise ConfigError(problems)
    return config, reached


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
            value = override.value()
            names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            if all(isinstance(n, str) for n in names):
                problems += _check_choice(group, names)
    return problems


def _pick(overrides: list[Override], key: str) -> Any:
    """Take the last value typed for a key of the run as a whole, and remove it from the list."""
    value = None
    for override in [o for o in overrides if o.key_or_group == key]:
        value = override.value()
        overrides.remove(override)
    return value


def plan(arguments: Sequence[str]) -> Plan:
    """Compose every stage that a command line asks for. Raises ConfigError with all that is wrong."""
    overrides = parse(arguments)
    experiment, run_name, selection, given = (
        _pick(overrides, key) for key in ("experiment", "name", "stage", "stages")
    )
    wrong = _check_choices(overrides)
    if experiment is not None:
        wrong += _check_choice("experiment", [str(experiment)])
    if wrong:
        raise ConfigError(wrong)
    chosen = [] if experiment is None else [f"experiment={experiment}"]
    base = compose_config("train", chosen)
    stages = given or (OmegaConf.to_container(base.stages) if base.stages else {"main": {}})
    if not isinstance(stages, dict) or not all(isinstance(v, dict | None) for v in stages.values()):
        raise ConfigError([f"stages={stages}: expected {{NAME: {{KEY: VALUE}}}}"])
    names = [str(n) for n in stages]
    selected = (
        names if selection is None else [str(s) for s in (selection if isinstance(selection, list) else [selection])]
    )
    problems = [
        f"stage={s}: there is no such stage; they are {', '.join(names)}{near(s, names)}"
        for s in selected
        if s not in names
    ]
    if problems:
        raise ConfigError(problems)
    run_name = str(run_name or base.get("name") or (experiment or "run"))
    if any(part in ("", ".", "..") for part in run_name.split("/")):
        raise ConfigError(
            [f"name={run_name}: expected a folder's name below {base.paths.runs}, e.g. name=wide or name=sweep/wide"]
        )
    typed = _split_typed(overrides, names)
    if len(selected) > 1:
        problems += [
            f"{t.text}: says it of {len(selected)} stages; name one, {names[-1]}.{t.text}, or select one with stage={names[-1]}"
            for t in typed
            if t.stage is None and (t.key in ("scale", "scales") or t.key.startswith("init."))
        ]
    allowed = [str(k) for k in compose_config("train", [])]
    reached: set[str] = set()
    built: list[Stage] = []
    for name in names:
        try:
            config, mine = _stage_config(name, run_name, chosen, stages[name] or {}, typed)
        except ConfigError as error:
            problems += error.problems
            continue
        reached |= mine
        found = check_config(config, allowed, f"stage {name}")
        problems += found
        if not found:
            resolved = _resolved(config, name, problems)
            problems += check_values(resolved, f"stage {name}")
            problems += _check_scales(resolved, f"stage {name}")
            built.append(Stage(name, resolved))
    problems += _check_inits(built, names)
    if len(built) == len(names):
        problems += [f"{t.text}: {_unknown(t, chosen)}" for t in typed if t.text not in reached]
    if problems:
        raise ConfigError(problems)
    return Plan(run_name, tuple(built), tuple(selected))


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


def _unknown(typed: _Typed, experiment: Sequence[str]) -> str:
    config = compose_config("train", experiment)
    parent, _, last = typed.key.rpartition(".")
    names = known_names(config, typed.key) or []
    if not names and parent:
        return f"no stage has {parent!r}{near(parent, [str(k) for k in config])}"
    listed = sorted(n for n in set(names) if not n.startswith("_"))
    return f"no stage has this key{near(last, names)}; keys here: {', '.join(listed[:30])}"
