"""Archives of a known set on the disk: their members, and comparison with the published sizes and checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sr_train.console import counted, say
from sr_train.data.archives import ArchiveError, InputFile, Member, list_files
from sr_train.data.images import BadFilesError
from sr_train.data.known.request import Request
from sr_train.data.known.table import Archive

_CHUNK = 16 << 20


def _published(request: Request) -> dict[str, Archive]:
    """Return the archives of the set by their names in lower case."""
    return {archive.name.lower(): archive for plan in request.plans() for archive in plan.all_archives()}


def list_roots(request: Request) -> dict[Path, dict[str, InputFile]]:
    """Return the files below each root, those inside archives too. Raises ValueError for a damaged archive or an empty root."""
    found: dict[Path, dict[str, InputFile]] = {}
    for root in request.roots:
        try:
            found[root] = list_files(root, copies=request.folder)
        except ArchiveError as error:
            known = [str(a) for name, a in _published(request).items() if name in str(error).lower()]
            raise ArchiveError("; ".join([str(error), *known[:1]])) from None
    if not any(found.values()):
        roots = ", ".join(map(str, request.roots))
        raise ValueError(
            f"{roots}: contains no files; put the archives of {request.known.title} there:"
            + "".join(f"\n  {archive}" for archive in _published(request).values())
        )
    return found


def check_archives(
    request: Request,
    listing: Mapping[str, InputFile],
    bar: Callable[[int, str, str], AbstractContextManager[Any]],
) -> None:
    """Compare the archives that have published names with the published sizes; with ``verify``, compare checksums too.

    Another size is a note, since sets are packed again by others; with ``verify`` it is an error.

    Raises:
        BadFilesError: lists the archives that differ.
    """
    published = _published(request)
    archives = {file.archive.path: published.get(file.archive.path.name.lower()) for file in listing.values()
                if isinstance(file, Member)}  # fmt: skip
    known = {path: archive for path, archive in archives.items() if archive is not None}
    problems = {path: problem for path, archive in known.items() if (problem := _other_size(path, archive))}
    if not request.verify:
        for problem in problems.values():
            say(f"note: {problem}; verify=true compares checksums")
        return
    sums = [
        (path, archive) for path, archive in known.items() if path not in problems and (archive.md5 or archive.sha256)
    ]
    with bar(sum(path.stat().st_size for path, _ in sums), "checksums", "B") as shown:
        for path, archive in sums:
            if problem := _other_sum(path, archive, shown.update):
                problems[path] = problem
    without = [
        path.name for path, archive in archives.items() if archive is None or not (archive.md5 or archive.sha256)
    ]
    if without:
        say(f"no checksum is known for {', '.join(without)}")
    if problems:
        raise BadFilesError(
            f"{counted(len(problems), 'archive')} other than published; download again, or leave out verify=true",
            list(problems.values()),
        )
    say(f"checksums of {counted(len(sums), 'archive')} agree: {', '.join(path.name for path, _ in sums) or 'none'}")


def _other_size(path: Path, archive: Archive) -> str | None:
    size = path.stat().st_size
    if archive.size in (None, size):
        return None
    return f"{path}: has {size:,} bytes, published are {archive.size:,}; {archive}"


def _other_sum(path: Path, archive: Archive, progress: Callable[[int], object]) -> str | None:
    kind = "md5" if archive.md5 else "sha256"
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
            progress(len(block))
    expected = archive.md5 or archive.sha256
    if digest.hexdigest() == expected:
        return None
    return f"{path}: {kind.upper()} is {digest.hexdigest()}; {archive}"
