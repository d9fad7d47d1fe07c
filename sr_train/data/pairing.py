"""Pairs of images by their names: one folder's against another's, whose names some program has extended.

A name is paired with a stem in one of three ways: it is a usual one (``baby``, ``babyx2``); it is the only one that begins with
the stem, and all of these continue alike (``baby_x2_SR``, ``bird_x2_SR``); it is that of a pattern (``{stem}_x{scale}_SR``).
Nothing is guessed: where several names fit, the problem lists them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sr_train.data.images import SUFFIXES

_HR_ENDING = re.compile(r"(?:[_-]x\d+)?[_-](?:HR|GT)(?:[_-]?x\d+)?$", re.IGNORECASE)  # baby_HR_x2, baby_GT


class Paired(NamedTuple):
    """Names by stem, and what keeps the other stems from being paired."""

    names: dict[str, str]
    problems: list[str]
    ending: str  #: "_x2_SR", in which all names end that only begin with a stem; "" where there are none


def split_template(where: str) -> tuple[str, str | None]:
    """Split ``DIR/{stem}_SR.png`` into the source ``DIR`` and the pattern ``{stem}_SR``; None for a source as it is."""
    if "{stem}" not in where or Path(where).exists():
        return where, None
    parts = PurePosixPath(where).parts
    first = next(i for i, part in enumerate(parts) if "{stem}" in part)
    pattern = "/".join(parts[first:])
    if Path(pattern).suffix.lower() in SUFFIXES:
        pattern = str(PurePosixPath(pattern).with_suffix(""))
    return str(PurePosixPath(*parts[:first])), pattern


def roots_of(stems: Collection[str]) -> dict[str, list[str]]:
    """Beginnings of each stem's names: the stem and, without ``_HR``, ``_GT``, ``_HR_x2``, what no other stem has too."""
    bases = {stem: _HR_ENDING.sub("", stem) for stem in stems}
    taken = Counter([*stems, *(base for stem, base in bases.items() if base != stem)])
    return {s: [s, base] if base not in ("", s) and taken[base] == 1 else [s] for s, base in bases.items()}


def pair_names(
    stems: Collection[str],
    names: Collection[str],
    *,
    scale: int,
    usual: Callable[[str], Sequence[str]],
    pattern: str | None = None,
) -> Paired:
    """Find each stem's name.

    Args:
        stems: names of the images that are paired, e.g. of HR.
        names: those that they are paired with.
        scale: value of ``{scale}`` in the pattern, and of the ``x2`` that may follow a stem.
        usual: stem -> names in use, the first that is there is taken.
        pattern: with ``{stem}``: the only name that is looked for.
    """
    roots, names = roots_of(stems), set(names)
    if pattern is not None:
        fill = pattern.replace("{scale}", str(scale))
        return _by_candidates({s: [fill.replace("{stem}", r) for r in roots[s]] for s in stems}, names)
    looked = {stem: list(dict.fromkeys(n for root in roots[stem] for n in usual(root))) for stem in stems}
    exact = {stem: next((n for n in looked[stem] if n in names), None) for stem in stems}
    found = {stem: name for stem, name in exact.items() if name is not None}
    rest = {stem: looked[stem] for stem in stems if stem not in found}
    if not rest:
        return Paired(found, _shared(found), "")
    begun = _begun(roots, names - set(found.values()), scale)
    return _by_beginning(found, rest, roots, begun)


def _by_candidates(looked: Mapping[str, Sequence[str]], names: set[str]) -> Paired:
    """Pairs by a pattern, which both the stem and its beginning may fill: not two names, and no name for two stems."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for stem, candidates in looked.items():
        there = [n for n in candidates if n in names]
        if len(there) == 1:
            found[stem] = there[0]
        elif there:
            problems.append(f"{stem}: {' and '.join(there)} both fit the pattern")
        else:
            problems.append(f"{stem}: there is no {' or '.join(candidates)}")
    return Paired(found, problems + _shared(found), "")


def _shared(found: Mapping[str, str]) -> list[str]:
    """Names that two stems would be paired with."""
    stems: dict[str, list[str]] = {}
    for stem, name in found.items():
        stems.setdefault(name, []).append(stem)
    return [f"{', '.join(own)}: would all be paired with {name}" for name, own in stems.items() if len(own) > 1]


def _begun(roots: Mapping[str, Sequence[str]], names: Collection[str], scale: int) -> dict[str, dict[str, str]]:
    """Return stem -> {name: its ending}. A name is that of the longest beginning: ``img_1_SR`` is of img_1, not of img."""
    owner = {root: stem for stem, own in roots.items() for root in own}
    # A separator and a letter at least: img_10 is a number of its own, not img's continuation.
    ending = re.compile(rf"(?:x{scale})?[^0-9A-Za-z/][^/]*[A-Za-z][^/]*")
    begun: dict[str, dict[str, str]] = {}
    for name in names:
        for cut in range(len(name) - 1, 0, -1):
            if name[:cut] in owner and ending.fullmatch(name[cut:]):
                begun.setdefault(owner[name[:cut]], {})[name] = name[cut:]
                break
    return begun


def _by_beginning(
    found: Mapping[str, str],
    rest: Mapping[str, Sequence[str]],
    roots: Mapping[str, Sequence[str]],
    begun: Mapping[str, Mapping[str, str]],
) -> Paired:
    """Pairs by the only name that begins with a stem, if all of these end alike."""
    names, problems = dict(found), _shared(found)
    endings: dict[str, str] = {}
    for stem, looked in rest.items():
        options = begun.get(stem, {})
        if not options:
            problems.append(f"{stem}: there is no {', '.join(looked)}, nor a name that begins with {roots[stem][-1]}_")
        elif len(options) > 1:
            problems.append(f"{stem}: more than one name begins with it: {', '.join(sorted(options)[:5])}")
        else:
            ((names[stem], ending),) = options.items()
            endings.setdefault(ending, names[stem])
    if len(endings) > 1:
        shown = ", ".join(list(endings.values())[:5])
        problems.append(f"names do not continue alike: {shown}")
    return Paired(names, problems, next(iter(endings)) if len(endings) == 1 else "")
