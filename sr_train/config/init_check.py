"""Check of the keys that name a stage's initial weights, ``init``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Config = Mapping[str, Any]


def check_inits(configs: Mapping[str, Config], names: Sequence[str]) -> list[str]:
    """Return a problem for each stage whose ``init`` keys contradict each other or name no earlier stage.

    Args:
        configs: resolved config of each stage by its name.
        names: names of all stages in order.
    """
    problems: list[str] = []
    for name, config in configs.items():
        init, where = config["init"], f"stage {name}"
        earlier = names[: names.index(name)]
        if init["stage"] is not None and init["weights"] is not None:
            problems.append(f"{where}: give init.stage or init.weights, not both")
        if init["stage"] is not None and init["stage"] not in earlier:
            known = f"earlier stages: {', '.join(earlier) or 'none'}"
            problems.append(f"{where}: init.stage={init['stage']} is not an earlier stage; {known}")
        if init["discriminator"] is not None:
            problems += _check_discriminator(where, config, {n: configs[n] for n in earlier if n in configs})
        problems += [
            f"{where}: init.{key} needs init.stage or init.weights"
            for key in ("skip", "grow")
            if init[key] and init["stage"] is None and init["weights"] is None
        ]
    return problems


def _check_discriminator(where: str, config: Config, earlier: Mapping[str, Config]) -> list[str]:
    """Return a problem if ``init.discriminator`` is given to a stage without a discriminator, or names such a stage."""
    given = config["init"]["discriminator"]
    if "discriminator" not in config["task"]:
        return [f"{where}: init.discriminator={given}: this stage trains one network; give it to a stage with task=gan"]
    if given in earlier and "discriminator" not in earlier[given]["task"]:
        return [f"{where}: init.discriminator={given}: stage {given} has no discriminator"]
    return []
