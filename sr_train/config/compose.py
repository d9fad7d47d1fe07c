"""Compose configs from YAML files and KEY=VALUE arguments with Hydra. Hydra's errors become ConfigError."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from sr_train.config.folders import check_choice, groups, near, none_chosen, search_path
from sr_train.config.paths import quote_paths
from sr_train.console import ConfigError, for_shell

CONF = "sr_train.conf"

_SOURCE_PATH = re.compile(
    r"\b(hr|lr|clips|without):\s*([^\s\"'\[{,}\]][^,}\]]*)"
)  # a path without quotes in a list of sources


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/NAME.yaml``. Raise ConfigError for Hydra's errors."""
    return _compose(name, overrides, hydra=False)


@cache
def top_keys() -> list[str]:
    """Return the top-level keys of ``conf/train.yaml``, including the names of its config groups.

    The user's arguments are not used, so the result is always the same.
    """
    return [str(k) for k in compose_config("train", [])]


def chosen_options(overrides: Sequence[str]) -> dict[str, Any]:
    """Return {config group of ``conf/train.yaml``: chosen option}.

    The groups are named as in Hydra's defaults list, e.g. ``discriminator@task.discriminator``.
    """
    return dict(_compose("train", overrides, hydra=True).hydra.runtime.choices)


def _compose(name: str, overrides: Sequence[str], *, hydra: bool) -> DictConfig:
    running = GlobalHydra.instance().hydra  # the Hydra of a running sweep; restored at the end
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module(CONF, version_base="1.3"):
            return compose(name, overrides=[*search_path(), *overrides], return_hydra_config=hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([shorten(str(error))]) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = "a YAML file" if mark is None else f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError([f"{where}: cannot be read as YAML: {error.problem or error.context}"]) from None
    finally:
        GlobalHydra.instance().clear()
        if running is not None:
            GlobalHydra.instance().initialize(running)


def shorten(message: str) -> str:
    """Return a Hydra error's message as one line, without the lines that do not help a user."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("Config search path", "provider=", "full_key", "object_type"))
    )


def parse(overrides: Sequence[str], *, command: str | None = "train", sweep: bool = False) -> list[Override]:
    """Parse command-line arguments with Hydra's grammar.

    Raise one ConfigError that lists all arguments that are not KEY=VALUE.

    Args:
        overrides: arguments as typed.
        command: name of the command's YAML file, e.g. ``train``. Values of its path-valued keys are taken literally.
            None: all values have Hydra's grammar.
        sweep: true if the command line is a sweep, in which commas separate the values of a key.
    """
    parsed, problems = [], []
    parser = OverridesParser.create()
    quoted = overrides if command is None else quote_paths(command, overrides, sweep=sweep)
    for typed, text in zip(overrides, quoted, strict=True):
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            problems.append(f"{typed!r}: not KEY=VALUE ({shorten(str(error))}){_quoting(typed)}")
    if problems:
        raise ConfigError(problems)
    return parsed


def _quoting(typed: str) -> str:
    """Return a hint for an argument whose value needs quotes; an empty string if quotes do not help."""
    key, sign, value = typed.partition("=")
    if not sign or not key.strip("+"):
        return ""
    if value[:1] in ("[", "{"):
        inner = _SOURCE_PATH.sub(lambda m: f"{m[1]}: {json.dumps(m[2].strip(), ensure_ascii=False)}", value)
    else:
        inner = (
            f"[{{hr: {json.dumps(value, ensure_ascii=False)}}}]"
            if key.endswith("data.train")
            else json.dumps(value, ensure_ascii=False)
        )
    try:
        OverridesParser.create().parse_override(f"{key}={inner}")
    except HydraException:
        return ""
    quoted = for_shell(f"{key}={inner}")
    return f"; put names in quotes: {quoted}"


def compose_command(config: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Compose a command's config from ``KEY=VALUE`` arguments. Return it as plain values (dict, list, str, ...).

    If there are problems, raise one ConfigError that lists all of them.
    """
    defaults = compose_config(config, [])
    base = [str(k) for k in defaults]
    overrides = parse(arguments, command=config)
    tops = [o.key_or_group.partition(".")[0] for o in overrides]
    problems = [f"unknown key {t!r}{near(t, [*base, *groups()])}" for t in tops if t not in base and t not in groups()]
    for typed in (a for a, o in zip(arguments, overrides, strict=True) if o.is_sweep_override()):
        key, _, values = typed.partition("=")
        one = isinstance(OmegaConf.select(defaults, key), (bool, int, float))
        as_list = for_shell(f"{key}=[{values}]")
        problems.append(f"{typed}: {'expected one value' if one else f'give a list, {as_list}'}")
    for o in (o for o in overrides if o.key_or_group in groups() and not o.is_sweep_override()):
        value = o.value()
        names = value if isinstance(value, list) else [value]
        if value is None:
            problems.append(none_chosen(o.key_or_group))
        if all(isinstance(n, str | QuotedString) for n in names):
            problems += check_choice(o.key_or_group, [n.text if isinstance(n, QuotedString) else str(n) for n in names])
    if problems:
        raise ConfigError(problems)
    composed = compose_config(config, [o.input_line or "" for o in overrides])
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError([f"{k} has no value; give {k}=..." for k in missing])
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}
