"""Damage of an image file that shows in its bytes: cut files, checksums, files that are something else."""

from __future__ import annotations

import re
import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type

_ZEROS = 64  # zero bytes at the end of compressed data that no encoder writes


def disguise_of(data: bytes) -> str | None:
    """Return a description of a file that is no image at all, else None."""
    start = data[:512].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the image: run git lfs pull"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (HTML or XML) instead of the image: the download failed"
    if start.startswith((b"pk\x03\x04", b"rar!", b"7z\xbc\xaf", b"\x1f\x8b")):
        return "an archive instead of an image: unpack it"
    return None


def damage_of(data: bytes) -> str | None:
    """Return a description of the damage, None if the bytes show none. Pixels are not decoded."""
    if not data:
        return "the file is empty"
    if not any(data[:4096]):
        zeros = "contains only zero bytes" if not any(data) else "begins with zero bytes"
        return f"{zeros}: an interrupted download or copy"
    if data.startswith(_PNG):
        return _png_damage(data)
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-65536:]:
        return f"truncated: the JPEG has no end{_zeros(data)}"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        stated = 8 + struct.unpack_from("<I", data, 4)[0]
        if stated > len(data):
            return f"truncated: the WebP has {len(data):,} of {stated:,} bytes"
        return f"truncated{_zeros(data)}" if _zeros(data) else None
    return None


def _zeros(data: bytes) -> str:
    """Return a description of zero bytes at the end of compressed data, "" if there are none."""
    count = len(data) - len(data.rstrip(b"\0"))
    return f"; its last {count:,} bytes are zero (an interrupted download or copy)" if count >= _ZEROS else ""


def _png_damage(data: bytes) -> str | None:
    at = len(_PNG)
    while at < len(data):
        if at + 12 > len(data):
            return f"truncated: the PNG has no end (IEND){_zeros(data)}"
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        name = kind.decode("ascii", "replace")
        if re.fullmatch(rb"[A-Za-z]{4}", kind) is None:
            return f"damaged from byte {at:,} of {len(data):,} on: no PNG chunk begins there{_zeros(data)}"
        if end > len(data):
            return f"truncated: chunk {name} needs {end - len(data):,} more bytes than the file has{_zeros(data)}"
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return f"CRC error in the PNG chunk {name} at byte {at:,} of {len(data):,}{_zeros(data)}"
        if kind == b"IEND":
            return None
        at = end
    return f"truncated: the PNG has no end (IEND){_zeros(data)}"


def missing_rows(data: bytes) -> str | None:
    """Return how many rows the pixels of a PNG have, if they have fewer than its header states; None for other files."""
    if not data.startswith(_PNG) or len(data) < 33:
        return None
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    row = 1 + -(-width * depth * _SAMPLES.get(color, 4) // 8)
    if interlaced:
        return None
    found, inflate = 0, zlib.decompressobj()
    at = len(_PNG)
    try:
        while at + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            left = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
            while left:
                found += len(inflate.decompress(left, 1 << 20))
                left = inflate.unconsumed_tail
            at += 12 + length
    except zlib.error:
        return f"damaged: the compressed pixels end in an error after {found // row:,} of {height:,} rows"
    if found >= row * height:
        return None
    return f"truncated: contains {found // row:,} of {height:,} rows of pixels, although its chunks are whole"
