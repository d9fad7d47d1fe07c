"""Whether a film's file ends where its head says that it does: what a download or a full disk cut short is told of at once.

Looked at are AVI's RIFF size, Matroska's segment, the boxes of MP4 and GIF's trailer. What of others can be told is
told when they have been read; MPEG programs and transport streams do not say how long they are.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HEAD = 1 << 12

_SEGMENT = b"\x18\x53\x80\x67"  # Matroska's element that holds all frames

_TRAILER = b";"  # of GIF; some programs write a few bytes behind it


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks, at least; 0 where it is whole or does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return max(0, 8 + struct.unpack("<I", head[4:8])[0] - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _matroska(head) - size)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _boxes(file, size)
        if head[:6] in (b"GIF87a", b"GIF89a"):
            file.seek(max(0, size - 16))
            return 0 if _TRAILER in file.read() else 1
    return 0


def _matroska(head: bytes) -> int:
    """Where the segment ends; 0 for one of unknown size, as live streams are."""
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return 0
    length = 9 - head[at].bit_length()  # of the number, which its first bit set says
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return 0 if value == (1 << 7 * length) - 1 else at + length + value


def _boxes(file: BinaryIO, size: int) -> int:
    """Of MP4 and MOV: what the last box of the outermost ones lacks."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, kind, more = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        if not kind.isascii() or length == 0:  # no box; or one that goes to the end
            return 0
        length = more if length == 1 else length
        if length < 8:
            return 0
        at += length
    return max(0, at - size)
