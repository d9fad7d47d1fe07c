"""Recognize an image file by its first bytes, and decode it with the decoder of its format.

=====================  ==============================================================================
PNG                    OpenCV (16-bit colors), palettes by Pillow: :mod:`sr_train.data.decoding.png`
TIFF                   Pillow, 16-bit colors by OpenCV: :mod:`sr_train.data.decoding.tiff`
JPEG, BMP, WebP, AVIF  Pillow
=====================  ==============================================================================
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import PIL.features
import PIL.Image

from sr_train.batch import Image
from sr_train.data.decoding import png, tiff
from sr_train.data.decoding.header import (
    Header,
    ImageError,
    check_size,
    header_of,
    open_pillow,
    reason_of,
    refuse_animation,
)

_HAS_AVIF = PIL.features.check("avif")

_FORMATS = [
    "PNG",
    "JPEG",
    "BMP",
    "DIB",
    "WEBP",
    *(["AVIF"] if _HAS_AVIF else []),
]  # JPEG also opens the MPO files of some cameras

_ERRORS = (OSError, ValueError, SyntaxError, struct.error, TypeError, KeyError, OverflowError, EOFError, IndexError)

_READ = "png, jpg, bmp, webp, tiff, avif"

# First bytes, with "?" for any byte, of formats that are named in the refusal.
_FOREIGN = {
    b"GIF8": "a GIF", b"\xff\x0a": "a JPEG XL image", b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image", b"\xff\x4f\xff\x51": "a JPEG 2000 image", b"8BPS": "a Photoshop document",
    b"v/1\x01": "an OpenEXR image", b"#?RADIANCE": "a Radiance HDR image", b"%PDF": "a PDF", b"DDS ": "a DDS texture",
    b"\0\0\x01\0": "an icon", b"qoif": "a QOI image", b"P1": "a PBM image", b"P2": "a PGM image", b"P3": "a PPM image",
    b"P4": "a PBM image", b"P5": "a PGM image", b"P6": "a PPM image", b"PF": "a PFM image", b"Pf": "a PFM image",
    b"????ftyphei": "a HEIC image", b"????ftyphev": "a HEIC image", b"????ftypmif1": "a HEIF image",
    b"????ftypmsf1": "a HEIF image", b"????ftyp": "a video", b"\x1aE\xdf\xa3": "a video", b"RIFF????AVI ": "a video",
    b"II\xbc\x01": "a JPEG XR image", b"gimp xcf": "a GIMP image",
}  # fmt: skip

# The free memory decides how large an image may be: see check_size.
PIL.Image.MAX_IMAGE_PIXELS = None


class Opened(NamedTuple):
    """Image whose header is read."""

    header: Header  #: of the decoded array
    image: PIL.Image.Image | None  #: None for a TIFF
    layout: png.Layout | tiff.Layout | None  #: of a PNG or TIFF


def _starts(data: bytes, pattern: bytes) -> bool:
    return len(data) >= len(pattern) and all(p in (63, d) for p, d in zip(pattern, data, strict=False))


def _is_avif(data: bytes) -> bool:
    """Return True if a file is an AVIF: its first box (``ftyp``) lists the format names ``avif`` or ``avis``.

    All names in the list are read, because many AVIF files have the more general name ``mif1`` as the first.
    """
    end = int.from_bytes(data[:4], "big")
    return data[4:8] == b"ftyp" and any(data[i : i + 4] in (b"avif", b"avis") for i in range(8, min(end, 256), 4))


def _unknown(path: Path, data: bytes) -> ImageError:
    """Return the error for a file that Pillow cannot open."""
    if _is_avif(data):
        if not _HAS_AVIF:
            return ImageError(
                f"{path}: an AVIF image, which this version of Pillow cannot decode; pip install 'pillow>=11.3'"
            )
    else:
        for pattern, name in _FOREIGN.items():
            if _starts(data, pattern):
                return ImageError(
                    f"{path}: {name}, a format that cannot be read; convert it to png (16-bit png if it has more than 8 bits)"
                )
    return ImageError(f"{path}: not a readable image (corrupt, or not one of {_READ} in 8 or 16 bit)")


def open_image(path: Path, data: bytes) -> Opened:
    """Read the header of an image. Raises ImageError for a file that cannot be decoded, before memory is allocated."""
    if not data:
        raise ImageError(f"{path}: the file is empty")
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # Pillow would not say why it refuses one
        layout = tiff.read_layout(path, data)
        return Opened(check_size(path, layout.header), None, layout)
    if _is_avif(data) and (bits := _avif_bits(data)) != 8:
        raise ImageError(f"{path}: an AVIF of {bits} bits, but Pillow decodes only 8 bits; convert it to a 16-bit png")
    image = _open(path, data)
    if image.format == "PNG":
        layout = png.read_layout(path, data)
        return Opened(check_size(path, layout.header), image, layout)
    count = _images(path, image)
    kind = {"MPO": "a JPEG (MPO)", "WEBP": "an animated WebP", "AVIF": "an animated AVIF"}.get(str(image.format))
    refuse_animation(path, kind or str(image.format), count, "pictures" if image.format == "MPO" else "frames")
    channels = {"1": 1, "L": 1, "RGBA": 4, "LA": 4, "PA": 4, "RGBa": 4}.get(image.mode, 3)
    if image.mode == "P" and "transparency" in image.info:
        channels = 4
    return Opened(check_size(path, header_of(image.height, image.width, channels, deep=False)), image, None)


def _open(path: Path, data: bytes) -> PIL.Image.Image:
    try:
        return open_pillow(data, _FORMATS)
    except PIL.UnidentifiedImageError:
        raise _unknown(path, data) from None
    except _ERRORS as error:
        raise ImageError(f"{path}: the image header cannot be read: {reason_of(error)}") from None


def _images(path: Path, image: PIL.Image.Image) -> int:
    """Return the number of images in a file. Small preview images that cameras add do not count."""
    try:
        count = getattr(image, "n_frames", 1)
        if image.format != "MPO":
            return count
        entries = cast("Any", image).mpinfo[0xB002]
        return 1 + sum("Thumbnail" not in str(e["Attribute"]["MPType"]) for e in entries[1:])
    except _ERRORS as error:
        raise ImageError(f"{path}: the image header cannot be read: {reason_of(error)}") from None


def _avif_bits(data: bytes) -> int:
    """Return the bits per sample of an AVIF, read from the decoder's configuration (``av1C``); 8 if there is no ``av1C``."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return {0: 8, 2: 10}.get(flags >> 5 & 3, 12)


def decode(path: Path, data: bytes) -> Image:
    """Decode the bytes of an image file to [H, W, C] uint8 or uint16, RGB order."""
    opened = open_image(path, data)
    if isinstance(opened.layout, tiff.Layout):
        return tiff.decode_tiff(path, data, opened.layout)
    if opened.layout is not None:
        png.check_chunks(path, data, opened.layout)
        if not opened.layout.palette:
            return png.decode_png(path, data, opened.layout)
    mode, image = {1: "L", 3: "RGB", 4: "RGBA"}[opened.header.channels], opened.image
    assert image is not None, "every format except TIFF must have been opened by Pillow"
    try:
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (*_ERRORS, MemoryError) as error:
        raise ImageError(f"{path}: corrupt or truncated image: {reason_of(error)}") from None
    if pixels.shape[:2] != (opened.header.height, opened.header.width):
        raise ImageError(f"{path}: corrupt or truncated image (its size differs from that in its header)")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def orientation_of(path: Path, data: bytes) -> int:
    """Return the EXIF orientation of an image. 1 means upright; it is also returned for a TIFF and for a damaged tag.

    The decoder has already applied the orientation of a TIFF.
    """
    image = open_image(path, data).image
    if image is None:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except _ERRORS:
        return 1
