"""A file inside an archive, and what all kinds of archives share: errors, limits, and the check of names."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from sr_train.data.decoding.formats import open_image
from sr_train.data.decoding.header import Header, ImageError

LARGEST = 2 << 30  #: bytes of a member; an uncompressed image of 357 megapixels in 16-bit color has as many

MOST = 4_000_000  #: members of an archive

_SPAN = struct.Struct("<QQQqIq")

_HEADER = 1 << 16  # bytes in which most images state their size


pack_span = _SPAN.pack  #: the values of a Span as bytes


class ArchiveError(ValueError):
    """Archive that cannot be used; the message names it, the member and the remedy."""


class Status(NamedTuple):
    """Size of a file in bytes, and its modification time, under the names of ``os.stat_result``."""

    st_size: int
    st_mtime_ns: int


class Span(NamedTuple):
    """Position of a member in its archive."""

    at: int  #: position of its header (zip) or of its data (tar)
    packed: int  #: size in the archive in bytes
    size: int  #: size of the file in bytes
    crc: int  #: CRC-32 of the file; -1 if the archive has none
    method: int  #: 0: stored, 8: deflated
    time: int  #: modification time as the archive states it


class Archive(Protocol):
    """Opened archive. It is picklable and thread safe; each process opens its own handle."""

    path: Path

    def members(self, ignore: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield name and packed span of every file inside. Raises ArchiveError."""
        ...

    def time(self, stated: int) -> int:
        """Return a modification time in nanoseconds."""
        ...

    def read(self, name: str, span: Span, count: int | None = None) -> bytes:
        """Return a file, or at least its first ``count`` bytes if it has as many. Raises ImageError."""
        ...


class Member:
    """File inside an archive, with the methods of a file that ``sr-prepare`` needs. Its string is ``X.zip/folder/name.png``.

    Its position is kept as bytes: Vimeo-90K's archive has 640,000 members.
    """

    __slots__ = ("_span", "archive", "name")

    def __init__(self, archive: Archive, name: str, span: bytes) -> None:
        self.archive = archive
        self.name = name  #: path inside the archive
        self._span = span

    @property
    def span(self) -> Span:
        """Position in the archive."""
        return Span._make(_SPAN.unpack(self._span))

    @property
    def crc(self) -> int | None:
        """CRC-32 of the file as the archive states it; None if the archive has none."""
        crc = self.span.crc
        return None if crc < 0 else crc

    def __fspath__(self) -> str:
        return f"{self.archive.path}/{self.name}"

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"Member({self})"

    def read_bytes(self) -> bytes:
        """Return the file. Raises ImageError that names archive and member."""
        return self.archive.read(self.name, self.span)

    def stat(self) -> Status:
        """Return size and modification time as the archive states them."""
        span = self.span
        return Status(span.size, self.archive.time(span.time))

    def header(self) -> Header:
        """Return size, channels and type of an image without decoding it. Raises ImageError that names archive and member."""
        path, span = Path(self), self.span
        try:
            return open_image(path, self.archive.read(self.name, span, _HEADER)).header
        except ImageError:  # the directory of a TIFF may be at its end, the size of a JPEG after a large thumbnail
            if span.size <= _HEADER:
                raise
            return open_image(path, self.archive.read(self.name, span)).header


#: ``..`` and ``.`` as names of folders, empty names, absolute paths, drives, other systems' separators
_UNSAFE = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|//|^/|^.:|\\|\0")


def check_member(archive: Path, name: str, size: int) -> str:
    """Return the path of a member without ``./``. Raises ArchiveError if it leaves the archive or is too large."""
    if name.startswith("."):
        name = "" if name == "." else name.removeprefix("./")
    # most names are safe by these tests, which are faster
    odd = (
        name[:1] == "/"
        or "/." in name
        or name[:1] == "."
        or "//" in name
        or "\\" in name
        or name[1:2] == ":"
        or "\0" in name
    )
    if odd and _UNSAFE.search(name):
        raise ArchiveError(
            f"{archive}: member {name!r}: its path is absolute, contains '..' or a backslash, or is not in its simplest form; "
            "unpack the archive with a program that you trust, and give the folder"
        )
    if not 0 <= size <= LARGEST:
        raise ArchiveError(
            f"{archive}: member {name!r}: states {size / 1e9:,.1f} GB, more than the {LARGEST / 1e9:.1f} GB that are read; "
            "unpack the archive without it, and give the folder"
        )
    return name


def check_number(archive: Path, number: int) -> None:
    """Raise ArchiveError if an archive has too many members."""
    if number > MOST:
        raise ArchiveError(f"{archive}: has {number:,} members; up to {MOST:,} are read; pack several smaller archives")
