"""Files below a folder or inside archives (zip, tar, tar.gz), as if the archives had been unpacked where they are.

:func:`list_files` maps paths to files. A file is a ``Path``, a :class:`.packed.member.Member` of an archive, or an entry of an
LMDB of BasicSR; all have ``read_bytes()``, ``stat()`` and a path for messages, and :func:`header_of` reads their headers.

Zip and plain tar archives are read in place. A compressed tar is decompressed to a plain tar file once
(:mod:`sr_train.data.packed.tars`); :func:`discard_copies` deletes such files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from sr_train.console import warn
from sr_train.data.images import SUFFIXES, BadFilesError, Header, read_header
from sr_train.data.packed.member import Archive, ArchiveError, Member
from sr_train.data.packed.tars import Tar, TarGz
from sr_train.data.packed.zips import Zip
from sr_train.data.store.basicsr import Entry

__all__ = ["ENDINGS", "ArchiveError", "InputFile", "Member", "discard_copies", "header_of", "is_archive", "is_ignored",
           "list_files", "split_archive"]  # fmt: skip

InputFile = Path | Entry | Member  #: an image file, an image of an LMDB, or a member of an archive

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")  #: endings of the archives that are opened

_OTHER = (".rar", ".7z", ".001", ".z01", ".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz")

_SYSTEM = ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir")


def is_ignored(path: str) -> bool:
    """Return True for hidden files and files of operating systems; the default of ``list_files``."""
    return path.startswith(".") or "/." in path or any(name in path.split("/") for name in _SYSTEM if name in path)


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return True for a file with the ending of an archive, also of kinds that are not read."""
    path = Path(path)
    return path.name.lower().endswith(ENDINGS + _OTHER) and path.is_file()


def split_archive(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """Split ``X.zip/inner/folder`` into the archive and the path inside it; return None for a path without an archive."""
    path = Path(path)
    for parent in (path, *path.parents):
        if is_archive(parent):
            inner = path.relative_to(parent).as_posix()
            return parent, "" if inner == "." else inner
    return None


def list_files(
    root: str | os.PathLike[str],
    *,
    ignore: Callable[[str], bool] = is_ignored,
    copies: str | os.PathLike[str] | None = None,
) -> dict[str, InputFile]:
    """Map the path of every regular file below ``root``, relative and with ``/``, to the file; sorted.

    In a folder, archives are opened too: their members appear as if unpacked in the archive's folder. A file wins over a
    member of the same path, and an archive over later ones.

    Args:
        root: a folder, an archive, or a path that goes on inside one: ``X.zip/inner/folder``.
        ignore: function that returns True for relative paths of files, folders and archives to leave out.
        copies: folder of the decompressed copies of tar.gz archives; default: that of the archive.

    Raises:
        FileNotFoundError: there is no such folder, archive, or folder inside the archive.
        ArchiveError: an archive cannot be used; the message names it, the member and the remedy.
        BadFilesError: several archives have different images of the same path.
    """
    root, folder = Path(root), None if copies is None else Path(copies)
    if not root.is_dir():
        split = split_archive(root)
        if split is None:
            raise FileNotFoundError(f"{root}: there is no such folder or archive")
        return dict(sorted(_inside(*split, ignore, folder).items()))
    files, archives = _below(root, ignore)
    found: dict[str, InputFile] = dict(files)
    clashes: list[str] = []
    for place, archive in archives.items():
        parent = str(PurePosixPath(place).parent)
        prefix = "" if parent == "." else f"{parent}/"
        for name, member in _members(archive, lambda name, start=prefix: ignore(start + name), folder):
            other = found.setdefault(prefix + name, member)
            if isinstance(other, Member) and _differ(other, member) and name.lower().endswith(SUFFIXES):
                clashes.append(f"{prefix + name}: {other} and {member} differ")
    if clashes:
        raise BadFilesError(f"{root}: archives with different images of the same path; remove or move one", clashes)
    return dict(sorted(found.items()))


def _differ(one: Member, other: Member) -> bool:
    return one.span.size != other.span.size or (None not in (one.crc, other.crc) and one.crc != other.crc)


def _below(root: Path, ignore: Callable[[str], bool]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the files and the archives below a folder."""
    files, archives = dict[str, Path](), dict[str, Path]()
    visited: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        raise PermissionError(f"{error.filename}: cannot be listed: {error.strerror}") from None

    for where, folders, names in os.walk(root, followlinks=True, onerror=failed):
        start = "" if where == str(root) else Path(where).relative_to(root).as_posix() + "/"
        folders[:] = sorted(f for f in folders if not ignore(start + f))
        identity = (status := os.stat(where)).st_dev, status.st_ino  # noqa: PTH116 - links may form a loop
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        for name in sorted(names):
            path, lower = Path(where, name), name.lower()
            if ignore(start + name) or not path.is_file():
                continue
            if lower.endswith(ENDINGS):
                archives[start + name] = path
            else:
                files[start + name] = path
            if lower.endswith(_OTHER):
                warn(f"{path}: not read, archives of its kind are not; unpack it")
    return files, archives


def _inside(archive: Path, inner: str, ignore: Callable[[str], bool], copies: Path | None) -> dict[str, InputFile]:
    """Return the files of an archive below a path inside it."""
    start = f"{inner}/" if inner else ""
    found: dict[str, InputFile] = {}
    tops: set[str] = set()
    for name, member in _members(archive, lambda name: False, copies):
        tops.add(name.split("/", 1)[0])
        if name.startswith(start) and not ignore(name[len(start) :]):
            found[name[len(start) :]] = member
    if inner and not found:
        shown = ", ".join(sorted(tops)[:5]) + (", ..." if len(tops) > 5 else "")
        raise FileNotFoundError(f"{archive}/{inner}: there is no such folder in the archive; at its top are {shown}")
    return found


def _members(archive: Path, ignore: Callable[[str], bool], copies: Path | None) -> Iterator[tuple[str, Member]]:
    opened = _open(archive, archive.absolute().parent if copies is None else copies)
    for name, span in opened.members(ignore):
        yield name, Member(opened, name, span)


def _open(path: Path, copies: Path) -> Archive:
    """Open an archive by what it is, not by its name. Raises ArchiveError."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return Zip(path)
    if start.startswith(b"\x1f\x8b"):
        return TarGz(path, copies)
    if start[257:262] == b"ustar" or (path.suffix.lower() == ".tar" and len(start) == 512):
        return Tar(path)
    raise ArchiveError(f"{path}: {_kind(start)}")


def _kind(start: bytes) -> str:
    """Return why a file is no archive that is read, and the remedy."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty; download it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"{")):
        return "is a web page and no archive: the server asked for a login or a confirmation; download it again with a browser"
    for sign, kind in {
        b"Rar!": "a rar",
        b"7z\xbc\xaf": "a 7z",
        b"BZh": "a bzip2",
        b"\xfd7zXZ": "an xz",
        b"(\xb5/\xfd": "a zstd",
    }.items():
        if start.startswith(sign):
            return f"is {kind} archive; zip, tar and tar.gz are read; unpack it and give the folder"
    if start.startswith(b"PK\7\x08"):
        return "is the first part of a split archive; join the parts (zip -s 0 X.zip --out whole.zip)"
    return f"is no zip, tar or tar.gz archive (it begins with {start[:8]!r}): damaged, or a later part of a split one"


def header_of(file: InputFile) -> Header:
    """Return size, channels and type of an image without decoding it. Raises ImageError that names the file."""
    return read_header(file) if isinstance(file, Path) else file.header()


def discard_copies(files: Mapping[str, InputFile] | Iterable[InputFile]) -> None:
    """Delete the decompressed copies of the archives that files are in."""
    values = files.values() if isinstance(files, Mapping) else files
    for archive in {id(file.archive): file.archive for file in values if isinstance(file, Member)}.values():
        if isinstance(archive, TarGz):
            archive.discard()
