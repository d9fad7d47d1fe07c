"""Tags of a TIFF: all pages, classic and BigTIFF, of both byte orders.

Pillow and OpenCV ignore further pages, signed samples and missing strips without an error, so the tags are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
STRIPS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, PLANAR = 273, 274, 277, 278, 284
TILE_WIDTH, TILE_LENGTH, TILES, INK_SET, EXTRA, FORMAT = 322, 323, 324, 332, 338, 339
DNG_VERSION = 50706

_WANTED = {
    SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLES, ROWS_PER_STRIP, PLANAR,
    TILE_WIDTH, TILE_LENGTH, INK_SET, EXTRA, FORMAT,
}  # fmt: skip

_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}  # integers only

_MANY_VALUES = 64  # no wanted tag has more

_MANY_PAGES = 65_536


class Page(NamedTuple):
    """Tags of one page."""

    values: Mapping[int, tuple[int, ...]]  #: integers of the tags that are used here
    counts: Mapping[int, int]  #: number of values of every tag
    places: Mapping[int, int]  #: position of the value of every tag in the file

    def get(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return self.values.get(tag, (default,))[0]


def byte_order(data: bytes) -> str:
    """Return the byte order of a TIFF as the module ``struct`` writes it: ``<`` (little endian) or ``>`` (big endian)."""
    return "<" if data[:2] == b"II" else ">"


def read_pages(data: bytes) -> list[Page]:
    """Read the tags of all pages. Raises struct.error or ValueError if a page is beyond the end of ``data``."""
    order = byte_order(data)
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset, head = (order + "Q", 8) if big else (order + "I", 4)
    at = struct.unpack_from(offset, data, head)[0]
    pages: list[Page] = []
    seen: set[int] = set()
    while at and at not in seen and len(pages) < _MANY_PAGES:
        seen.add(at)
        page, at = _page(data, at, order, big=big)
        pages.append(page)
    if not pages:
        raise ValueError("it has no page")
    return pages


def _page(data: bytes, at: int, order: str, *, big: bool) -> tuple[Page, int]:
    """Read the page at a position in the file.

    Return the page and the position of the next page; 0 after the last page.
    """
    number, entry, offset, size = ("Q", "HHQ", "Q", 20) if big else ("H", "HHI", "I", 12)
    (entries,) = struct.unpack_from(order + number, data, at)
    at += struct.calcsize(order + number)
    if at + entries * size > len(data):
        raise ValueError("its list of tags is beyond the end of the file")
    values: dict[int, tuple[int, ...]] = {}
    counts: dict[int, int] = {}
    places: dict[int, int] = {}
    room = struct.calcsize(order + offset)
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(order + entry, data, at)
        counts[tag] = count
        places[tag] = at + size - room
        if tag in _WANTED and kind in _TYPES and 0 < count <= _MANY_VALUES:
            form = f"{order}{count}{_TYPES[kind]}"
            if struct.calcsize(form) > room:
                places[tag] = struct.unpack_from(order + offset, data, places[tag])[0]
            values[tag] = struct.unpack_from(form, data, places[tag])
        at += size
    return Page(values, counts, places), struct.unpack_from(order + offset, data, at)[0]
