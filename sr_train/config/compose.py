"""Compose configs from YAML files and KEY=VALUE arguments with Hydra. Its errors become ConfigError."""

from __future__ import annotations

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

from sr_train.config.folders import check_choice, groups, near, search_path
from sr_train.console import ConfigError

CONF = "sr_train.conf"


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/NAME.yaml``. Raise ConfigError for Hydra's errors."""
    return _compose(name, overrides, hydra=False)


@cache
def top_keys() -> list[str]:
    """Return the top-level keys of ``conf/train.yaml``, including its groups. No argument of the user changes them."""
    return [str(k) for k in compose_config("train", [])]


def chosen_options(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the chosen option of each config group of ``conf/train.yaml``, by Hydra's name of the group."""
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
    """Return the useful lines of a Hydra error, joined."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("Config search path", "provider=", "full_key", "object_type"))
    )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse command-line arguments with Hydra's grammar. Raise ConfigError that lists the arguments that are not KEY=VALUE."""
    parsed, problems = [], []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            problems.append(f"{text!r}: not KEY=VALUE ({shorten(str(error))})")
    if problems:
        raise ConfigError(problems)
    return parsed


def quote_template(argument: str) -> str:
    """Quote the value of ``KEY=DIR/{stem}_x{scale}``, which Hydra would parse as a mapping."""
    key, _, value = argument.partition("=")
    template = re.match(r"[^\[({'\"]|\{(?:stem|scale)\}", value) and re.search(r"\{(?:stem|scale)\}", value)
    return f"{key}='{value}'" if template and not set(value) & set("'\",[]()") else argument


def compose_command(config: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Compose a command's config from ``KEY=VALUE`` arguments to plain values.

    If there are problems, raise one ConfigError that lists all of them."""
    arguments = [quote_template(a) for a in arguments]
    defaults = compose_config(config, [])
    base = [str(k) for k in defaults]
    overrides = parse(arguments)
    tops = [o.key_or_group.partition(".")[0] for o in overrides]
    problems = [f"unknown key {t!r}{near(t, [*base, *groups()])}" for t in tops if t not in base and t not in groups()]
    for o in (o for o in overrides if o.is_sweep_override()):
        key, values = o.key_or_group, (o.input_line or "").partition("=")[2]
        one = isinstance(OmegaConf.select(defaults, key), (bool, int, float))
        problems.append(f"{o.input_line}: {'expected one value' if one else f'give a list, {key}=[{values}]'}")
    for o in (o for o in overrides if o.key_or_group in groups() and not o.is_sweep_override()):
        value = o.value()
        names = value if isinstance(value, list) else [value]
        if all(isinstance(n, str | QuotedString) for n in names):
            problems += check_choice(o.key_or_group, [n.text if isinstance(n, QuotedString) else str(n) for n in names])
    if problems:
        raise ConfigError(problems)
    composed = compose_config(config, arguments)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError([f"{k} has no value; give {k}=..." for k in missing])
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}
