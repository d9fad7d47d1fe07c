"""Files below a folder or inside archives (zip, tar, tar.gz), as if the archives had been unpacked where they are.

:func:`list_files` maps paths to files. A file is a ``Path``, a :class:`.packed.member.Member` of an archive, or an entry of an
LMDB of BasicSR; all have ``read_bytes()``, ``stat()`` and a path for messages, and :func:`header_of` reads their headers.

Zip and plain tar archives are read in place. A compressed tar is decompressed to a plain tar file once
(:mod:`sr_train.data.packed.tars`); :func:`discard_copies` deletes such files.
"""

from __future__ import annotations

import gc
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from sr_train.console import counted, say, warn
from sr_train.data.images import SUFFIXES, BadFilesError, Header, read_header
from sr_train.data.packed.member import Archive, ArchiveError, Member
from sr_train.data.packed.paths import ENDINGS, OTHER_ENDINGS, holds_archives, is_archive, is_ignored, split_archive
from sr_train.data.packed.tars import Tar, TarGz
from sr_train.data.packed.zips import Zip
from sr_train.data.store.basicsr import Entry

__all__ = ["ENDINGS", "ArchiveError", "InputFile", "Member", "discard_copies", "header_of", "holds_archives", "is_archive",
           "is_ignored", "list_archived", "list_files", "split_archive"]  # fmt: skip

_FEW = 8  # number of names printed in one line

InputFile = Path | Entry | Member  #: an image file, an image of an LMDB, or a member of an archive


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
        return _sorted(_inside(*split, ignore, folder))
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
    return _sorted(found)


def _sorted(files: dict[str, InputFile]) -> dict[str, InputFile]:
    names = sorted(files)
    return files if names == list(files) else {name: files[name] for name in names}


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
            if lower.endswith(OTHER_ENDINGS):
                warn(f"{path}: not read, archives of its kind are not; unpack it")
    return files, archives


def _inside(archive: Path, inner: str, ignore: Callable[[str], bool], copies: Path | None) -> dict[str, InputFile]:
    """Return the files of an archive below a path inside it."""
    start = f"{inner}/" if inner else ""

    def left_out(name: str) -> bool:
        return not name.startswith(start) or ignore(name[len(start) :])

    found: dict[str, InputFile] = {}
    for name, member in _members(archive, left_out if inner else ignore, copies):
        found[name[len(start) :]] = member
    if inner and not found:
        tops = sorted({name.split("/", 1)[0] for name, _ in _members(archive, is_ignored, copies)})
        shown = ", ".join(tops[:5]) + (", ..." if len(tops) > 5 else "")
        raise FileNotFoundError(f"{archive}/{inner}: there is no such folder in the archive; at its top are {shown}")
    return found


def _members(archive: Path, ignore: Callable[[str], bool], copies: Path | None) -> Iterator[tuple[str, Member]]:
    opened = _open(archive, archive.absolute().parent if copies is None else copies)
    collects = gc.isenabled()
    gc.disable()  # it would visit every new object again and again
    try:
        for name, span in opened.members(ignore):
            yield name, Member(opened, name, span)
    finally:
        if collects:
            gc.enable()


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


def list_archived(
    where: str | os.PathLike[str], *, clips: bool = False, copies: str | os.PathLike[str] | None = None
) -> dict[str, InputFile]:
    """Map the key of every image in an archive, or below a folder with archives, to its file; sorted.

    A key is the path without suffix. For an archive, the folders that all of its images share are left out, so that
    ``DIV2K_train_HR.zip`` gives the names of the folder that is inside it.

    Args:
        where: an archive, a path that goes on inside one, or a folder.
        clips: leave the folder of each image in its key, which is the name of its clip.
        copies: see :func:`list_files`.

    Raises:
        ValueError: there are no images.
        BadFilesError: images share a key, or their names are not UTF-8.
    """
    files = list_files(where, copies=copies)
    images = {name: file for name, file in files.items() if name.lower().endswith(SUFFIXES)}
    if not images:
        raise ValueError(f"{where}: no images in it ({', '.join(SUFFIXES)})")
    rest = sorted(files.keys() - images.keys())
    if rest:
        shown = ", ".join(rest[:_FEW]) + (", ..." if len(rest) > _FEW else "")
        warn(f"{where}: {counted(len(rest), 'file')} without a suffix of images not read: {shown}")
    split = split_archive(where)
    top = _shared_folder(images, clips=clips) if split is not None and not split[1] else ""
    if top:
        say(f"{where}: images are named without {top}")
    found: dict[str, InputFile] = {}
    problems: list[str] = []
    for name, file in images.items():
        key = name[len(top) : name.rindex(".")]
        if key in found:
            problems.append(f"{file} and {found[key]} would both be {key!r}")
        found[key] = file
    problems += [f"{key!a}: is not UTF-8" for key in found if not (key.isascii() or _is_text(key))]
    if problems:
        raise BadFilesError(f"{where}: names that cannot be used; rename or remove one of each", problems)
    return dict(sorted(found.items()))


def _is_text(name: str) -> bool:
    return name.encode("utf-8", "replace").decode() == name


def _shared_folder(names: Iterable[str], *, clips: bool) -> str:
    """Return the folder, with ``/`` at its end, that all names share; of clips, that of their folders."""
    folders = {name.rpartition("/")[0] for name in names}
    shared = posixpath.commonpath(folders)
    if clips and shared in folders:
        shared = shared.rpartition("/")[0]
    return f"{shared}/" if shared else ""


def header_of(file: InputFile) -> Header:
    """Return size, channels and type of an image without decoding it. Raises ImageError that names the file."""
    return read_header(file) if isinstance(file, Path) else file.header()


def discard_copies(files: Mapping[str, InputFile]) -> None:
    """Delete the decompressed copies of the archives that files are in."""
    for archive in {id(file.archive): file.archive for file in files.values() if isinstance(file, Member)}.values():
        if isinstance(archive, TarGz):
            archive.discard()
