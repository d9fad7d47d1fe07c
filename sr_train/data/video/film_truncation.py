"""Detection of videos whose end is missing, e.g. after an aborted download. The check is made before frames are read.

The file size is compared with AVI's RIFF size, Matroska's segment or the boxes of MP4. A GIF must end with its trailer
byte. Other formats are checked while they are read. MPEG program and transport streams do not contain their length.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HEAD = 1 << 12

_SEGMENT = b"\x18\x53\x80\x67"  # Matroska's element that contains all frames

_TRAILER = b";"  # end of a GIF; some programs write a few bytes after it


def missing_bytes(path: Path) -> int:
    """Return a lower bound for the number of missing bytes; 0 if the file is complete or its length is unknown."""
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
    """Return the end position of a Matroska file's segment; 0 if the size of the segment is unknown, as in live streams."""
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return 0
    length = 9 - head[at].bit_length()  # bytes of the number, given by its first bit that is set
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return 0 if value == (1 << 7 * length) - 1 else at + length + value


def _boxes(file: BinaryIO, size: int) -> int:
    """Return the number of bytes missing at the end of an MP4 or MOV: its last box (block) ends beyond the file's end."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, kind, more = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        if not kind.isascii() or length == 0:  # no box, or a box up to the end of the file
            return 0
        length = more if length == 1 else length
        if length < 8:
            return 0
        at += length
    return max(0, at - size)
