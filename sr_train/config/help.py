"""Texts of ``--help`` and ``--help NAME``: the keys of a command, and the options and keys of a config group or block.

The texts are made from the YAML files; no class is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sr_train.config.folders import conf_folder, files_of, groups, near, options_of, then
from sr_train.console import UsageError

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?P<value>[^#]*)(?:# *(?P<comment>.*))?$")


def header(path: Path) -> list[str]:
    """Return the comment lines at the top of a YAML file, without Hydra's ``@package``."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line[1:].removeprefix(" "))
    return lines


def keys_of(path: Path) -> list[tuple[str, str, str]]:
    """Return (dotted key, default, comment) for every key of a YAML file, in order."""
    found, parents = [], []
    in_defaults = False
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _KEY.match(line)
        if line.startswith("defaults:"):
            in_defaults = True
        elif in_defaults and not line.startswith((" ", "-")):
            in_defaults = False
        if match is None or in_defaults:
            continue
        depth = len(match["indent"]) // 2
        parents = [*parents[:depth], match["key"]]
        value = match["value"].strip()
        if (value or match["comment"]) and parents[0] != "hydra":
            found.append((".".join(parents), value, match["comment"] or ""))
    return found


def group_options() -> dict[str, list[str]]:
    """Return the config groups and their options (file names)."""
    return {group: [o for o in options_of(group) if o != "base"] for group in groups()}


def help_text(command: str, config: str, show_groups: Sequence[str] = ()) -> str:
    """Return the text of ``--help``: the first comment of the command's YAML file and its keys."""
    path = conf_folder() / f"{config}.yaml"
    rows = keys_of(path)
    width = max(len(f"{key}={value}") for key, value, _ in rows)
    lines = [f"usage: {command} KEY=VALUE ...", "", *header(path), "", "Keys (KEY=default):"]
    lines += [f"  {f'{key}={value}':<{width}}  {comment}".rstrip() for key, value, comment in rows]
    if show_groups:
        example = next(g for g in ("trainer", *show_groups) if g in show_groups)
        lines += ["", f"Groups (GROUP=OPTION; their keys as GROUP.KEY=VALUE: {command} --help {example}):"]
        lines += [
            f"  {name + '=':<14}{' '.join(options)}" for name, options in group_options().items() if name in show_groups
        ]
    return "\n".join(lines)


_DECIMAL = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)

_PACKAGE = re.compile(r"^# @package (\S+)$", re.MULTILINE)


class Row(NamedTuple):
    """One key of a YAML file."""

    key: str
    default: str  #: as written in the file
    kind: str
    comment: str


def topic_text(command: str, config: str, topic: str, groups: Sequence[str]) -> str:
    """Return the help on a group (``trainer``), a block (``validate``) or a key (``validate.every``).

    Raise UsageError for other names.
    """
    if topic in groups:
        return _group_text(command, topic)
    rows = [row for row in _rows(conf_folder() / f"{config}.yaml") if not row.key.startswith("hydra.")]
    mine = [row for row in rows if row.key == topic or row.key.startswith(f"{topic}.")]
    if mine:
        return "\n".join([f"usage: {command} KEY=VALUE ...", "", *_table(mine)])
    head, _, rest = topic.partition(".")
    if rest and head in groups:
        return _group_text(command, head)
    known = [*groups, *dict.fromkeys(row.key.partition(".")[0] for row in rows)]
    listed = then(near(head, known), f"there are {', '.join(known)}")
    raise UsageError(f"--help {topic}: there is no such group or key{listed}")


def _group_text(command: str, group: str) -> str:
    """Return the title and the keys of every option of a config group. For experiments, return only the titles."""
    files = sorted(files_of(group), key=lambda f: (not f.stem.startswith(("base", "default")), f.stem))
    if group == "experiment":
        width = max(len(f.stem) for f in files)
        return "\n".join(
            [f"usage: {command} experiment=NAME ...", "", *(f"  {f.stem:<{width}}  {_title(f)}" for f in files)]
        )
    option = "[OPTION,...]" if group in ("sets", "logger") else "OPTION"
    lines = [f"usage: {command} {group}={option} {_node(files[0], group)}.KEY=VALUE ...", ""]
    for file in files:
        rows = _rows(file)
        target = next((row.default for row in rows if row.key == "_target_"), "")
        node = _node(file, group)
        shown = [row._replace(key=f"{node}.{row.key}") for row in rows if row.key not in ("_target_", "_partial_")]
        lines += [f"{group}={file.stem}  {_title(file)}".rstrip(), *_table(shown)]
        lines += [f"  and the keys of {group}={name}" for name in _defaults(file)]
        lines += [f"  and the other arguments of {target}"] if target not in ("", "???") else []
        lines.append("")
    return "\n".join(lines).rstrip()


def _rows(file: Path) -> list[Row]:
    """Return a row (key, default, type, comment) for each key of a YAML file, in order."""
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    written = {key: (value, comment) for key, value, comment in keys_of(file)}
    rows = []
    for key, value in _leaves({k: v for k, v in content.items() if k != "defaults"}, written):
        dumped = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        default, comment = written.get(key, ("", ""))
        rows.append(Row(key, default or dumped, _kind(value), comment))
    return rows


def _leaves(
    node: dict[str, Any], written: Mapping[str, tuple[str, str]], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, default value) for each key of a YAML file.

    A mapping that is written on one line counts as one value.
    """
    for key, value in node.items():
        if isinstance(value, dict) and value and not written.get(f"{prefix}{key}", ("", ""))[0]:
            yield from _leaves(value, written, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _title(file: Path) -> str:
    return next(iter(header(file)), "")


def _node(file: Path, group: str) -> str:
    """Return the config node of a file's keys: its ``@package``, or the group's name."""
    package = _PACKAGE.search(file.read_text(encoding="utf-8"))
    return group if package is None else package[1].removeprefix("_global_")


def _defaults(file: Path) -> list[str]:
    """Return the names of the files of its config group that a YAML file includes, e.g. by ``defaults: [base]``."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return [name for name in content.get("defaults", []) if isinstance(name, str) and name != "_self_"]


def _table(rows: Sequence[Row]) -> list[str]:
    """Return lines with three columns: KEY=default, type, comment."""
    left = [f"{row.key}={row.default}" for row in rows]
    wide, kinds = (max(map(len, column), default=0) for column in (left, [row.kind for row in rows]))
    wide = min(wide, 60)
    return [
        f"  {text:<{wide}}  {row.kind:<{kinds}}  {row.comment}".rstrip() for text, row in zip(left, rows, strict=True)
    ]


def _kind(value: object) -> str:
    """Return the name of a default's type; an empty string for null, a required value or a reference to another key."""
    if value is None or value == "???" or str(value).startswith("${"):
        return ""
    if isinstance(value, str):  # YAML reads 1e-3 as a string, OmegaConf does not
        return "number" if _DECIMAL.match(value) else "string"
    kinds = {bool: "true or false", int: "integer", float: "number", list: "list", dict: "mapping"}
    return kinds.get(type(value), "")
