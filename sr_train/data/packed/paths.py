"""Paths of archives: by which endings they are known, paths that go on inside them, and files that nobody means."""

from __future__ import annotations

import os
import re
from pathlib import Path

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")  #: endings of the archives that are opened

OTHER_ENDINGS = (".rar", ".7z", ".001", ".z01", ".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz")

_SYSTEM = re.compile(r"(?:^|/)(?:__MACOSX|@eaDir)(?:/|$)|(?:^|/)(?:Thumbs\.db|desktop\.ini)$")


def is_ignored(path: str) -> bool:
    """Return True for hidden files and files of operating systems."""
    return (
        path[:1] == "."
        or "/." in path
        or ((path[-3:] in (".db", "ini") or "_M" in path or "@" in path) and (_SYSTEM.search(path) is not None))
    )


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return True for a file with the ending of an archive, also of kinds that are not opened."""
    path = Path(path)
    return path.name.lower().endswith(ENDINGS + OTHER_ENDINGS) and path.is_file()


def split_archive(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """Split ``X.zip/inner/folder`` into the archive and the path inside it; return None for a path without an archive."""
    path = Path(path)
    for parent in (path, *path.parents):
        if is_archive(parent):
            inner = path.relative_to(parent).as_posix()
            return parent, "" if inner == "." else inner
    return None


def without_ending(path: Path) -> Path:
    """Return the path of an archive without ``.zip``, ``.tar.gz`` and the like."""
    ending = max((e for e in ENDINGS + OTHER_ENDINGS if path.name.lower().endswith(e)), key=len, default="")
    return path.with_name(path.name[: len(path.name) - len(ending)] or "images")


def holds_archives(folder: str | os.PathLike[str]) -> bool:
    """Return True if there is an archive below a folder."""
    for _, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [f for f in folders if not is_ignored(f)]
        if any(name.lower().endswith(ENDINGS) and not is_ignored(name) for name in names):
            return True
    return False
