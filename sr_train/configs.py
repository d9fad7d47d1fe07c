"""Where the YAML is: the installed folder, and folders of a user's own (``SR_CONF``). Imports nothing heavy."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path


def conf_folder() -> Path:
    """Where the YAML is installed: beside the package in a wheel, at the top of a checkout."""
    spec = find_spec("sr_train.conf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("sr_train.conf is not installed: run python -m pip install . in the checkout")
    return Path(next(iter(spec.submodule_search_locations)))


def own_folders() -> list[Path]:
    """Folders of ``SR_CONF`` (several are joined as in PATH), each of GROUP/NAME.yaml as in the installed one.

    Raises ValueError for a folder that holds no such file, or one that the installed YAML has already: only one of two files
    of the same name can be meant, and it would not be said which.
    """
    folders = [Path(part).absolute() for part in os.environ.get("SR_CONF", "").split(os.pathsep) if part]
    installed = conf_folder() if folders else None
    for folder in folders:
        names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.yaml"))]
        if not any("/" in name for name in names):
            raise ValueError(
                f"SR_CONF={folder}: expected a folder of GROUP/NAME.yaml, e.g. {folder / 'experiment' / 'mine.yaml'}"
            )
        for name in names:
            if installed is not None and (installed / name).exists():
                raise ValueError(f"{folder / name}: sr-train has {name} already; give yours another name")
    return folders


def conf_folders() -> list[Path]:
    """All folders of YAML, the installed one first."""
    return [conf_folder(), *own_folders()]


def files_of(group: str) -> list[Path]:
    """The YAML files of a config group, in all folders."""
    return [p for folder in conf_folders() for p in sorted((folder / group).rglob("*.yaml"))]


def options_of(group: str) -> list[str]:
    """What may be chosen in a config group, e.g. ``edsr_x2``."""
    groups = [folder / group for folder in conf_folders()]
    return sorted(p.relative_to(g).with_suffix("").as_posix() for g in groups for p in g.rglob("*.yaml"))


def groups() -> list[str]:
    """Names of the config groups."""
    found = {p.name for folder in conf_folders() for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.yaml"))}
    return sorted(found)


def search_path() -> list[str]:
    """What Hydra is told, so that it looks into the user's folders too: overrides, one or none."""
    quoted = ",".join(json.dumps(f"file://{folder}", ensure_ascii=False) for folder in own_folders())
    return [f"hydra.searchpath=[{quoted}]"] if quoted else []
