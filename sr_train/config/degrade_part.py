"""The degradation in the config of a stage: names in ``data.train`` become configs, and data that takes none is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from sr_train.config.compose import compose_config
from sr_train.config.folders import check_choice, files_of, near


def with_named(config: dict[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Return a resolved config in which ``degrade: NAME`` of a training source is replaced by the config of this option.

    Append a problem for each name that does not exist.
    """
    train = (config.get("data") or {}).get("train")
    if not isinstance(train, list):
        return config
    sources = [
        _named(source, f"{where}: data.train[{i}]", problems) for i, source in enumerate(cast("list[Any]", train))
    ]
    return {**config, "data": {**config["data"], "train": sources}}


def _named(source: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(source, Mapping) or not isinstance(cast("Mapping[str, Any]", source).get("degrade"), str):
        return source
    given = cast("Mapping[str, Any]", source)
    wrong = check_choice("degrade", [given["degrade"]])
    problems += [f"{where}.{problem}" for problem in wrong]
    if wrong:
        return source
    found = OmegaConf.to_container(compose_config("train", [f"degrade={given['degrade']}"]).degrade, resolve=True)
    return {**given, "degrade": found or None}


def check_degrade(config: Mapping[str, Any], where: str, keys: Sequence[str] | None) -> list[str]:
    """Return a problem if ``degrade`` makes no LR: it builds no object, or the stage's data takes none.

    Args:
        config: resolved config of a stage.
        where: name of the stage, for messages.
        keys: arguments of the stage's data module; None if any is allowed.
    """
    degrade, data = config.get("degrade"), config.get("data") or {}
    if not degrade:
        return []
    if not isinstance(degrade, Mapping) or "_target_" not in degrade:
        return [
            f"{where}: degrade={degrade}: has no _target_; choose an option, e.g. degrade=blind, or {{_target_: CLASS}}"
        ]
    name = str(degrade["_target_"]).rpartition(".")[2]
    kind = str(data.get("_target_")).rpartition(".")[2]
    if keys is not None and "degrade" not in keys:
        advice = "LR of video is given or bicubic" if "frames" in keys else "its class needs an argument degrade"
        return [f"{where}: degrade ({name}): {kind} takes no degradation ({advice}); give degrade=bicubic"]
    if "degrade" not in data:
        return [
            f"{where}: degrade ({name}) does not reach the data: add degrade: ${{degrade}} to the YAML file of data"
        ]
    return _check_switched_off(cast("Mapping[str, Any]", degrade), where)


def _check_switched_off(degrade: Mapping[str, Any], where: str) -> list[str]:
    """Return a problem for each operator that is switched off (null), but that no option of the group has."""
    operators = degrade.get("operators")
    if not isinstance(operators, Mapping):
        return []
    given = cast("Mapping[str, Any]", operators)
    known = [name for name, value in given.items() if value is not None]
    for file in files_of("degrade"):
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        known += list(content.get("operators") or {})
    return [
        f"{where}: degrade.operators.{name}=null: there is no operator {name}{near(name, known, 'degrade.operators.')}"
        for name, value in given.items()
        if value is None and name not in known
    ]
