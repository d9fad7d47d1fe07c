"""LMDB's tree of pages, looked through before LMDB follows it.

LMDB believes every page number that it finds: one that is damaged leads it beyond the end of its memory map, which ends
the process (SIGBUS) where we would have told which store to copy again. The format is that of LMDB 0.9, 64 bits, little
endian; of others nothing is said.
"""

from __future__ import annotations

import mmap
import struct

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16  # of a page: number, padding, flags, lower, upper
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG = 1  # of a node: its data has pages of its own
_META = struct.Struct("<II16xI84xQQQ")  # magic, version, page size; root of the main tree, last page, transaction
_NODE = struct.Struct("<HHHH")
_NONE = (1 << 64) - 1
_DEEPEST = 32  # LMDB's own limit


def damage(data: mmap.mmap | bytes) -> str | None:
    """What is wrong with the tree of a ``data.mdb``, or None."""
    metas = [_META.unpack_from(data, at + _HEADER) for at in (0, _page_size(data)) if at + 200 <= len(data)]
    metas = [m for m in metas if m[:2] == (_MAGIC, _VERSION)]
    if not metas:  # LMDB says so itself
        return None
    _, _, size, root, _, _ = max(metas, key=lambda m: m[5])
    if size < 512 or size & (size - 1) or size > 1 << 16:
        return f"a page size of {size}"
    return None if root == _NONE else _walk(data, size, root)


def _page_size(data: mmap.mmap | bytes) -> int:
    return _META.unpack_from(data, _HEADER)[2] if len(data) >= 200 else 0


def _walk(data: mmap.mmap | bytes, size: int, root: int) -> str | None:
    pages = len(data) // size
    todo, seen = [(root, 0)], set()
    while todo:
        number, depth = todo.pop()
        if number >= pages or number in seen or depth > _DEEPEST:
            return f"page {number} of {pages} {'twice in its tree' if number in seen else 'in its tree'}"
        seen.add(number)
        at = number * size
        own, _, flags, lower, upper = struct.unpack_from("<QHHHH", data, at)
        if own != number or flags & (_BRANCH | _LEAF | _OVERFLOW) not in (_BRANCH, _LEAF):
            return f"page {number} is none of its tree"
        if not _HEADER <= lower <= upper <= size or (flags & _BRANCH and lower == _HEADER):
            return f"page {number} says that it is filled beyond its end"
        for start in struct.unpack_from(f"<{(lower - _HEADER) // 2}H", data, at + _HEADER):
            if not upper <= start <= size - _NODE.size:
                return f"page {number} has an entry outside of it"
            low, high, kind, key = _NODE.unpack_from(data, at + start)
            end = start + _NODE.size + key
            if flags & _BRANCH:
                todo.append((low | high << 16 | kind << 32, depth + 1))
            elif kind & _BIG and end + 8 <= size:
                first = struct.unpack_from("<Q", data, at + end)[0]
                if first + -(-(_HEADER + (low | high << 16)) // size) > pages:
                    return f"page {number} has a value beyond the end of the file"
            else:
                end += low | high << 16
            if end > size or (not flags & _BRANCH and kind & ~_BIG):
                return f"page {number} has an entry that goes beyond it"
    return None
