"""Zip archives, read in place: the directory at the end is parsed once, members are read at their positions.

``zipfile`` of the standard library needs 600 bytes and 10 us for each member, and reads one member at a time.
"""

from __future__ import annotations

import calendar
import stat
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sr_train.data.decoding.header import ImageError
from sr_train.data.packed.member import ArchiveError, Span, check_member, check_number, pack_span
from sr_train.files import Reader

_END = struct.Struct("<4s4H2IH")  # signature, disks and numbers of members, size and position of the directory, comment

_LOCATOR = struct.Struct("<4sIQI")  # of zip64's end: signature, disk, position, disks

_END64 = struct.Struct("<4sQ2H2I4Q")

# signature; made with (version, system), needed, flags, method; time, date; CRC-32; packed, size; lengths of name, extra and
# comment; disk, attributes of the file (2, 4 bytes); position
_ENTRY = struct.Struct("<4s2B4H H3I5H2I")

_LOCAL = struct.Struct("<4s22x2H")  # signature, lengths of name and extra

_ENCRYPTED, _UTF8 = 1, 1 << 11  # flags

_STORED, _DEFLATED = 0, 8

_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "AES"}

_SPARE = 1 << 10  # compressed data may be longer than the file


class Zip:
    """Zip archive, opened for reading; it is picklable and thread safe.

    Args:
        path: the archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = Reader(path)

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_reader": Reader(self.path)}

    def members(self, ignore: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield name and position of every file inside; folders, links and devices are left out. Raises ArchiveError."""
        directory, first = self._directory(self.path.stat().st_size)
        starts, ends = array("Q"), array("Q")
        for name, span in self._entries(directory):
            starts.append(span[0])
            ends.append(span[0] + _LOCAL.size + span[1])
            if not ignore(name):
                yield name, pack_span(*span)
        if starts:
            order = np.argsort(starts)
            ends = np.frombuffer(ends, np.uint64)[order]
            if ends.max() > first or (ends[:-1] > np.frombuffer(starts, np.uint64)[order][1:]).any():
                raise self._damaged("members overlap, or lie beyond its end")

    def _damaged(self, why: str) -> ArchiveError:
        return ArchiveError(f"{self.path}: truncated or damaged ({why}); download it again and compare its checksum")

    def _directory(self, size: int) -> tuple[bytes, int]:
        """Return the directory and its position."""
        tail = self._reader.read(max(0, size - (1 << 16) - _END.size), min(size, (1 << 16) + _END.size))
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) < at + _END.size:
            raise self._damaged("its directory, at the end of the file, is missing")
        _, disk, first_disk, here, number, length, position, _ = _END.unpack_from(tail, at)
        end = size - len(tail) + at
        if at >= _LOCATOR.size and tail[at - _LOCATOR.size :].startswith(b"PK\6\7"):
            _, disk, at64, disks = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
            if disks <= 1 and at64 + _END64.size <= end:
                values = _END64.unpack(self._reader.read(at64, _END64.size))
                if values[0] != b"PK\6\6":
                    raise self._damaged("its zip64 directory is missing")
                disk, first_disk, here, number, length, position = values[4:]
                end = at64
        if disk != 0 or first_disk != 0 or here != number:
            raise ArchiveError(
                f"{self.path}: this file is one part of a split archive; join the parts "
                f"(zip -s 0 {self.path.name} --out whole.zip)"
            )
        if position + length != end:
            raise self._damaged(f"its directory should end at byte {position + length}, but ends at {end}")
        check_number(self.path, max(number, length // _ENTRY.size) if length else number)
        return self._reader.read(position, length), position

    def _entries(self, directory: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and values of a span of every file."""
        at = 0
        while at < len(directory):
            try:
                (
                    sign,
                    _,
                    system,
                    _,
                    flags,
                    method,
                    time,
                    date,
                    crc,
                    packed,
                    size,
                    n,
                    extra,
                    comment,
                    disk,
                    _,
                    mode,
                    start,
                ) = _ENTRY.unpack_from(directory, at)
            except struct.error:
                raise self._damaged("its directory ends early") from None
            first = at + _ENTRY.size
            at = first + n + extra + comment
            if sign != b"PK\1\2" or at > len(directory):
                raise self._damaged("its directory has wrong entries")
            raw = directory[first : first + n]
            name = _decoded(raw, flags)
            if 0xFFFFFFFF in (packed, size, start):
                packed, size, start = self._wide(name, directory[first + n : first + n + extra], packed, size, start)
            name = check_member(self.path, name, size)
            kind = stat.S_IFMT(mode >> 16) if system == 3 else 0
            if name.endswith("/") or not name or kind not in (0, stat.S_IFREG):  # a folder, link or device
                continue
            self._check_entry(name, flags, method, packed, size, disk)
            yield name, (start, packed, size, crc, method, date << 16 | time)

    def _wide(self, name: str, extra: bytes, *values: int) -> list[int]:
        """Return packed size, size and position, taken from zip64's field where they do not fit 32 bits."""
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                wide = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
                try:  # the field has size, packed size and position, in this order
                    size = next(wide) if values[1] == 0xFFFFFFFF else values[1]
                    packed = next(wide) if values[0] == 0xFFFFFFFF else values[0]
                    return [packed, size, next(wide) if values[2] == 0xFFFFFFFF else values[2]]
                except StopIteration:
                    break
            at += 4 + length
        raise self._damaged(f"member {name!r} has no zip64 sizes")

    def _check_entry(self, name: str, flags: int, method: int, packed: int, size: int, disk: int) -> None:
        where = f"{self.path}: member {name!r}"
        if flags & _ENCRYPTED:
            raise ArchiveError(f"{where}: is encrypted; unpack the archive with its password, and give the folder")
        if method not in (_STORED, _DEFLATED):
            kind = _METHODS.get(method, f"method {method}")
            raise ArchiveError(
                f"{where}: is compressed by {kind}; stored and deflated members are read; unpack the archive"
            )
        if disk not in (0, 0xFFFF):
            raise ArchiveError(f"{where}: lies in another part of a split archive; join the parts first")
        if (method == _STORED and packed != size) or size > 1032 * packed:  # the most that deflate can reach
            raise self._damaged(f"member {name!r} of {packed} bytes cannot unpack to {size}")

    def time(self, stated: int) -> int:
        """Return a DOS time in nanoseconds, as UTC: the archive does not contain its zone."""
        date, time = divmod(stated, 1 << 16)
        parts = (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2)
        return calendar.timegm(parts) * 10**9 if 1 <= parts[1] <= 12 else 0

    def read(self, name: str, span: Span, count: int | None = None) -> bytes:
        """Return a member, or at least its first ``count`` bytes if it has as many. Raises ImageError."""
        try:
            sign, n, extra = _LOCAL.unpack(self._reader.read(span.at, _LOCAL.size))
            if sign != b"PK\3\4":
                raise _DamagedMember("the archive was changed since it was listed, or is damaged")
            first = span.at + _LOCAL.size + n + extra
            count = span.size if count is None else min(count, span.size)
            whole = count == span.size
            data = self._reader.read(first, span.packed if whole else min(span.packed, count + _SPARE))
        except OSError as error:
            raise ImageError(f"{self.path}: member {name!r}: cannot be read: {error.strerror or error}") from None
        except _DamagedMember as error:
            raise ImageError(f"{self.path}: member {name!r}: {error}") from None
        try:
            return _unpacked(data, span) if whole else _beginning(data, span, count)
        except (_DamagedMember, zlib.error) as error:
            raise ImageError(f"{self.path}: member {name!r}: damaged ({error}); download the archive again") from None


class _DamagedMember(Exception):  # noqa: N818 - becomes an ImageError
    pass


def _decoded(raw: bytes, flags: int) -> str:
    """Return a name. Without the flag of UTF-8 it is in the character set of DOS, or in that of a careless program."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace") if flags & _UTF8 else raw.decode("cp437")


def _beginning(data: bytes, span: Span, count: int) -> bytes:
    return data[:count] if span.method == _STORED else zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, count)


def _unpacked(data: bytes, span: Span) -> bytes:
    if span.method == _DEFLATED:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        data = stream.decompress(data, span.size + 1)
        if len(data) > span.size:
            raise _DamagedMember(f"it unpacks to more than the {span.size} bytes that the archive states")
        if len(data) < span.size or not stream.eof:
            raise _DamagedMember(f"it unpacks to {len(data)} of {span.size} bytes")
    if zlib.crc32(data) != span.crc:
        raise _DamagedMember("its CRC-32 is wrong")
    return data
