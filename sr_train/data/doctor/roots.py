"""Mistakes that show in names, before any image is decoded: folders of HR and LR, test images among training images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from sr_train.console import counted
from sr_train.data.doctor.findings import Finding, finding
from sr_train.data.doctor.specs import TRAIN, Spec
from sr_train.data.lists import read_clip_list

# Parts of folders' names of LR: DIV2K_train_LR_bicubic, X2, LRbicx4, BIx4, blur4, lr_01, train_sharp_bicubic
_LOW = re.compile(
    r"(?:^|[_-])(?:LR|LQ|lowres)(?:$|[_-])|^LR(?:BI|BD|DN|bic)|bicubic|(?:^|[_-])X[2348]$|^(?:BI|BD|DN)x\d|"
    r"(?:^|[_-])blur\d*(?:$|[_-])|_(?:unknown|mild|difficult|wild)$",
    re.IGNORECASE,
)

_HIGH = re.compile(r"(?:^|[_-])(?:HR|GT|sharp)(?:$|[_-])|^GTmod\d*$|^(?:truth|target|original|high)$", re.IGNORECASE)

_ENDING = re.compile(r"(?:[_-]?x\d[mdw]?\d?|[_-](?:HR|GT)(?:[_-]?x\d)?|[_-]LR\w*|_SRF_\d_(?:HR|LR))$", re.IGNORECASE)

_DIV2K = re.compile(r"(\d{4})(?:_s\d+)?")

_VIMEO = re.compile(r"\d{5}/\d{4}")

_VIMEO_TRAIN = 64_612  # clips of sep_trainlist.txt


def _version(key: str) -> tuple[str, tuple[str, ...]]:
    """Return the identity of an image, and the parts of its name that state the version: HR, or a kind of LR."""
    *folders, stem = PurePosixPath(key).parts
    states = [part for part in folders if _LOW.search(part) or _HIGH.search(part)]
    rest = [part for part in folders if part not in states]
    ending = _ENDING.search(stem)
    if ending is not None and ending.start() > 0:
        stem = stem[: ending.start()]
    return "/".join([*rest, stem]), tuple(states)


def _rank(version: Sequence[str]) -> tuple[bool, int, str]:
    """Return the order of versions: HR first."""
    return any(_LOW.search(part) for part in version), len(version), "/".join(version)


def mixed_folder(where: str, keys: Iterable[str]) -> Finding | None:
    """Return a finding if a folder contains several versions of the same images: HR and LR, or LR of several scales."""
    versions: dict[str, set[tuple[str, ...]]] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], str] = {}
    for key in keys:
        identity, version = _version(key)
        versions.setdefault(identity, set()).add(version)
        counts[version] += 1
        examples.setdefault(version, _folder(key, version))
    shared = [v for v in versions.values() if len(v) > 1]
    found = {version for own in shared for version in own}
    if 5 * len(shared) < len(versions) or not any(_LOW.search(part) for version in found for part in version):
        return None
    ordered = sorted(found, key=_rank)
    parts = [f"{examples[v] or '.'} ({counted(counts[v], 'image')})" for v in ordered]
    one = Path(where, examples[ordered[0]])
    low = Path(where, examples[ordered[1]])
    return finding(
        "mixed", where,
        f"contains several versions of the same images: {', '.join(parts)}; they would all be used as HR. Give one folder "
        f"for HR and one for LR, e.g. hr: {one}, lr: {low}",
    )  # fmt: skip


def _folder(key: str, version: Sequence[str]) -> str:
    """Return the folders of a key up to the last one that states the version."""
    folders = PurePosixPath(key).parts[:-1]
    last = max((i for i, part in enumerate(folders) if part in version), default=-1)
    return "/".join(folders[: last + 1])


def hints_by_name(spec: Spec, keys: Collection[str]) -> list[Finding]:
    """Return findings for training sources that contain the test images of DIV2K or Vimeo-90K by their names."""
    if spec.role != TRAIN:
        return []
    return [*_div2k(spec, keys), *_vimeo(spec, keys)]


def _div2k(spec: Spec, keys: Collection[str]) -> list[Finding]:
    numbers = [m[1] for key in keys if (m := _DIV2K.fullmatch(PurePosixPath(key).name))]
    valid = {n for n in numbers if 801 <= int(n) <= 900}
    first = {n for n in numbers if 1 <= int(n) <= 800}
    if not valid or not first or len(numbers) < 0.9 * len(keys):
        return []
    shown = f"{min(valid)} to {max(valid)}" if len(valid) > 1 else next(iter(valid))
    return [
        finding(
            "leak by name", spec.hr,
            f"{spec.where}: contains {shown} ({counted(len(valid), 'image')}); 0801 to 0900 are the validation images of "
            "DIV2K, on which papers report scores. Leave them out with list=FILE, a text file of the names to use",
        )
    ]  # fmt: skip


def _vimeo(spec: Spec, keys: Collection[str]) -> list[Finding]:
    clips = {m[0] for key in keys if (m := _VIMEO.search(key))}
    if not clips:
        return []
    root = Path(spec.hr)
    lists = [p for folder in (root, root.parent) if (p := folder / "sep_testlist.txt").is_file()]
    tested: set[str] = set()
    if lists:
        tested = clips.intersection(read_clip_list(lists[0]))
        why = f"are in {lists[0]}"
    else:
        why = "are more than the list of training clips contains (64,612)"
    if not tested and (lists or len(clips) <= _VIMEO_TRAIN):
        return []
    number = len(tested) or len(clips)
    example = f" (e.g. {min(tested)})" if tested else ""
    return [
        finding(
            "leak by name", spec.hr,
            f"{spec.where}: {counted(number, 'clip')}{example} of Vimeo-90K {why}; train on sep_trainlist.txt only: "
            "clips: FILE in the source, or sr-prepare list=FILE",
        )
    ]  # fmt: skip
