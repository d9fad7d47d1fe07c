"""ICC color profiles: reading them from image files, and adding them to encoded PNG and JPEG files (ICC.1:2022, annex B)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import PIL.Image

_TIFF_TAG = 34675

_SPACES = {1: b"GRAY", 3: b"RGB ", 4: b"RGB "}  # colors that a profile describes, by the channels of the image

_SEGMENT = 65535 - 2 - 14  # bytes of a profile in one segment of a JPEG

_LARGEST = 255 * _SEGMENT

_FAULTS = (OSError, ValueError, SyntaxError, struct.error, TypeError, KeyError, OverflowError, EOFError, IndexError)


def read_profile(path: Path, channels: int) -> bytes | None:
    """Return the ICC profile of an image file, or None.

    A profile that is damaged, or that describes other colors than an image of ``channels`` channels has (CMYK of a file that
    is decoded to RGB), is ignored.
    """
    try:
        opened: Any = PIL.Image.open(path)
        with opened as image:
            found: object = image.info.get("icc_profile")
            if found is None and image.format == "TIFF":
                found = image.tag_v2.get(_TIFF_TAG)
    except _FAULTS:
        return None
    if not isinstance(found, bytes) or not 128 < len(found) <= _LARGEST or found[36:40] != b"acsp":
        return None
    return found if found[16:20] == _SPACES[channels] else None


def add_to_png(data: bytes, profile: bytes) -> bytes:
    """Return a PNG file with the profile as its iCCP chunk, directly after the header (PNG specification, 11.3.2.3)."""
    content = b"ICC Profile\0\0" + zlib.compress(profile, 9)
    chunk = b"iCCP" + content
    end = 8 + 25  # signature and IHDR
    return data[:end] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[end:]


def add_to_jpeg(data: bytes, profile: bytes) -> bytes:
    """Return a JPEG file with the profile in APP2 segments after the JFIF header (ICC.1:2022, B.4)."""
    at = 2 + (2 + struct.unpack_from(">H", data, 4)[0] if data[2:4] == b"\xff\xe0" else 0)
    parts = [profile[i : i + _SEGMENT] for i in range(0, len(profile), _SEGMENT)]
    segments = b"".join(
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        for number, part in enumerate(parts, 1)
    )
    return data[:at] + segments + data[at:]
