"""Index of a store (LMDB of sr-train): the images in the file ``data.mdb`` and the positions of their pixels in this file.

The builder writes the index to the file ``index`` next to ``data.mdb``. The file ``index`` contains a header, the names
``SCALE/KEY`` (sorted, separated by NUL), records and positions of all images, and a CRC-32 of all bytes before it.

If there is no file ``index``, the index is read from LMDB's pages in ``data.mdb``, without the LMDB library. The
library follows every page number in the file. A damaged page number leads beyond the end of the memory map, which kills
the process (SIGBUS). The library also does not report positions. The pages have the format of LMDB 0.9, 64 bits, little
endian.
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

_HEADER = 16  # size of a page's header in bytes

_PAGE = struct.Struct("<QxxHH")  # number, flags, end of the entries' positions

_META = struct.Struct("<II16xI84xQQQ")  # magic, version, page size; root of the main tree, last page, transaction

_NODE = struct.Struct("<HHHH")  # length of the value or number of a page (low, high), flags, length of the key

_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4

_BIG = 1  # flag of an entry whose value has separate pages

_NONE = (1 << 64) - 1

Spans = dict[bytes, tuple[int, int]]  # LMDB's key -> (position, length) of its value


class Index(NamedTuple):
    """Index of a store's ``data.mdb``: all that is needed to find and check the pixels of an image."""

    size: int  #: size of data.mdb in bytes
    at: int  #: position of the summary
    length: int  #: length of the summary in bytes
    page: int  #: size of LMDB's pages in bytes
    identity: int  #: CRC-32 of LMDB's two header pages, which every transaction changes, and of the summary
    names: bytes
    records: bytes
    offsets: bytes

    @classmethod
    def of(cls, data: mmap.mmap) -> Index:
        """Read the index from LMDB's pages in a ``data.mdb``. Raises ValueError that describes a damage of the file."""
        page, spans = read_tree(data)
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
        """Return the contents of the file ``index``."""
        body = _HEAD.pack(_MAGIC, *self[:5], len(self.names), len(self.offsets) // 8) + b"".join(self[5:])
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def unpack(cls, file: bytes) -> Index:
        """Read the contents of the file ``index``, the inverse of :meth:`pack`. Raises ValueError for a damaged file."""
        body = file[:-4]
        if len(body) < _HEAD.size or not body.startswith(_MAGIC) or zlib.crc32(body).to_bytes(4, "little") != file[-4:]:
            raise ValueError("the file is damaged, or was written by a newer sr-train")
        _, size, at, length, page, identity, names, count = _HEAD.unpack_from(body)
        first, last = _HEAD.size + names, max(0, len(body) - 8 * count)
        return cls(size, at, length, page, identity, body[_HEAD.size : first], body[first:last], body[last:])

    def fits(self, data: mmap.mmap) -> bool:
        """Return True if the index was made from this ``data.mdb``."""
        return len(data) == self.size and _identity(data, self.at, self.length, self.page) == self.identity

    def images(self) -> Iterator[tuple[int, str, Record, int]]:
        """Yield (scale, key, record, position) of every image. Raises ValueError for impossible values."""
        records = Record.unpack(self.records)
        names = self.names.decode().split("\0") if self.names else []
        for name, record, (at,) in zip(names, records, struct.iter_unpack("<Q", self.offsets), strict=True):
            if not 0 < record.nbytes <= self.size - at:
                raise ValueError(f"{name!r} of shape {record.shape} does not fit at position {at} of {self.size} bytes")
            scale, _, key = name.partition("/")
            yield int(scale), key, record, at

    @property
    def checksum(self) -> int:
        """CRC-32 of names and records of all images. A record contains a checksum of the pixels."""
        return zlib.crc32(self.records, zlib.crc32(self.names))


def _identity(data: mmap.mmap, at: int, length: int, page: int) -> int:
    return zlib.crc32(data[at : at + length], zlib.crc32(data[: 2 * page]))


def read_tree(data: mmap.mmap) -> tuple[int, Spans]:
    """Read LMDB's tree of pages from a ``data.mdb``.

    Return the page size, and {key: (position, length)} of all values.
    """
    size = 0
    try:
        size = _META.unpack_from(data, _HEADER)[2]
        metas = [_META.unpack_from(data, at + _HEADER) for at in (0, size)]
    except struct.error:
        metas = []
    if [meta[:2] for meta in metas] != [(0xBEEFC0DE, 1)] * 2 or size < 512:
        raise ValueError("no header of LMDB 0.9, 64 bits, little endian")
    root = max(metas, key=lambda meta: meta[5])[3]
    spans: Spans = {}
    todo: list[int] = [] if root == _NONE else [root]
    seen: set[int] = set()
    while todo:
        number = todo.pop()
        if number in seen or (number + 1) * size > len(data):
            fault = "occurs twice" if number in seen else f"occurs, but the file has only {len(data) // size} pages"
            raise ValueError(f"in LMDB's tree of pages, page {number} {fault}")
        seen.add(number)
        try:
            todo += _read_page(data[number * size : (number + 1) * size], number, spans)
        except (struct.error, IndexError):
            raise ValueError(f"page {number} in LMDB's tree of pages is damaged") from None
    if len({at for at, _ in spans.values()}) < len(spans) or any(sum(span) > len(data) for span in spans.values()):
        raise ValueError("two values have the same position, or a value is beyond the end of the file")
    return size, spans


def _read_page(page: bytes, number: int, spans: Spans) -> list[int]:
    """Read one page of LMDB's tree.

    For a leaf, add its values to ``spans``; for a branch, return the numbers of its pages. A damaged page raises
    IndexError or struct.error.
    """
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
