"""Pairs of images by their names, where a program has added an ending to the names of one folder.

A name is paired with a stem in one of three ways:

- It is a usual name of the stem (``baby``, ``babyx2``).
- It is the only name that begins with the stem, and all such names have the same ending (``baby_x2_SR``, ``bird_x2_SR``).
- It matches a given pattern (``{stem}_x{scale}_SR``).

Nothing is guessed: if several names fit, the error message lists them.
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
    """Names by stem, and error messages for the stems that cannot be paired."""

    names: dict[str, str]
    problems: list[str]
    ending: str  #: common ending of the names that begin with a stem, e.g. "_x2_SR"; "" if there are none


def split_template(where: str) -> tuple[str, str | None]:
    """Split ``DIR/{stem}_SR.png`` into the source ``DIR`` and the pattern ``{stem}_SR``, which is None for a plain source."""
    if "{stem}" not in where or Path(where).exists():
        return where, None
    parts = PurePosixPath(where).parts
    first = next(i for i, part in enumerate(parts) if "{stem}" in part)
    pattern = "/".join(parts[first:])
    if Path(pattern).suffix.lower() in SUFFIXES:
        pattern = str(PurePosixPath(pattern).with_suffix(""))
    return str(PurePosixPath(*parts[:first])), pattern


def roots_of(stems: Collection[str]) -> dict[str, list[str]]:
    """Return for each stem how its names may begin: the stem, and the stem without ``_HR`` or ``_GT`` if that is unique."""
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
    """Find the name that belongs to each stem.

    Args:
        stems: names of the images on one side, e.g. HR.
        names: names of the images on the other side.
        scale: value of ``{scale}`` in the pattern, and of the ``x2`` that may follow a stem.
        usual: function from a stem to its usual names; the first that exists is used.
        pattern: name with ``{stem}`` in it; if it is given, no other name is searched.
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
    """Pair by a pattern, filled with the stem or its beginning; two names for a stem or two stems for a name are problems."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for stem, candidates in looked.items():
        there = [n for n in candidates if n in names]
        if len(there) == 1:
            found[stem] = there[0]
        elif there:
            problems.append(f"{stem}: {' and '.join(there)} both fit the pattern")
        else:
            problems.append(f"{stem}: no image is named {' or '.join(candidates)}")
    return Paired(found, problems + _shared(found), "")


def _shared(found: Mapping[str, str]) -> list[str]:
    """Return a message for every name that several stems would be paired with."""
    stems: dict[str, list[str]] = {}
    for stem, name in found.items():
        stems.setdefault(name, []).append(stem)
    return [f"{', '.join(own)}: would all be paired with {name}" for name, own in stems.items() if len(own) > 1]


def _begun(roots: Mapping[str, Sequence[str]], names: Collection[str], scale: int) -> dict[str, dict[str, str]]:
    """Return stem -> {name: its ending}. The longest beginning decides: ``img_1_SR`` belongs to img_1, not to img."""
    owner = {root: stem for stem, own in roots.items() for root in own}
    # At least a separator and a letter: img_10 is another image, not img with an ending.
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
    """Pair each stem with the only name that begins with it, if all these names have the same ending."""
    names, problems = dict(found), _shared(found)
    endings: dict[str, str] = {}
    for stem, looked in rest.items():
        options = begun.get(stem, {})
        if not options:
            problems.append(
                f"{stem}: no image is named {' or '.join(looked)}, and no name begins with {roots[stem][-1]}_"
            )
        elif len(options) > 1:
            problems.append(f"{stem}: more than one name begins with it: {', '.join(sorted(options)[:5])}")
        else:
            ((names[stem], ending),) = options.items()
            endings.setdefault(ending, names[stem])
    if len(endings) > 1:
        shown = ", ".join(list(endings.values())[:5])
        problems.append(f"names have different endings: {shown}")
    return Paired(names, problems, next(iter(endings)) if len(endings) == 1 else "")
