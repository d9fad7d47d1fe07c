"""Search of a known set's files in folders and archives, by the ends of their paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sr_train.console import counted
from sr_train.data.archives import InputFile, header_of
from sr_train.data.images import ImageError
from sr_train.data.known.table import Layout, StorePlan, compiled, with_names

Files = dict[str, InputFile]  #: name of an image, ``CLIP/FRAME`` for clips -> file

Listing = Mapping[str, InputFile]  #: absolute path with / -> file, where an archive's members are in its folder

_NUMBER = re.compile(r"\d+$")

_WHERE = "they are in"

_FEW = 3  # number of names that are printed from a longer list


class Group(NamedTuple):
    """Files of one packing in one place."""

    layout: Layout
    place: str  #: path of the files, with {scale} and {clip} in place of these
    files: dict[int, Files]  #: by scale


class Found(NamedTuple):
    """Files for one store."""

    plan: StorePlan
    hr: Files
    place: str  #: place of the HR images, for messages
    lr: dict[int, Files]  #: given LR by scale
    lr_places: dict[int, str]
    layout: Layout | None  #: layout of the HR images; None if there are none
    notes: list[str]
    problems: list[str]


def shown(names: Iterable[str]) -> str:
    """Format the first names of a list: ``a, b, c, ...``."""
    names = sorted(names)
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def _parse(match: re.Match[str], layout: Layout) -> tuple[str, int, str]:
    """Return (name, scale, place) of a file."""
    spans: list[tuple[int, int, str]] = []
    groups = match.groupdict()
    scale = int(groups["scale"]) if groups.get("scale") else layout.scale
    if groups.get("scale"):
        spans.append((*match.span("scale"), "{scale}"))
    if "clip" in groups:
        clip = groups["clip"]
        if layout.offset:
            clip = f"{int(clip) + layout.offset:0{len(clip)}d}"
        name, start = f"{clip}/{groups['frame']}", match.start("frame")
        spans.append((*match.span("clip"), "{clip}"))
    else:
        name, start = groups["key"], match.start("key")
    text, place = match.string, ""
    at = 0
    for first, last, word in sorted(spans):
        if last <= start:
            place += text[at:first] + word
            at = last
    place = (place + text[at:start]).rstrip("/").removesuffix("/{clip}")
    return name, scale, place


def find_groups(layouts: Sequence[Layout], listing: Listing, names: frozenset[str]) -> list[Group]:
    """Return the files that have one of the layouts, by packing and place.

    Args:
        layouts: the layouts; the first that fits a file counts.
        listing: all files.
        names: names of the images or clips of the store; empty if they are not known.
    """
    patterns = [(layout, compiled(layout.pattern)) for layout in layouts]
    groups: dict[tuple[str, int, str], Group] = {}
    for path, file in listing.items():
        for layout, pattern in patterns:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            name, scale, place = _parse(match, layout)
            if not names or (name.rpartition("/")[0] or name) in names:
                group = groups.setdefault((layout.family, layout.offset, place), Group(layout, place, {}))
                files = group.files.setdefault(scale, {})
                if name in files:  # baby.png and baby.bmp: reported as two places
                    group = groups.setdefault((layout.family, layout.offset, path), Group(layout, path, {}))
                    files = group.files.setdefault(scale, {})
                files[name] = file
            break
    return list(groups.values())


def _joined(groups: Sequence[Group], what: str) -> tuple[Group | None, list[str]]:
    """Join groups without common names, e.g. the parts of a set in several archives; report places with the same images."""
    if not groups:
        return None, []
    names = [{(s, n) for s, files in g.files.items() for n in files} for g in groups]
    same = len({g.layout.family for g in groups}) == 1 and sum(map(len, names)) == len(
        set[tuple[int, str]]().union(*names)
    )
    if not same:
        firsts = [next(file for files in g.files.values() for file in files.values()) for g in groups]
        facts = zip(groups, names, firsts, strict=True)
        places = [
            f"    {g.place} ({g.layout.family}, {counted(len(n), 'file')}, e.g. {first})" for g, n, first in facts
        ]
        return None, [
            f"{what}: found in {len(groups)} places; give the one that you mean as root= (several are possible: "
            "root=[A,B]), or move the other away:\n" + "\n".join(places)
        ]
    merged: dict[int, Files] = {}
    for group in groups:
        for scale, files in group.files.items():
            merged.setdefault(scale, {}).update(files)
    places = ", ".join(dict.fromkeys(g.place for g in groups))
    return Group(groups[0].layout, places, {s: dict(sorted(f.items())) for s, f in merged.items()}), []


def recognize(
    plan: StorePlan, listing: Listing, names: frozenset[str], scales: Sequence[int], *, partial: bool
) -> Found:
    """Find HR images of a store, and LR images of ``scales``.

    Args:
        plan: the store.
        listing: all files.
        names: names of its images or clips; empty if they are not known.
        scales: scales of LR that are wanted.
        partial: accept a part of the set, and other sizes and numbers of frames.
    """
    group, problems = _joined(find_groups(plan.hr, listing, names), plan.title)
    if group is None:
        return Found(plan, {}, "", {}, {}, None, [], problems)
    notes = [f"{plan.title}: {group.layout.note}"] if group.layout.note else []
    if list(group.files) == [group.layout.scale]:
        hr, cropped = group.files[group.layout.scale], False
    else:
        hr, cropped = _largest(group.files, problems), True
    if not partial:
        problems += incomplete(plan, hr, names)
    scale = f"{{{','.join(map(str, sorted(group.files)))}}}" if len(group.files) > 1 else str(*group.files)
    found = Found(plan, hr, group.place.replace("{scale}", scale), {}, {}, group.layout, notes, problems)
    layouts = [layout for layout in plan.lr if layout.family == group.layout.family]
    low = find_groups(layouts, listing, names)
    for scale in scales:
        _add_lr(
            found, [g._replace(files={scale: g.files[scale]}) for g in low if scale in g.files], scale, cropped=cropped
        )
    return found


def recognize_lr(
    plan: StorePlan, listing: Listing, names: frozenset[str], scales: Sequence[int], *, partial: bool
) -> list[Found]:
    """Find the images of stores that contain LR images alone, one store for each scale."""
    groups = find_groups(plan.hr, listing, names)
    found: list[Found] = []
    for scale in scales:
        own = plan._replace(
            name=plan.name.format(scale=scale),
            title=plan.title if len(scales) == 1 else f"{plan.title} x{scale}",
            lr_archives={s: archive for s, archive in plan.lr_archives.items() if s == scale},
        )
        group, problems = _joined(
            [g._replace(files={scale: g.files[scale]}) for g in groups if scale in g.files], own.title
        )
        if group is None:
            found.append(Found(own, {}, "", {}, {}, None, [], problems))
            continue
        files = group.files[scale]
        problems += [] if partial else incomplete(own, files, names)
        place = group.place.replace("{scale}", str(scale))
        found.append(Found(own, files, place, {}, {}, group.layout, [], problems))
    return found


def _largest(by_scale: Mapping[int, Files], problems: list[str]) -> Files:
    """Return the largest HR image of each name; packings with one crop per scale have several."""
    best: dict[str, tuple[int, InputFile]] = {}
    for _, files in sorted(by_scale.items()):
        for name, file in files.items():
            try:
                header = header_of(file)
            except ImageError as error:
                problems.append(str(error))
                continue
            area = header.height * header.width
            if name not in best or area > best[name][0]:
                best[name] = (area, file)
    return {name: file for name, (_, file) in sorted(best.items())}


def _add_lr(found: Found, groups: Sequence[Group], scale: int, *, cropped: bool) -> None:
    """Add the given LR images of a scale to what was found."""
    what = f"{found.plan.title}, LR x{scale}"
    group, problems = _joined(groups, what)
    found.problems.extend(problems)
    if group is None:
        return
    files, place = group.files[scale], group.place.replace("{scale}", str(scale))
    if found.plan.clips:
        files = _by_number(found.hr, files)
    missing = [name for name in found.hr if name not in files]
    if missing:
        lacking = [name.rpartition("/")[0] or name for name in missing]
        where = "".join(f"\n    {a}" for a in with_names(found.plan.lr_archives.get(scale, ()), lacking))
        count = f"{len(missing)} of {len(found.hr)}"
        found.problems.append(f"{what}: {count} missing in {place} ({shown(missing)}); {_WHERE}{where}")
        return
    files = {name: files[name] for name in found.hr}
    if cropped and not _fit(found.hr, files, scale):
        found.notes.append(
            f"{what}: not used, it was made from smaller HR images than those of the store; {group.place}"
        )
        return
    found.lr[scale] = files
    found.lr_places[scale] = group.place.replace("{scale}", str(scale))


def _by_number(hr: Mapping[str, InputFile], files: Files) -> Files:
    """Give LR frames the names of the HR frames of the same number: ``lr_01`` and ``hr_01``, ``Frame 001`` and ``001``."""

    def identity(name: str) -> tuple[str, int | str]:
        clip, _, frame = name.rpartition("/")
        number = _NUMBER.search(frame)
        return clip, int(number[0]) if number else frame

    numbers = {identity(name): file for name, file in files.items()}
    return {name: numbers[identity(name)] for name in hr if identity(name) in numbers}


def _fit(hr: Mapping[str, InputFile], files: Mapping[str, InputFile], scale: int) -> bool:
    """Return True if all LR images have the size of their HR image divided by the scale."""
    for name, file in hr.items():
        high, low = header_of(file), header_of(files[name])
        if (high.height // scale, high.width // scale) != (low.height, low.width):
            return False
    return True


def incomplete(plan: StorePlan, hr: Mapping[str, InputFile], names: frozenset[str]) -> list[str]:
    """Return messages for the images, clips or frames that a complete set has and ``hr`` has not, or the reverse."""
    expected, unit = plan.expected, "clip" if plan.clips else "image"
    frames: dict[str, int] = {}
    for name in hr:
        clip = name.rpartition("/")[0] if plan.clips else name
        frames[clip] = frames.get(clip, 0) + 1
    wanted = expected.frames
    counts = {} if wanted is None else {c: wanted if isinstance(wanted, int) else wanted[c] for c in frames}
    wrong = {c: f"{c} has {frames[c]} of {count}" for c, count in counts.items() if frames[c] != count}
    missing = names - frames.keys()
    if missing:
        what = f"{len(missing)} of {counted(len(names), unit)} missing: {shown(missing)}"
    elif len(frames) != expected.number:
        what = f"{counted(len(frames), unit)}, expected {expected.number}"
    elif wrong:
        what = f"{counted(len(wrong), 'clip')} with another number of frames ({shown(wrong.values())})"
    else:
        return []
    archives = with_names(plan.archives or plan.all_archives(), missing or wrong or frames)
    where = "".join(f"\n    {archive}" for archive in archives)
    return [f"{plan.title}: {what}; {_WHERE}{where}\n  partial=true makes the store of what is there"]


def absolute_listing(root: Path, files: Mapping[str, InputFile]) -> dict[str, InputFile]:
    """Return the files below a root by their absolute paths, so that ``root=`` may be any folder of a set."""
    start = root.absolute().as_posix().rstrip("/")
    return {f"{start}/{name}": file for name, file in files.items()}
