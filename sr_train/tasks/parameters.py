"""Selection of trained parameters, and of their learning rates, by glob patterns of parameter names.

A pattern that matches no parameter is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


def _matching(names: Iterable[str], glob: str) -> list[str]:
    return [name for name in names if fnmatchcase(name, glob)]


def _nothing(glob: str, names: Sequence[str], key: str) -> ValueError:
    """Return the error for a glob that matches no name, with similar names."""
    heads = list(dict.fromkeys(".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 2)))
    stem = glob.strip("*").rstrip(".")
    tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
    close = get_close_matches(stem, heads, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    shown = ", ".join(tops[:20]) + (", ..." if len(tops) > 20 else "")
    return ValueError(f"{key}: {glob!r} matches no parameter{hint} (names of parameters begin with {shown})")


def freeze(
    network: nn.Module, trainable: Sequence[str], *, key: str = "task.trainable", may_freeze_all: bool = False
) -> None:
    """Freeze all parameters whose names match no glob pattern in ``trainable``.

    Raise ValueError for a pattern that matches no parameter; the message contains similar names. ``key`` is the option in
    messages. An empty ``trainable`` freezes all parameters if ``may_freeze_all`` is true; else it raises ValueError.
    """
    if not trainable and not may_freeze_all:
        raise ValueError(f"{key}=[] freezes all parameters; give {key}=['*'] to train all parameters")
    parameters = dict(network.named_parameters())
    chosen: set[str] = set()
    for glob in trainable:
        found = _matching(parameters, glob)
        if not found:
            raise _nothing(glob, list(parameters), key)
        chosen.update(found)
    for name, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and name in chosen)


def split(network: nn.Module, rate_scale: Mapping[str, object]) -> list[tuple[str, list[nn.Parameter]]]:
    """Group trainable parameters by the first glob pattern that matches their names.

    Return [(pattern, parameters), ...]. The first group has the pattern "" and contains the parameters that match no
    pattern. Raise ValueError for a factor that is not positive, and for a pattern whose group would be empty.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    left = dict(trained)
    groups: list[tuple[str, list[nn.Parameter]]] = []
    for glob, factor in rate_scale.items():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
            raise ValueError(
                f"task.rate_scale: {glob!r}: {factor!r} is not a positive number; to freeze parameters use task.trainable"
            )
        found = _matching(left, glob)
        if not found and _matching((name for name, _ in network.named_parameters()), glob):
            why = "match an earlier glob" if _matching(trained, glob) else "are frozen by task.trainable"
            raise ValueError(f"task.rate_scale: {glob!r}: all parameters that match this glob {why}")
        if not found:
            raise _nothing(glob, list(trained), "task.rate_scale")
        groups.append((glob, [left.pop(name) for name in found]))
    return [("", list(left.values())), *groups] if left else groups


def suffixes(globs: Iterable[str]) -> dict[str, str]:
    """Return {glob pattern: suffix for names in the logs}, e.g. {``*dcn*``: ``_scaled_dcn``}. Equal suffixes are numbered."""
    names: dict[str, str] = {}
    for glob in globs:
        name = f"_scaled_{re.sub(r'[^A-Za-z0-9]+', '_', glob).strip('_') or 'all'}"
        taken = sum(n == name or n.startswith(f"{name}__") for n in names.values())
        names[glob] = f"{name}__{taken + 1}" if taken else name
    return names
