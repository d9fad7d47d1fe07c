"""Choice of the launcher, ``launcher=OPTION``, which is made once for a whole command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from sr_train.config.check import check_values, known_names
from sr_train.config.compose import compose_config, parse
from sr_train.config.folders import check_choice, near, then
from sr_train.console import ConfigError

_GROUP = "launcher"


def split_launcher(arguments: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return two values: the config of the launcher (None for ``launcher=local``), and the arguments for other keys.

    Raise ConfigError for unknown keys of the launcher, values of a wrong type, and several values (a sweep) of one key.
    """
    typed = [a for a in arguments if "=" in a and not a.startswith("-")]
    overrides = dict(zip(typed, parse(typed), strict=True))
    own = [a for a, o in overrides.items() if o.key_or_group.partition(".")[0] == _GROUP]
    problems = [f"{a}: several values; all jobs of a command have one launcher" for a in own if _swept(overrides[a])]
    if problems:
        raise ConfigError(problems)
    rest = [a for a in arguments if a not in own]
    recipe = [a for a, o in overrides.items() if o.key_or_group == "experiment" and not _swept(o)]
    chosen = [a for a in own if overrides[a].key_or_group == _GROUP]
    for name in (overrides[a].value() for a in chosen):
        problems += check_choice(_GROUP, [str(name)])
    if problems:
        raise ConfigError(problems)
    if any(check_choice("experiment", [str(overrides[a].value())]) for a in recipe):
        return None, rest  # the plan reports it
    config = compose_config("train", [*recipe, *chosen])
    for key in (overrides[a].key_or_group for a in own if a not in chosen):
        names = known_names(config, key) or []
        if key.rpartition(".")[2] not in names:
            keys = f"keys are {', '.join(n for n in names if n != '_target_')}" if names else "add launcher=slurm"
            hint = near(key.rpartition(".")[2], names)
            problems.append(f"{key}: this launcher has no such key{then(hint, keys)}")
    if problems:
        raise ConfigError(problems)
    config = compose_config("train", [*recipe, *own])[_GROUP]
    plain = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict) or not plain:
        return None, rest
    launcher = {str(key): value for key, value in plain.items()}
    problems = check_values({_GROUP: launcher}, "command line")
    if problems:
        raise ConfigError(problems)
    return launcher, rest


def _swept(override: Any) -> bool:
    return override.is_sweep_override()
