"""Print the configuration reference of the documentation in Markdown: every key with its type, default and meaning.

The content comes from the YAML files, from the type hints of the constructors and from the ``Args:`` of their docstrings.
``make docs`` runs this during its build (docs/conf.py). To run it by hand:

    python scripts/docs/config_reference.py > reference.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sr_train.config.check import OWN, callable_at, signature
from sr_train.config.folders import conf_folder, files_of, groups
from sr_train.config.help import header, keys_of
from sr_train.config.type_hints import hints_of, name_of

COMMANDS = {
    "sr-train": "train", "sr-eval": "evaluate", "sr-upscale": "upscale", "sr-interp": "interp", "sr-prepare": "prepare",
    "sr-convert": "convert",
}  # fmt: skip

# Types of keys without a type hint whose default does not show the type: COMMAND.KEY, or KEY in every command.
TYPES = {
    "train.name": "string or null", "train.stage": "string, list of strings or null", "train.stages": "mapping or null",
    "train.folder": "string", "evaluate.weights": "string, list of strings or null", "evaluate.out": "string or null",
    "evaluate.channels": "integer or null",
    "evaluate.clips": "true, list of strings, string or null", "interp.weights": "string, list of strings or null",
    "interp.out": "string or null", "prepare.clips": "string or null", "prepare.workers": "integer or auto",
    "prepare.check": "string or null", "prepare.dataset": "string or null", "prepare.root": "string, list of strings or null",
    "prepare.kind": "string, list of strings or null", "prepare.store": "string or null",
    "prepare.scales": "list of integers or null", "prepare.arithmetic": "string or null",
    "report.run": "string, list of strings or null", "report.out": "string or null",
    "upscale.precision": "32, bf16 or auto", "upscale.kernels": "exact, winograd or auto",
    "upscale.size": "string or null", "upscale.longest": "integer or null",
    "loss.ssim": "number or null", "loss.frequency": "number or null", "loss.gradient": "number or null",
    "upscale.outscale": "number or null", "convert.precision": "fp32 or fp16", "convert.name": "string or null",
    "author": "string or null", "license": "string or null", "description": "string or null",
    "weights": "string", "out": "string", "sr": "string or null", "hr": "string or null", "lr": "string or null",
    "scale": "integer or null", "lpips": "string or null", "tile": "integer, auto or null", "overlap": "integer or auto",
    "alpha": "number, list of numbers or null", "run": "string or null", "mix": "list of numbers or null",
    "images": "string or null", "list": "string or null", "store": "string", "output": "string",
    "upscale.input": "string or list of strings",
    "format": "string or null", "quality": "integer or null", "preset": "string or null", "paths.data": "string",
    "sets.hr": "string", "sets.lr": "string", "sets.clips": "all, list of strings or string",
    "max_pixels": "integer or null", "logger.none": "null", "trainer.precision": "auto, 32, bf16-mixed or 16-mixed",
    "trainer.sync_batchnorm": "auto, true or false", "trainer.timeout": "number",
}  # fmt: skip

# Keys with the same meaning in every file.
MEANINGS = {
    "sets.hr": "folder or store of HR images or clips, or `toy:NAMES`, `toy_clips:NAMES`",
    "sets.lr": "folder or store of LR images (`{scale}` is replaced by the scale); default: made from HR by bicubic; "
    "without `hr`: images without HR, scored by NIQE",
    "sets.clips": "clips to score: `all`, a list of names or a text file; without this key the set contains images",
    "sets.padding": "frames beyond a clip's ends: `replicate`, `reflection`, `reflection_circle` or `circle`",
    "sets.score": "frames to score: `all`, or `centre` (the middle frame of each clip)",
    "logger.none": "no logger",
    "logger.csv": "the logger of this name", "logger.tensorboard": "the logger of this name",
    "logger.wandb": "the logger of this name",
}  # fmt: skip

# Arguments with their own config group, and those that the task passes (lr is task.rate).
_GIVEN = {"model", "loss", "curve", "optimizer", "discriminator", "params", "lr"}
_ARGUMENT = re.compile(r"(\w+)(?: \([^)]*\))?: (.*)")


class Row(NamedTuple):
    """One key of the reference."""

    key: str
    kind: str
    default: str
    meaning: str


def arguments_of(target: str) -> dict[str, str]:
    """Return the descriptions of the arguments in a docstring; of other packages only the first sentences."""
    built = callable_at(target)
    texts = [inspect.getdoc(built) or "", inspect.getdoc(getattr(built, "__init__", None)) or ""]
    found: dict[str, str] = {}
    for text in texts:
        block = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
        lines = inspect.cleandoc(block[1]).splitlines() if block else []
        name = ""
        for line in lines:
            start = None if line.startswith(" ") else _ARGUMENT.match(line)
            if start:
                name = start[1]
                found[name] = start[2]
            elif name:
                found[name] += f" {line.strip()}"
    own = target.startswith("sr_train.")
    return {name: _plain(text if own else re.split(r"(?<=\.) |\.$| Default:", text)[0]) for name, text in found.items()}


def _plain(text: str) -> str:
    """Convert reStructuredText of a docstring to Markdown for a table cell."""
    text = re.sub(r":\w+:`~?([^`<]*?)(?: ?<[^`]*>)?`", lambda m: f"`{m[1].rpartition('.')[2]}`", text)
    return " ".join(text.replace("``", "`").split()).replace("`None`", "`null`")


def kind_of(value: object) -> str:
    """Return the type of a default, empty if the default does not show it."""
    if value is None or value == "???" or str(value).startswith("${"):
        return ""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+e[+-]?\d+", value):  # YAML reads 1e-3 as a string
        return "number"
    kinds = {bool: "true or false", int: "integer", float: "number", list: "list", dict: "mapping"}
    return kinds.get(type(value), "string")


def written(value: object) -> str:
    """Format a value for a command line."""
    if value is inspect.Parameter.empty or value == "???":
        return "must be given"
    value = list(value) if isinstance(value, tuple) else value
    return "`" + yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip() + "`"


def bases_of(content: Mapping[str, Any]) -> list[str]:
    """Return the options (of this group or of others) that a YAML file includes."""
    names = [base if isinstance(base, str) else next(iter(base)).strip("/") for base in content.get("defaults", [])]
    return [name for name in names if name != "_self_"]


def is_abstract(content: Mapping[str, Any]) -> bool:
    """Return true for a file of shared keys that builds no object."""
    return content.get("_target_") == "???"


def rows_of(file: Path, node: str) -> Iterator[Row]:
    """Return the keys of a YAML file at the config node ``node``, and the other arguments of the class that it builds."""
    content = _content(file)
    comments = {key: comment for key, _, comment in keys_of(file)}
    for base in (file.parent / f"{name}.yaml" for name in bases_of(content)):
        if base.exists() and is_abstract(shared := _content(base)):
            content = {**shared, **content}
            comments = {**{key: comment for key, _, comment in keys_of(base)}, **comments}
    content = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    yield from _walk(content, node, "", comments, file.stem if not node else file.parent.name)


def _content(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _walk(content: Mapping[str, Any], node: str, below: str, comments: Mapping[str, str], where: str) -> Iterator[Row]:
    target = content.get("_target_")
    parameters = (signature(target) or {}) if target else {}
    hints, described = (hints_of(callable_at(target)), arguments_of(target)) if target else ({}, {})
    further = [name for name in parameters if name not in content and name not in _GIVEN]
    for name in [*(key for key in content if not key.startswith("_")), *further]:
        inside = f"{below}.{name}".lstrip(".")
        key = f"{node}.{inside}".lstrip(".")
        default = content.get(name, parameters[name].default if name in parameters else None)
        nested = isinstance(default, Mapping) and bool(default)
        if nested and "_target_" not in default and not target:
            yield from _walk(default, node, inside, comments, where)
            continue
        hint = OWN.get(key) if where == "train" else hints.get(name)
        special = TYPES.get(f"{where}.{name}") or (TYPES.get(key, "") if not hint or key == "trainer.precision" else "")
        kind = special or (name_of(hint) if hint else kind_of(default))
        meaning = comments.get(inside) or described.get(name) or MEANINGS.get(f"{where}.{name}", "")
        if meaning.startswith("Deprecated"):
            continue
        if not meaning and target and not target.startswith("sr_train."):
            meaning = f"see `{target}`"
        shown = f"`{default['_target_']}`" if nested and "_target_" in default else written(default)
        yield Row(key, kind, shown, meaning)
        if nested and "_target_" in default:
            yield from _walk(default, node, inside, comments, where)


def node_of(file: Path, group: str) -> str:
    """Return the config node of a file's keys: its ``@package``, or the group's name."""
    package = re.search(r"^# @package (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return package[1] if package else group


def table(rows: Iterable[Row]) -> list[str]:
    """Return a Markdown table of keys, or a sentence if there are none."""
    lines = [f"| `{r.key}` | {_cell(r.kind)} | {_cell(r.default)} | {_cell(r.meaning)} |" for r in rows]
    return ["| key | type | default | meaning |", "|---|---|---|---|", *lines, ""] if lines else ["No keys.", ""]


def option(file: Path, group: str, known: dict[str, Row]) -> list[str]:
    """Return the section of one option of a group."""
    lines = [line.strip() for line in header(file)]
    title = " ".join(lines[: lines.index("")] if "" in lines else lines)
    content = _content(file)
    section = [f"### {group}={file.stem}", "", _cell(title), ""]
    if "_target_" in content:
        section += [f"Builds `{content['_target_']}`.", ""]
    for base in bases_of(content):
        shared = file.parent / f"{base}.yaml"
        if shared.exists() and not is_abstract(_content(shared)):
            section.append(f"It includes the keys of `{group}={base}`.")
        elif base in groups():
            section.append(f"It also chooses an option of the group `{base}`.")
    return [*section, "", *table(_completed(rows_of(file, node_of(file, group)), known))]


def _cell(text: str) -> str:
    """Escape the special characters of Markdown, and bars, which would end a table cell."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [part if part.startswith("`") else re.sub(r"([*_<\[\]{}$])", r"\\\1", part) for part in parts]
    return "".join(plain).replace("|", "\\|")


def _completed(rows: Iterable[Row], known: dict[str, Row]) -> Iterator[Row]:
    """Complete rows from the included option. ``known`` contains the rows of the group so far."""
    for row in rows:
        base = known.get(row.key, row)
        row = Row(row.key, base.kind or row.kind, row.default, row.meaning or base.meaning)
        known[row.key] = row
        yield row


def reference() -> str:
    """Return the whole page."""
    lines = []
    for command, config in COMMANDS.items():
        path = conf_folder() / f"{config}.yaml"
        lines += [f"## {command}", "", *table(rows_of(path, ""))]
    for group in groups():
        lines += [f"## Group {group}", ""]
        found = [file for file in files_of(group) if not is_abstract(_content(file))]
        files = sorted(found, key=lambda f: (not f.stem.startswith(("base", "default")), f.stem))
        if group == "experiment":
            lines += ["| experiment | |", "|---|---|", *(f"| `{f.stem}` | {_cell(header(f)[0])} |" for f in files), ""]
        else:
            known: dict[str, Row] = {}
            lines += [line for file in files for line in option(file, group, known)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference())
