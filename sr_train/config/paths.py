"""Path-valued keys of the commands: their values are taken literally, so every file name works.

All other values have Hydra's grammar, which refuses most characters outside of ASCII letters and digits. The value of a
path-valued key is the first of these that fits: a path that exists as typed; null; a list of paths; a template, a glob
or another name, in which ``${KEY}`` is replaced by the value of KEY. The path of an output is always literal. In a
sweep, commas separate the values; the user puts a value that contains a comma in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


class Kind(NamedTuple):
    """Rules for reading the value of a path-valued key."""

    written: bool = False  #: an output, which is literal whatever exists
    listed: bool = False  #: a list is also allowed
    null: bool = True  #: null is a value, not a file's name
    filled: bool = True  #: ``${KEY}`` is replaced, unless such a path exists


INPUT, LIST = Kind(), Kind(listed=True)
OUTPUT = Kind(written=True, null=False, filled=False)
OPTIONAL = Kind(written=True, filled=False)  # null is its default
FILLED = Kind(written=True)
BASE = Kind(written=True, null=False)  # a base folder

_SOURCE = {"hr": INPUT, "lr": INPUT, "clips": LIST, "without": LIST}

PATH_KEYS: dict[str, dict[str, Kind]] = {  # command's YAML file -> key, * is any one name -> kind
    "train": {
        "init.weights": INPUT,
        "init.discriminator": INPUT,
        "validate.lpips": INPUT,
        "loss.perceptual.extractor.weights": INPUT,
        "data.stage": FILLED,
        "sheet": OPTIONAL,
        "name": FILLED,
        "paths.*": BASE,
        **{f"{sets}.*.{key}": kind for sets in ("sets", "data.val") for key, kind in _SOURCE.items()},
    },
    "evaluate": {
        "weights": LIST,
        "sr": INPUT,
        "hr": INPUT,
        "lr": INPUT,
        "list": INPUT,
        "clips": LIST,
        "lpips": INPUT,
        "out": OPTIONAL,
        "paths.*": BASE,
        **{f"sets.*.{key}": kind for key, kind in _SOURCE.items()},
    },
    "interp": {
        "weights": LIST,
        "run": INPUT,
        "images": INPUT,
        "lpips": INPUT,
        "out": OPTIONAL,
        "paths.*": BASE,
    },
    "prepare": {
        "root": LIST,
        "images": INPUT,
        "clips": INPUT,
        "list": INPUT,
        "check": INPUT,
        "lr": INPUT,
        "out": OPTIONAL,
        "store": OUTPUT,
        "paths.*": BASE,
    },
    "report": {"run": LIST, "out": OPTIONAL, "paths.*": BASE},
    "upscale": {"weights": INPUT, "input": LIST, "output": OUTPUT},
    "convert": {
        "weights": INPUT,
        "out": OUTPUT,
        "name": OPTIONAL,
        "author": OPTIONAL,
        "license": OPTIONAL,
        "description": OPTIONAL,
    },
}

# An item in quotes, or everything up to the next comma
_ITEM = re.compile(r"""\s*(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=,|$)|[^,]*""", re.DOTALL)

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)

_BY_SCALE = re.compile(r"\{\s*\d+\s*:.*\}", re.DOTALL)  # lr={2: DIR, 3: DIR}

_FUNCTION = re.compile(r"(?:choice|shuffle|sort|tag)\(.*\)", re.DOTALL)  # of Hydra's sweeps


def kind_of(command: str, key: str) -> Kind | None:
    """Return the :class:`Kind` of a path-valued key; None for other keys.

    For ``train``, the key may begin with a stage's name.
    """
    return _kind(command, key.lstrip("+"))


@cache
def _kind(command: str, key: str) -> Kind | None:
    stage = r"(?:[^.]+\.)?" if command == "train" else ""
    for known, kind in PATH_KEYS[command].items():
        pattern = re.escape(known).replace(r"\*", r"[^.]+")
        if re.fullmatch(pattern if known == "name" else stage + pattern, key):
            return kind
    return None


def quote_paths(command: str, arguments: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Quote the values of path-valued keys, so that Hydra parses each to the text that the user typed.

    Args:
        command: name of the command's YAML file, e.g. ``upscale``.
        arguments: command-line arguments as typed. Arguments without a path-valued key are returned unchanged.
        sweep: true if the command line is a sweep, in which commas separate the values of a key.
    """
    return [_quoted_argument(command, argument, sweep=sweep) for argument in arguments]


def _quoted_argument(command: str, argument: str, *, sweep: bool) -> str:
    key, sign, value = argument.partition("=")
    kind = kind_of(command, key) if sign else None
    if kind is None:
        return argument
    if sweep and not _FUNCTION.fullmatch(value):
        return f"{key}={','.join(_item(part, kind) for part in _split(value))}"
    return argument if sweep else f"{key}={_value(value, kind)}"


def _value(value: str, kind: Kind) -> str:
    """Return a typed value in Hydra's grammar."""
    if kind.null and value == "null" and (kind.written or not _exists(value)):
        return value
    if kind.written:
        return quote(value, literal=not kind.filled)
    if _exists(value):
        return quote(value, literal=True)
    if _BY_SCALE.fullmatch(value) or _QUOTED.fullmatch(value):
        return value
    if kind.listed and value in ("true", "false"):
        return value
    if kind.listed and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_item(part, kind) for part in _split(value[1:-1]))}]" if value[1:-1].strip() else value
    parts = _split(value)
    if len(parts) > 1 and all(part == "bicubic" or _exists(part) for part in parts):  # an error that asks for a list
        return ",".join(_item(part, kind) for part in parts)
    return quote(value)


def _item(text: str, kind: Kind) -> str:
    """Return one item of a list or of a sweep in Hydra's grammar."""
    text = text if not kind.written and _exists(text) else text.strip()
    if _QUOTED.fullmatch(text) or (text == "null" and kind.null):
        return text
    return quote(text, literal=not kind.filled or (not kind.written and _exists(text)))


def matching(key: str, value: str) -> list[str]:
    """Return the paths that one item of a path-valued key names.

    That is the path itself if it exists or contains none of ``* ? [``, else the sorted matches of the glob; ``**`` stands for
    any number of folders. Raises FileNotFoundError that contains the glob if nothing matches.
    """
    if _exists(value) or not has_magic(value):
        return [value]
    found = sorted(glob(value, recursive=True))  # noqa: PTH207 - absolute and relative ones
    if not found:
        raise FileNotFoundError(f"{key}={value}: no file or folder matches this pattern in {Path.cwd()}")
    return found


def _split(text: str) -> list[str]:
    """Split a value at its commas. Commas inside quotes are kept if the quotes enclose a whole item."""
    items, position = list[str](), 0
    while True:
        found = _ITEM.match(text, position)
        assert found is not None
        items.append(found[0])
        position = found.end() + 1
        if position > len(text):
            return items


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False


def quote(value: str, *, literal: bool = False) -> str:
    """Return a string in Hydra's grammar, with quotes only if the string needs them.

    Hydra replaces ``${KEY}`` in the string by a value, unless ``literal`` is true.
    """
    if literal:
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if _parses_to_itself(value):
        return value
    inner = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"\\+$", r"\g<0>\g<0>", inner) + "'"


def _parses_to_itself(value: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
        return not override.is_sweep_override() and override.value() == value
    except HydraException:
        return False


def unquoted(command: str, argument: str) -> str:
    """Convert KEY=VALUE from Hydra's grammar to the form that a user types: the value of a path-valued key has no quotes."""
    key, sign, value = argument.partition("=")
    if not sign or kind_of(command, key) is None:
        return argument
    override = OverridesParser.create().parse_override(f"key={value}")
    text = None if override.is_sweep_override() else override.value()
    return f"{key}={text}" if isinstance(text, str) else argument
