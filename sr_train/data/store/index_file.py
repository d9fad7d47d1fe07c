"""The index of a store: which images its ``data.mdb`` holds, and at which position of that file.

The builder writes it to the file ``index``, next to ``data.mdb``: a header, the names ``SCALE/KEY`` (sorted, NUL between
them), records and positions of all images, and a CRC-32 of all before.

Without that file the index is read from LMDB's own pages. LMDB itself is not asked: it follows every page number in its
file, and a damaged one leads beyond the end of its memory map, which kills the process (SIGBUS). It does not state positions
either. The format of the pages is that of LMDB 0.9, 64 bits, little endian.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from sr_train.data.store.format import SUMMARY, Record

_MAGIC = b"sr-train index 1"

_HEAD = struct.Struct("<16sQQIIIII")  # magic, the first five fields of Index, bytes of the names, number of images

_HEADER = 16  # bytes of a page's header

_PAGE = struct.Struct("<QxxHH")  # number, flags, end of the entries' positions

_META = struct.Struct("<II16xI84xQQQ")  # magic, version, page size; root of the main tree, last page, transaction

_NODE = struct.Struct("<HHHH")  # length of the value or number of a page (low, high), flags, length of the key

_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4

_BIG = 1  # flag of an entry: its value has pages of its own

_NONE = (1 << 64) - 1

Spans = dict[bytes, tuple[int, int]]  # LMDB's key -> (position, length) of its value


class Index(NamedTuple):
    """The index of a ``data.mdb``: all that a reader needs in order to find and check pixels."""

    size: int  #: of data.mdb, bytes
    at: int  #: position of the summary
    length: int  #: of the summary, bytes
    page: int  #: size of LMDB's pages, bytes
    identity: int  #: CRC-32 of LMDB's two header pages, which any transaction changes, and of the summary
    names: bytes
    records: bytes
    offsets: bytes

    @classmethod
    def of(cls, data: mmap.mmap) -> Index:
        """Read the index from LMDB's pages. Raises ValueError that names the damage."""
        page, spans = _read_tree(data)
        at, length = spans.get(SUMMARY, (0, 0))
        names = sorted(name[2:] for name in spans if name.startswith(b"m/"))
        missing = [name for name in names if b"p/" + name not in spans]
        if missing:
            raise ValueError(f"{missing[0]!r} has no pixels")
        records = b"".join(data[start : start + size] for start, size in (spans[b"m/" + name] for name in names))
        offsets = struct.pack(f"<{len(names)}Q", *(spans[b"p/" + name][0] for name in names))
        identity = _identity(data, at, length, page)
        return cls(len(data), at, length, page, identity, b"\0".join(names), records, offsets)

    def pack(self) -> bytes:
        """Contents of the file ``index``."""
        body = _HEAD.pack(_MAGIC, *self[:5], len(self.names), len(self.offsets) // 8) + b"".join(self[5:])
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def unpack(cls, file: bytes) -> Index:
        """The inverse of :meth:`pack`. Raises ValueError for a damaged file."""
        body = file[:-4]
        if len(body) < _HEAD.size or not body.startswith(_MAGIC) or zlib.crc32(body).to_bytes(4, "little") != file[-4:]:
            raise ValueError("damaged, or written by a newer sr-train")
        _, size, at, length, page, identity, names, count = _HEAD.unpack_from(body)
        first, last = _HEAD.size + names, max(0, len(body) - 8 * count)
        return cls(size, at, length, page, identity, body[_HEAD.size : first], body[first:last], body[last:])

    def fits(self, data: mmap.mmap) -> bool:
        """Return whether the index was made from this ``data.mdb``."""
        return len(data) == self.size and _identity(data, self.at, self.length, self.page) == self.identity

    def images(self) -> Iterator[tuple[int, str, Record, int]]:
        """(scale, key, record, position) of every image. Raises ValueError where they cannot be so."""
        records = Record.unpack(self.records)
        names = self.names.decode().split("\0") if self.names else []
        for name, record, (at,) in zip(names, records, struct.iter_unpack("<Q", self.offsets), strict=True):
            if not 0 < record.nbytes <= self.size - at:
                raise ValueError(f"{name!r} of {record.shape} at {at} of {self.size} bytes")
            scale, _, key = name.partition("/")
            yield int(scale), key, record, at

    @property
    def checksum(self) -> int:
        """CRC-32 of the images' names and records, which contain checksums of the pixels."""
        return zlib.crc32(self.records, zlib.crc32(self.names))


def _identity(data: mmap.mmap, at: int, length: int, page: int) -> int:
    return zlib.crc32(data[at : at + length], zlib.crc32(data[: 2 * page]))


def _read_tree(data: mmap.mmap) -> tuple[int, Spans]:
    """The page size, and where every value is."""
    size = 0
    try:
        size = _META.unpack_from(data, _HEADER)[2]
        metas = [_META.unpack_from(data, at + _HEADER) for at in (0, size)]
    except struct.error:
        metas = []
    if [meta[:2] for meta in metas] != [(0xBEEFC0DE, 1)] * 2 or size < 512:
        raise ValueError("it has no header of LMDB 0.9, 64 bits, little endian")
    root = max(metas, key=lambda meta: meta[5])[3]
    spans: Spans = {}
    todo: list[int] = [] if root == _NONE else [root]
    seen: set[int] = set()
    while todo:
        number = todo.pop()
        if number in seen or (number + 1) * size > len(data):
            raise ValueError(f"page {number} of {len(data) // size}{' twice' if number in seen else ''} in its tree")
        seen.add(number)
        try:
            todo += _read_page(data[number * size : (number + 1) * size], number, spans)
        except (struct.error, IndexError):
            raise ValueError(f"page {number} of its tree is damaged") from None
    if len({at for at, _ in spans.values()}) < len(spans) or any(sum(span) > len(data) for span in spans.values()):
        raise ValueError("two of its values in one place, or one beyond the end of the file")
    return size, spans


def _read_page(page: bytes, number: int, spans: Spans) -> list[int]:
    """Add a leaf's values to ``spans``, or return the pages below a branch; IndexError or struct.error where damaged."""
    own, flags, lower = _PAGE.unpack_from(page)
    kind = flags & (_BRANCH | _LEAF | _OVERFLOW)
    if own != number or kind not in (_BRANCH, _LEAF) or lower < _HEADER:
        raise IndexError
    below: list[int] = []
    for start in struct.unpack_from(f"<{(lower - _HEADER) // 2}H", page, _HEADER):
        low, high, how, key = _NODE.unpack_from(page, start)
        end = start + _NODE.size + key
        length = low | high << 16
        if kind == _BRANCH:
            below.append(length | how << 32)
        elif how == _BIG:
            spans[page[end - key : end]] = struct.unpack_from("<Q", page, end)[0] * len(page) + _HEADER, length
        elif how == 0 and end + length <= len(page):
            spans[page[end - key : end]] = number * len(page) + end, length
        else:
            raise IndexError
    return below
