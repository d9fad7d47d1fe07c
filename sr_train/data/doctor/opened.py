"""List the images of the sources to check, and pair HR with LR. Nothing is decoded, and nothing is raised."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sr_train.console import counted
from sr_train.data.doctor.examine import Item
from sr_train.data.doctor.findings import Finding, finding
from sr_train.data.doctor.roots import hints_by_name, mixed_folder
from sr_train.data.doctor.specs import Low, Spec, is_folder_of
from sr_train.data.images import SUFFIXES, BadFilesError
from sr_train.data.lists import listed_images
from sr_train.data.pairing import hr_names, match_lr
from sr_train.data.sources import FileSource, Source, input_files, open_lr_source, open_source
from sr_train.data.store.basicsr import is_basicsr, list_entries
from sr_train.data.store.format import is_store
from sr_train.data.video.clips import select, split_key
from sr_train.data.video.sets import clip_names


@dataclass
class Opened:
    """Images of one source."""

    spec: Spec
    hr: dict[str, Item] = field(default_factory=dict[str, Item])  #: by name
    lows: dict[int, dict[str, Item]] = field(default_factory=dict[int, dict[str, Item]])  #: scale -> name of HR -> LR
    loose: list[Item] = field(default_factory=list[Item])  #: images without a partner, only decoded
    video: bool = False


def problems_of(kind: str, where: str, error: Exception) -> list[Finding]:
    """Return findings for an error: one for each of its problems."""
    if isinstance(error, BadFilesError):
        return [finding(kind, _file_of(where, p), _reason_of(p)) for p in error.problems]
    if isinstance(error, OSError) and error.strerror:
        return [finding(kind, error.filename or where, error.strerror)]
    return [finding(kind, where, str(error))]


def _file_of(where: str, problem: str) -> str:
    """Return the file of a problem ``NAME: REASON`` of a source."""
    name, sign, _ = problem.partition(": ")
    return where if not sign else name if Path(name).is_absolute() or name.startswith(where) else f"{where}/{name}"


def _reason_of(problem: str) -> str:
    name, sign, reason = problem.partition(": ")
    return reason if sign else name


def list_items(where: str, found: list[Finding], scale: int | None = None) -> dict[str, Item]:
    """Map the key of every image of a source to the image; add what is wrong with the source to ``found``."""
    try:
        if is_basicsr(where):
            return {key: Item(key, str(entry), entry) for key, entry in list_entries(where).items()}
        if is_folder_of(where):
            return _list_folder(Path(where), found)
        if not is_store(where) and not where.startswith(("toy", "toy_clips")):
            return {key: Item(key, str(file), file) for key, file in input_files(where).items()}
        source = open_source(where) if scale is None else open_lr_source(where, scale, cache=False)
        return {key: _item(source, i) for i, key in enumerate(source.keys)}
    except (OSError, ValueError, ImportError) as error:
        found += problems_of("source", where, error)
    return {}


def _item(source: Source, index: int) -> Item:
    key = source.keys[index]
    if isinstance(source, FileSource):
        path = source.path(index)
        return Item(key, str(path), path)
    return Item(key, f"{source.name}: {key}", source=source, index=index)


def _list_folder(folder: Path, found: list[Finding]) -> dict[str, Item]:
    items: dict[str, Item] = {}
    other: list[Path] = []
    for path in _walk(folder, found):
        if not _is_utf8(path):
            found.append(finding("name", path, "is not UTF-8; rename it (convmv -f latin1 -t utf8)"))
        elif path.suffix.lower() not in SUFFIXES:
            other.append(path)
        else:
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in items:
                found.append(finding("name", path, f"and {items[key].path.name} would both be {key!r}; rename one"))
            else:
                items[key] = Item(key, str(path), path)
    found += [finding("other files", path, f"has no suffix of an image ({path.suffix or 'none'})") for path in other]
    if not items:
        found.append(finding("source", folder, f"no images in this folder or below it ({', '.join(SUFFIXES)})"))
    return items


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, found: list[Finding]) -> list[Path]:
    """Return every file below a folder, sorted, except hidden ones. Links are followed, but not in circles."""
    files: list[Path] = []
    visited: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        found.append(finding("source", error.filename, f"cannot be listed: {error.strerror}"))

    for root, folders, names in os.walk(folder, followlinks=True, onerror=failed):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        identity = (status := os.stat(root)).st_dev, status.st_ino  # noqa: PTH116
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files)


def open_spec(spec: Spec, found: list[Finding]) -> Opened:
    """List the images of a source, and pair them. A folder that mixes HR and LR is reported and not read."""
    opened = Opened(spec)
    items = list_items(spec.hr, found)
    kept = {name: list(items)[i] for name, i in hr_names(list(items)).items()}
    if spec.lone:
        kept = {name: name for name in items}
    mix = None if spec.lone or is_store(spec.hr) else mixed_folder(spec.hr, kept.values())
    if mix is not None:
        found.append(mix)
        return opened
    opened.video = _looks_like_clips(list(kept)) if spec.video is None else spec.video
    names = _chosen(spec, kept, found, video=opened.video)
    opened.hr = {name: items[kept[name]] for name in names}
    found += hints_by_name(spec, list(opened.hr))
    for low in spec.lows:
        opened.lows[low.scale] = _pair(opened, low, kept, found)
    if not spec.lows and not spec.listed:  # LR images next to HR
        opened.loose += [items[key] for key in items.keys() - set(kept.values())]
    return opened


def _chosen(spec: Spec, kept: Mapping[str, str], found: list[Finding], *, video: bool) -> list[str]:
    """Return the names of the images to use; all of them if a list or a clip is wrong, which is reported."""
    try:
        if spec.listed is not None:
            return listed_images(spec.listed, kept, spec.hr)
    except (OSError, ValueError) as error:
        found += problems_of("source", spec.listed or "", error)
    if not video or not kept:
        return list(kept)
    try:
        clips = clip_names(f"{spec.where}.clips", spec.clips if isinstance(spec.clips, str) else _names(spec.clips))
        without = clip_names(f"{spec.where}.without", _names(spec.without) if spec.without else None) or []
        frames = select(kept, spec.hr, clips, without)
    except (OSError, ValueError) as error:
        found += problems_of("clip", spec.hr, error)
        return list(kept)
    for clip, own in frames.items():
        if len(own) < spec.least:
            found.append(finding("clip", f"{spec.hr}/{clip}", f"has {len(own)} of the {spec.least} frames of a window"))
    return [name for own in frames.values() for name in own]


def _names(value: str | tuple[str, ...] | None) -> str | list[str] | None:
    return list(value) if isinstance(value, tuple) else value


def _looks_like_clips(names: list[str]) -> bool:
    """Return True for folders of numbered frames without other images, at least three in most."""
    frames: dict[str, set[int]] = {}
    for name in names:
        clip, frame = split_key(name)
        digits = frame[len(frame.rstrip("0123456789")) :]
        if not clip or not digits:
            return False
        frames.setdefault(clip, set()).add(int(digits))
    dense = [f for f in frames.values() if len(f) >= 3 and max(f) - min(f) < 1.2 * len(f)]
    return len(frames) > 1 and 2 * len(dense) > len(frames)


def _pair(opened: Opened, low: Low, kept: Mapping[str, str], found: list[Finding]) -> dict[str, Item]:
    """Return the LR image of each HR image; report those that are missing, ambiguous or left over."""
    items = list_items(low.where, found, low.scale)
    if not items:
        return {}
    same = low.where == opened.spec.hr and (is_basicsr(low.where) or not is_store(low.where))
    own = list(kept.values()) if same else []  # in a store HR and LR have the same names
    matched = match_lr(
        list(kept), list(items), scale=low.scale, where=low.where, pattern=low.pattern, own=own
    )  # fmt: skip
    for name, item in opened.hr.items():
        problem = matched.missing.get(name) or matched.ambiguous.get(name)
        if problem is not None:
            reason = f"has no LR x{low.scale} in {low.where}" if name in matched.missing else _reason_of(problem)
            found.append(finding("unpaired", item.name, reason))
    for key in matched.extra:
        found.append(finding("extra", items[key].name, f"has no HR image in {opened.spec.hr}"))
        opened.loose.append(items[key])
    return {name: items[low_name] for name in opened.hr if (low_name := matched.names.get(name)) is not None}


def described(opened: Opened) -> str:
    """Return one line about a source."""
    lows = "".join(f", LR x{scale}: {len(own):,}" for scale, own in opened.lows.items())
    return f"{opened.spec.where}: {counted(len(opened.hr), 'frame' if opened.video else 'image')}{lows}"
