"""Pairs of images that are found by their names, e.g. if a program has added an ending to the names in one folder.

:func:`match_lr` pairs LR with HR images, by a pattern or by the endings that data sets use (``0001x2``,
``baby_LRBI_x2``). :func:`pair_names` pairs finished images with HR images. A stem is the name of an HR image without
suffix, e.g. ``baby``. The name of another image is paired with a stem in one of three ways:

- The name is the stem, or the stem with a usual ending (``baby``, ``babyx2``).
- The name is the only one that begins with the stem, and the names for all stems have the same ending (``baby_x2_SR``,
  ``bird_x2_SR``).
- The name matches a given pattern (``{stem}_x{scale}_SR``).

Nothing is guessed: if several names fit one stem, the error message lists them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sr_train.data.images import SUFFIXES

_HR_ENDING = re.compile(r"(?:[_-]x\d+)?[_-](?:HR|GT)(?:[_-]?x\d+)?$", re.IGNORECASE)  # baby_HR_x2, baby_GT


_SELFEXSR = re.compile(r"^(?P<stem>.*)_SRF_(?P<scale>\d+)_(?P<kind>HR|LR)$")

# 0001x2, 0001x4m (DIV2K mild), baby_x2, baby_LR, baby_LRBI_x2, baby_x2_LR, img_001_SRF_2_LR; N is the scale
_LR_ENDING = r"[_-]?xN[mdw]?|[_-]LR(?:[_-]?(?:BI|BD|DN|bicubic))?(?:[_-]?xN)?|[_-]?xN[_-]LR|_SRF_N_LR"

_ANY_LR = re.compile(_LR_ENDING.replace("N", r"\d+"), re.IGNORECASE)

_ENDING_START = re.compile(r"[_-]?x\d|[_-]LR|_SRF_", re.IGNORECASE)


class Matched(NamedTuple):
    """LR names by HR name."""

    where: str  #: name of the LR source, for messages
    names: dict[str, str]
    ambiguous: dict[str, str]  #: error messages for HR names that several LR names fit
    extra: list[str]  #: LR names that belong to no HR name
    missing: dict[str, str]  #: error messages for HR names that no LR name fits


class Paired(NamedTuple):
    """Names by stem (name of the HR image), and error messages for the stems that cannot be paired."""

    names: dict[str, str]
    problems: list[str]
    ending: str  #: common ending of the names that begin with a stem, e.g. "_x2_SR"; "" if there are none
    extra: Sequence[str] = ()  #: names that belong to no stem


def split_template(where: str) -> tuple[str, str | None]:
    """Split ``DIR/{stem}_SR.png`` into the source ``DIR`` and the pattern ``{stem}_SR``.

    The pattern is None if the source contains no ``{stem}``.
    """
    if "{stem}" not in where or Path(where).exists():
        return where, None
    parts = PurePosixPath(where).parts
    first = next(i for i, part in enumerate(parts) if "{stem}" in part)
    pattern = "/".join(parts[first:])
    if Path(pattern).suffix.lower() in SUFFIXES:
        pattern = str(PurePosixPath(pattern).with_suffix(""))
    return str(PurePosixPath(*parts[:first])), pattern


def roots_of(stems: Collection[str]) -> dict[str, list[str]]:
    """Return the possible beginnings of paired names for each stem (name of an HR image).

    Beginnings are the stem itself, and the stem without ``_HR`` or ``_GT`` if no other stem has the same beginning.
    """
    bases = {stem: _HR_ENDING.sub("", stem) for stem in stems}
    taken = Counter([*stems, *(base for stem, base in bases.items() if base != stem)])
    return {s: [s, base] if base not in ("", s) and taken[base] == 1 else [s] for s, base in bases.items()}


def hr_names(keys: Sequence[str]) -> dict[str, int]:
    """Map the name of each HR image to its index.

    ``img_001_SRF_2_HR`` (SelfExSR) is named ``img_001``. LR files next to their HR files are left out: ``img_001_SRF_2_LR``,
    and ``baby_LR`` or ``baby_x2`` next to ``baby_HR``.
    """
    names: dict[str, int] = {}
    bases = {base for key in keys if (base := _HR_ENDING.sub("", key)) != key}
    for index, key in enumerate(keys):
        match = _SELFEXSR.match(key)
        if match is not None:
            names |= {match["stem"]: index} if match["kind"] == "HR" else {}
        elif not bases or _HR_ENDING.search(key) or not any(key[:cut] in bases for cut in _cuts(key, _ANY_LR)):
            names[key] = index
    return names


def _cuts(name: str, ending: re.Pattern[str]) -> list[int]:
    """Return the positions at which a name can be cut so that an ending such as ``_x2`` or ``_LR`` remains, last one first."""
    starts = [m.start() for m in _ENDING_START.finditer(name)]
    return [cut for cut in reversed(starts) if cut and ending.fullmatch(name, cut)]


def match_lr(
    stems: Collection[str],
    names: Collection[str],
    *,
    scale: int,
    where: str,
    pattern: str | None = None,
    own: Collection[str] = (),
) -> Matched:
    """Find the LR name that belongs to each HR name.

    Args:
        stems: names of the HR images, see :func:`hr_names`.
        names: names of the LR images.
        scale: number that replaces ``{scale}`` in the pattern, and that is allowed in endings (``x2`` for scale 2).
        where: name of the LR source, for messages.
        pattern: name of an LR image with ``{stem}`` in it. If a pattern is given, names with usual endings are not
            searched.
        own: names of the HR files, if HR and LR files are in one source. HR files are then not used as LR files.
    """
    held, known = set(names), set(stems)
    if pattern is None and held <= known:  # the usual case, and the fastest
        missing = {stem: _no_lr(stem, scale) for stem in stems if stem not in held}
        return Matched(where, {stem: stem for stem in stems if stem in held}, {}, [], missing)
    roots = roots_of(stems)
    if pattern is not None:
        fill = pattern.replace("{scale}", str(scale))
        tried = {stem: [fill.replace("{stem}", root) for root in roots[stem]] for stem in stems}
        fits = {stem: [name for name in own_names if name in held] for stem, own_names in tried.items()}
        missing = {stem: f"{stem}: no {' or '.join(tried[stem])}" for stem, found in fits.items() if not found}
    else:
        fits = _by_lr_endings(roots, held, scale)
        missing = {stem: _no_lr(stem, scale) for stem, found in fits.items() if not found}
    own = set(own)
    fits = {stem: [n for n in found if n not in own] or found for stem, found in fits.items()}
    ambiguous = {stem: f"{stem}: {' and '.join(found)} both match" for stem, found in fits.items() if len(found) > 1}
    names = {stem: found[0] for stem, found in fits.items() if len(found) == 1}
    used = {name for found in fits.values() for name in found}
    return Matched(where, names, ambiguous, _extra(held - used - own, roots), missing)


def _extra(names: Collection[str], roots: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the LR names that belong to no HR image at any scale.

    If there is an HR image ``0001``, the name ``0001x4`` is not returned, even if another scale is used.
    """
    owners = {root for of_stem in roots.values() for root in of_stem}
    return sorted(n for n in names if n not in owners and not any(n[:cut] in owners for cut in _cuts(n, _ANY_LR)))


def _no_lr(stem: str, x: int) -> str:
    return f"{stem}: no {stem}, {stem}x{x}, {stem}_x{x}, {stem}_LR, {stem}_LRBI_x{x} or {stem}_SRF_{x}_LR"


def _by_lr_endings(roots: Mapping[str, Sequence[str]], names: set[str], scale: int) -> dict[str, list[str]]:
    """Return {stem: LR names that fit}. A stem is the name of an HR image.

    An LR name fits if it is the stem itself, or a beginning of the stem (see :func:`roots_of`) and a usual ending of LR
    files.
    """
    owner = {root: stem for stem, of_stem in roots.items() for root in of_stem}
    fits: dict[str, list[str]] = {stem: [stem] if stem in names else [] for stem in roots}
    ending = re.compile(_LR_ENDING.replace("N", str(scale)), re.IGNORECASE)
    for name in sorted(names - roots.keys()):
        cut = next((cut for cut in (len(name), *_cuts(name, ending)) if name[:cut] in owner), None)
        if cut is not None:
            fits[owner[name[:cut]]].append(name)
    return fits


def shown_names(names: Sequence[str]) -> str:
    """Format the first names of a list: ``a, b, c, ...``."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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
        scale: number that replaces ``{scale}`` in the pattern, and that may follow a stem as an ending (``x2`` for
            scale 2).
        usual: function that returns the usual names for a stem. If several of these names exist, this is an error.
        pattern: name with ``{stem}`` in it. If a pattern is given, other names are not searched.
    """
    roots, names = roots_of(stems), set(names)
    if pattern is not None:
        fill = pattern.replace("{scale}", str(scale))
        paired = _by_candidates({s: [fill.replace("{stem}", r) for r in roots[s]] for s in stems}, names)
    else:
        looked = {stem: list(dict.fromkeys(n for root in roots[stem] for n in usual(root))) for stem in stems}
        found, problems = _exact(looked, names)
        rest = {stem: looked[stem] for stem in stems if not any(n in names for n in looked[stem])}
        problems += _shared(found)
        begun = _begun(roots, names - set(found.values()), scale) if rest else {}
        paired = _by_beginning(found, rest, roots, begun, problems)
    return paired._replace(extra=sorted(names - set(paired.names.values())))


def _exact(looked: Mapping[str, Sequence[str]], names: set[str]) -> tuple[dict[str, str], list[str]]:
    """Pair each stem (name of an HR image) with its usual name.

    Return also a message for every stem with two usual names. A name that is equal to a stem belongs to this stem only.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for stem, candidates in looked.items():
        there = [n for n in candidates if n in names]
        there = [n for n in there if n == stem or n not in looked] or there
        if len(there) > 1:
            problems.append(f"{stem}: {' and '.join(there)} both match")
        elif there:
            found[stem] = there[0]
    return found, problems


def _by_candidates(looked: Mapping[str, Sequence[str]], names: set[str]) -> Paired:
    """Pair each stem (name of an HR image) with the name that a pattern gives for the stem or for a beginning of the stem.

    Return problems for a stem that two names fit, and for a name that fits two stems.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for stem, candidates in looked.items():
        there = [n for n in candidates if n in names]
        if len(there) == 1:
            found[stem] = there[0]
        elif there:
            problems.append(f"{stem}: {' and '.join(there)} both match the pattern")
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
    """Return {stem: {name that begins with the stem: ending of this name}}.

    A name belongs to the longest stem: ``img_1_SR`` belongs to ``img_1``, not to ``img``.
    """
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
    problems: list[str],
) -> Paired:
    """Pair each stem with the only name that begins with the stem, if the names for all stems have the same ending."""
    names = dict(found)
    endings: dict[str, str] = {}
    for stem, looked in rest.items():
        options = begun.get(stem, {})
        if not options:
            problems.append(
                f"{stem}: no image is named {' or '.join(looked)}, and no name begins with {roots[stem][-1]}_"
            )
        elif len(options) > 1:
            problems.append(f"{stem}: more than one name begins with this name: {', '.join(sorted(options)[:5])}")
        else:
            ((names[stem], ending),) = options.items()
            endings.setdefault(ending, names[stem])
    if len(endings) > 1:
        shown = ", ".join(list(endings.values())[:5])
        problems.append(f"names have different endings: {shown}")
    return Paired(names, problems, next(iter(endings)) if len(endings) == 1 else "")
