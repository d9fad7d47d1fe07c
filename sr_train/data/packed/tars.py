"""Tar archives, read in place, and compressed tar archives, which are decompressed to a plain tar file once.

A compressed archive can be read from its beginning only. It is listed in one pass without writing anything. The first member
that is read decompresses it to ``.NAME-SIZE-TIME.unpacked.tar`` in the folder of its copies: written to a temporary file,
checked against gzip's CRC-32 and renamed. The name contains size and time of the archive, so a copy of an earlier archive is
never used.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from sr_train.console import say
from sr_train.data.decoding.header import ImageError
from sr_train.data.packed.member import ArchiveError, Span, check_member, check_number, pack_span
from sr_train.files import Reader, atomic_file

_BLOCK = tarfile.BLOCKSIZE

_RATIO, _ROOM = 100, 1 << 30  # images are compressed already: an archive that grows by more is none of images

_CHUNK = 4 << 20


class Tar:
    """Plain tar archive, opened for reading; it is picklable and thread safe.

    Args:
        path: the archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = Reader(path)
        self._end = 0  # of the last member

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": Reader(self._reader.path)}

    def members(self, ignore: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield name and position of every file inside; folders, links and devices are left out. Raises ArchiveError."""
        with self.path.open("rb") as file:
            size = self.path.stat().st_size
            yield from self._walk(cast("IO[bytes]", file), "r:", ignore)
            file.seek(self._end)
            if file.read(_BLOCK) != bytes(_BLOCK) or self._end + _BLOCK > size:
                raise self._damaged("it has no end")

    def _damaged(self, why: str) -> ArchiveError:
        return ArchiveError(f"{self.path}: truncated or damaged ({why}); download it again and compare its checksum")

    def _walk(self, file: IO[bytes], mode: str, ignore: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        number, self._end = 0, 0
        try:
            archive: tarfile.TarFile
            with cast("Any", tarfile.open)(fileobj=file, mode=mode, bufsize=_CHUNK) as archive:
                for entry in archive:
                    cast("Any", archive).members.clear()  # it would keep 1 kB for each
                    number += 1
                    check_number(self.path, number)
                    name = check_member(self.path, entry.name, entry.size)
                    self._end = entry.offset_data + (-(-entry.size // _BLOCK) * _BLOCK if entry.isreg() else 0)
                    if entry.issparse():
                        raise ArchiveError(f"{self.path}: member {name!r}: is a sparse file; unpack the archive")
                    if entry.isreg() and not ignore(name):
                        time = int(entry.mtime * 1e9) if -1e9 < entry.mtime < 1e10 else 0
                        yield name, pack_span(entry.offset_data, entry.size, entry.size, -1, 0, time)
                self._end = max(self._end, archive.offset - _BLOCK)
        except (tarfile.TarError, UnicodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._damaged(str(error)) from None

    def time(self, stated: int) -> int:
        """Return a stated time in nanoseconds."""
        return stated

    def read(self, name: str, span: Span, count: int | None = None) -> bytes:
        """Return a member, or its first ``count`` bytes if it has as many. Raises ImageError."""
        try:
            return self._reader.read(span.at, span.size if count is None else min(count, span.size))
        except OSError as error:
            raise ImageError(f"{self.path}: member {name!r}: cannot be read: {error.strerror or error}") from None


class TarGz(Tar):
    """Compressed tar archive.

    Args:
        path: the archive.
        folder: folder of the decompressed copy.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        status = path.stat()
        self.copy = folder / f".{path.name}-{status.st_size}-{status.st_mtime_ns}.unpacked.tar"
        self.unpacked = 0  #: size of the copy in bytes, known after the archive was listed
        self._reader = Reader(self.copy)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def members(self, ignore: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield name and position in the copy of every file inside. Raises ArchiveError."""
        if self.copy.exists():
            copy = Tar(self.copy)
            yield from copy.members(ignore)
            self.unpacked = self.copy.stat().st_size
            return
        with gzip.open(self.path) as stream:
            counted = _Counted(cast("IO[bytes]", stream), self)
            yield from self._walk(cast("IO[bytes]", counted), "r|", ignore)
            try:
                while counted.read(_CHUNK):  # to gzip's checksum
                    pass
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise self._damaged(str(error)) from None
            self.unpacked = counted.at
            if self._end + _BLOCK > counted.at:
                raise self._damaged("it has no end")

    def read(self, name: str, span: Span, count: int | None = None) -> bytes:
        """Return a member, or its first ``count`` bytes if it has as many; the first call decompresses the archive."""
        with self._lock:
            if not self.copy.exists():
                self.unpack()
        return super().read(name, span, count)

    def unpack(self) -> None:
        """Write the decompressed copy. Raises ArchiveError if the archive is damaged, OSError if the disk is too small."""
        self.copy.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.copy.parent).free
        if self.unpacked > free:
            raise OSError(
                f"{self.copy.parent}: the decompressed copy of {self.path} needs {self.unpacked / 1e9:.2f} GB, "
                f"but only {free / 1e9:.2f} GB are free"
            )
        size = f"{self.unpacked / 1e9:.2f} GB, " if self.unpacked else ""
        say(f"{self.path}: is decompressed to {self.copy} ({size}deleted when the store is finished)")
        try:
            with gzip.open(self.path) as stream, atomic_file(self.copy) as file:
                counted = _Counted(cast("IO[bytes]", stream), self)
                while data := counted.read(_CHUNK):
                    file.write(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._damaged(str(error)) from None

    def discard(self) -> None:
        """Delete the decompressed copy."""
        self._reader.close()
        self.copy.unlink(missing_ok=True)


class _Counted:
    """Stream of the decompressed bytes of a tar.gz, which raises an error if they are far more than a real archive has."""

    def __init__(self, stream: IO[bytes], archive: TarGz) -> None:
        self._stream = stream
        self._path = archive.path
        self._most = _ROOM + _RATIO * os.stat(archive.path).st_size  # noqa: PTH116
        self.at = 0

    def read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self.at += len(data)
        if self.at > self._most:
            raise ArchiveError(
                f"{self._path}: unpacks to more than {_RATIO} times its size; it cannot be one of images"
            )
        return data
