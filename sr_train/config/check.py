"""Check composed configs against the signatures and type hints of the classes that they build."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from sr_train.config.folders import foreign_hint, near, present_path
from sr_train.config.paths import quote
from sr_train.config.type_hints import fits, hints_of, name_of
from sr_train.console import for_shell

_OPEN = ("sets", "callbacks", "data.train", "data.val")  # nodes that contain names chosen by the user

_OURS = {  # arguments of Lightning's Trainer that sr-train sets: a user's value would be ignored
    "callbacks", "logger", "default_root_dir", "max_epochs", "min_epochs", "use_distributed_sampler", "num_sanity_val_steps",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "val_check_interval",
    "check_val_every_n_epoch", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "fast_dev_run", "overfit_batches", "barebones", "min_steps", "reload_dataloaders_every_n_epochs",
    "enable_autolog_hparams", "inference_mode", "model_registry",
}  # fmt: skip

_ADDED = ("timeout",)  # keys of trainer that are no arguments of Lightning's Trainer

_GIVEN = {"model", "loss", "curve"}  # arguments of a task that have their own config groups


def callable_at(target: str) -> Callable[..., Any]:
    """Return the object at a dotted path, e.g. ``torch.nn.L1Loss``."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def signature(target: str) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of the callable at a dotted path; None if the callable takes ``**kwargs``."""
    parameters = inspect.signature(callable_at(target)).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    if target == "lightning.Trainer":
        own = {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _ADDED}
        return {name: p for name, p in parameters.items() if name not in _OURS} | own
    return parameters


def known_names(config: DictConfig, key: str) -> list[str] | None:
    """Return the allowed names for the last part of a dotted key; None if any name is allowed."""
    parent, _, _ = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if any(parent == o or parent.startswith(f"{o}.") for o in _OPEN):
        return None
    if _takes_any_name(config, parent):
        return None
    if not isinstance(node, DictConfig):
        return []
    names = [str(k) for k in node]
    if "_target_" in node:
        parameters = signature(str(node["_target_"]))
        return None if parameters is None else list(dict.fromkeys([*names, *parameters]))
    return names


def _takes_any_name(config: DictConfig, key: str) -> bool:
    """Return true if a key is an argument that its constructor declares as a mapping of names, e.g. ``loss.weights``."""
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    hint = str(hints_of(callable_at(str(node["_target_"]))).get(name, ""))
    return hint.startswith(("collections.abc.Mapping[str, ", "typing.Mapping[str, "))


def is_known(config: DictConfig, key: str) -> bool:
    """Return true if ``key`` is in the config, or is a parameter of the class in ``_target_`` that the key belongs to."""
    names = known_names(config, key)
    return names is None or key.rpartition(".")[2] in names


OWN = {  # types of keys of conf/train.yaml that belong to no constructor
    "check": bool | Literal["full"],
    "sheet": str | None,
    "profile": bool,
    "report": bool,
    "requeue": bool,
    "profile_steps": int,
    "scale": int | None,
    "scales": list[int] | None,
    "channels": int,
    "seed": int,
    "max_pixels": int | None,
    "init.stage": str | None,
    "init.weights": str | None,
    "init.discriminator": str | None,
    "init.skip": list[str],
    "init.grow": list[str],
    "resume": Literal["auto", "force", "never"],
    "validate.every": int,
    "validate.protocols": list[str],
    "validate.metrics": list[str],
    "validate.lpips": str | None,
    "validate.best": str | None,
    "validate.tile": int | Literal["auto"] | None,
    "validate.pictures": int,
    "validate.crop": int,
    "checkpoint.every": int,
    "checkpoint.keep": int,
    "record.every": int,
    "trainer.sync_batchnorm": bool | Literal["auto"],
    "trainer.timeout": float,
}

_UNCHECKED = {"trainer.precision"}  # "auto" is not a value of Lightning


def _expected(key: str, value: Any, hint: Any) -> str:
    """Return the text "expected ..." for the type hint of a key.

    For data.train and data.val, it contains an example.
    """
    if key == "data.train":
        source = {"hr": value} if isinstance(value, str) else {"hr": "DIR"}
        example = _braces(value if isinstance(value, Mapping) else source)
        typed = for_shell(f"data.train=[{example}]")
        return f"expected a list of sources, e.g. {typed}, with LR files 'data.train=[{{hr: DIR, lr: DIR}}]'"
    if key == "data.val":
        return "expected sets by name, e.g. 'data.val={mine: {hr: DIR}}'"
    return f"expected {name_of(hint)}"


def _braces(source: Mapping[str, Any]) -> str:
    """Format a source as it is typed: {hr: DIR, lr: DIR}."""
    items = (f"{k}: {quote(v) if isinstance(v, str) else json.dumps(v, default=str)}" for k, v in source.items())
    return f"{{{', '.join(items)}}}"


def _check_sets(sets: Mapping[str, Any], where: str) -> list[str]:
    return [
        f"{where}: sets.{name}={json.dumps(spec, default=str)}: expected a mapping, e.g. "
        + for_shell(f"sets.{name}={_braces({'hr': spec if isinstance(spec, str) else 'DIR'})}")
        for name, spec in sets.items()
        if not isinstance(spec, Mapping)
    ]


def check_values(config: Mapping[str, Any], where: str) -> list[str]:
    """Return a problem for each value of a resolved config that does not fit its type hint."""
    problems: list[str] = []

    def walk(node: Mapping[str, Any], path: str) -> None:
        hints = hints_of(callable_at(node["_target_"])) if isinstance(node.get("_target_"), str) else {}
        for key, value in node.items():
            full = f"{path}.{key}" if path else str(key)
            hint = OWN.get(full, hints.get(str(key), Any))
            if full == "data.degrade":  # checked as degrade
                continue
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
    """Return the problems of a composed config: unknown keys, missing values, targets that do not exist."""
    problems = [f"{where}: unknown key {k!r}{hint_at(str(k), allowed)}" for k in config if str(k) not in allowed]
    for key in OmegaConf.missing_keys(config):
        problems.append(f"{where}: {key} has no value; give {key}=...")
    problems += _check_node(config, "", where)
    return problems + _check_callbacks(config, where)


def _check_callbacks(config: DictConfig, where: str) -> list[str]:
    """Return a problem for each Lightning callback that sr-train replaces."""
    problems = []
    for name, node in (config.get("callbacks") or {}).items():
        target = str(node.get("_target_", "")) if isinstance(node, DictConfig) else ""
        advice = foreign_hint(target) if target.startswith(("lightning.", "pytorch_lightning.")) else None
        if advice:
            problems.append(f"{where}: callbacks.{name}: {target.rpartition('.')[2]} is not used; {advice}")
    return problems


def _check_node(node: DictConfig, path: str, where: str) -> list[str]:
    problems: list[str] = []
    target = node.get("_target_") if not OmegaConf.is_missing(node, "_target_") else None
    if isinstance(target, str):
        try:
            parameters = signature(target)
        except (ImportError, AttributeError, ValueError):
            moved = present_path(target)
            return [
                f"{where}: {path}._target_={target!r} does not exist{f'; its new name is {moved}' if moved != target else ''}"
            ]
        names = [str(k) for k in node if not str(k).startswith("_")]
        if parameters is not None:
            problems += [
                f"{where}: unknown key '{path}.{n}'{hint_at(f'{path}.{n}', list(parameters))}"
                for n in names
                if n not in parameters
            ]
            if not node.get("_partial_"):
                needed = {n for n, p in parameters.items() if p.default is p.empty} - set(names) - _GIVEN
                problems += [f"{where}: {path}.{n} has no value; give {path}.{n}=..." for n in sorted(needed)]
    for key in node:
        if isinstance(key, (bool, float)):
            problems.append(f"{where}: {path}: YAML reads the name {key} as a {type(key).__name__}: put it in quotes")
        if not OmegaConf.is_missing(node, key) and not (isinstance(key, str) and OmegaConf.is_interpolation(node, key)):
            child = node[key]
            if isinstance(child, DictConfig):
                problems += _check_node(child, f"{path}.{key}".lstrip("."), where)
    return problems


def hint_at(key: str, known: Sequence[str], wanted: str | None = None, prefix: str = "") -> str:
    """Return a hint for an unknown key.

    For a key of another program, it is sr-train's key; else the most similar names.
    """
    other = foreign_hint(key)
    return f"; {other}" if other else near(key.rpartition(".")[2] if wanted is None else wanted, known, prefix)
