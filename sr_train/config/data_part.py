"""The data part of a config file: of a run, of an experiment, or of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from sr_train.config.folders import conf_folders
from sr_train.config.plan import plan
from sr_train.console import UsageError

_GROUPS = ("experiment", "data", "sets")


def data_parts(path: str, scales: Sequence[int] = ()) -> list[Mapping[str, Any]]:
    """Return the data part of every stage of a YAML file.

    Args:
        path: ``runs/NAME/STAGE/config.yaml``, or a file in ``conf/experiment``, ``conf/data``, ``conf/sets`` or in the same
            folders of ``SR_CONF``.
        scales: scales instead of those of the file.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    option = _option(file)
    if option is not None:
        return [stage.config["data"] for stage in plan([option, *_at(scales)]).stages]
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    data = cast("Mapping[str, Any]", content).get("data") if isinstance(content, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(cast("Mapping[str, Any]", data).get("train"), list):
        raise UsageError(
            f"{path}: contains no data.train; expected runs/NAME/STAGE/config.yaml, or a file of conf/experiment or conf/data "
            "(files of your own: SR_CONF=FOLDER)"
        )
    found = dict(cast("Mapping[str, Any]", data))
    return [{**found, "scale": None, "scales": list(scales)} if scales else found]


def _option(file: Path) -> str | None:
    """Return GROUP=NAME if a file is an option of a config group."""
    for folder in conf_folders():
        for group in _GROUPS:
            place = (folder / group).resolve()
            if file.resolve().is_relative_to(place):
                name = file.resolve().relative_to(place).with_suffix("").as_posix()
                return f"{group}=[{name}]" if group == "sets" else f"{group}={name}"
    return None


def _at(scales: Sequence[int]) -> list[str]:
    if not scales:
        return []
    return [f"scale={scales[0]}"] if len(scales) == 1 else ["scale=null", f"scales=[{','.join(map(str, scales))}]"]
