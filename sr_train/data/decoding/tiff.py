"""Decode TIFF files with Pillow. OpenCV decodes only 16-bit colors, because Pillow reduces them to 8 bits.

The kind of pixels is read here from the tags. A kind that neither Pillow nor OpenCV decodes correctly raises
ImageError.
"""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import PIL.features
import PIL.Image
import PIL.TiffImagePlugin

from sr_train.batch import Image
from sr_train.data.decoding import tiff_tags as t
from sr_train.data.decoding.header import Header, ImageError, header_of, open_pillow, reason_of, refuse_animation
from sr_train.data.decoding.orientation import turn
from sr_train.data.decoding.png import decode_cv2

if PIL.features.check("libtiff"):  # Pillow's own reader leaves missing strips black and misplaces tiles of odd widths
    PIL.TiffImagePlugin.READ_LIBTIFF = True

_GRAY, _PALETTE, _CMYK = "gray", "palette", "CMYK"

_COLORS = {0: _GRAY, 1: _GRAY, 2: "RGB", 3: _PALETTE, 5: _CMYK, 6: "YCbCr"}

_OTHER_COLORS = {
    4: "a transparency mask", 8: "CIE L*a*b* colors", 9: "ICC L*a*b* colors", 10: "ITU L*a*b* colors",
    32803: "the raw pixels of a camera", 34892: "the raw pixels of a camera", 32844: "LogL pixels", 32845: "LogLuv pixels",
}  # fmt: skip

_FORMATS = {2: "int", 3: "float", 5: "complex int", 6: "complex float"}

_COMPRESSIONS = {
    2: "CCITT RLE", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG", 8: "deflate",
    9: "JBIG", 10: "JBIG", 32773: "PackBits", 32809: "ThunderScan", 32946: "deflate", 34661: "JBIG", 34676: "SGILog",
    34677: "SGILog24", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG of a camera", 34925: "LZMA", 50000: "zstd",
    50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip

_COMMON = (1, 5, 8, 32773, 32946)  # compressions that every libtiff contains

_ASSOCIATED, _STRAIGHT = 1, 2  # values of ExtraSamples; 0 is data without a meaning, which is left out


class Layout(NamedTuple):
    """Content of the tags of a TIFF."""

    header: Header  #: of the upright image
    page: t.Page
    color: str
    bits: int
    inverted: bool  #: 0 is white
    alpha: int | None  #: None, _ASSOCIATED or _STRAIGHT
    orientation: int


def read_layout(path: Path, data: bytes) -> Layout:
    """Read the tags of a TIFF. Raises ImageError for a file of several pages and for pixels that cannot be decoded."""
    try:
        pages = t.read_pages(data)
    except (struct.error, ValueError, OverflowError) as error:
        raise ImageError(f"{path}: the image header cannot be read: {reason_of(error)}") from None
    page = pages[0]
    if t.DNG_VERSION in page.counts:
        raise ImageError(f"{path}: the raw photograph of a camera (DNG); develop it to a 16-bit TIFF or PNG first")
    refuse_animation(path, "a TIFF", 1 + sum(not p.get(t.SUBFILE, 0) & 1 for p in pages[1:]), "pages")  # 1: a thumbnail
    if t.WIDTH not in page.values or t.LENGTH not in page.values:
        raise ImageError(f"{path}: the image header cannot be read: it contains no size")
    bits = _bits(path, page)
    photometric = page.get(t.PHOTOMETRIC, 0)
    color = _COLORS.get(photometric)
    if color is None:
        kind = _OTHER_COLORS.get(photometric, f"colors of kind {photometric}")
        raise ImageError(f"{path}: contains {kind}, which cannot be decoded; {_SAVE}")
    alpha = _alpha(path, page, color, bits)
    _check_kind(path, page, color, bits)
    _check_strips(path, page)
    compression = page.get(t.COMPRESSION, 1)
    decoder = "OpenCV" if bits == 16 and color != _GRAY else "Pillow"
    if compression not in _COMMON and _lacks_codec(decoder, compression, bits):
        name = _COMPRESSIONS.get(compression, f"number {compression}")
        raise ImageError(
            f"{path}: {decoder} cannot decode the compression {name} of this TIFF; save it with deflate or LZW, or uncompressed"
        )
    orientation = page.get(t.ORIENTATION, 1)
    height, width = page.get(t.LENGTH, 0), page.get(t.WIDTH, 0)
    height, width = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    channels = 4 if alpha is not None else 1 if color == _GRAY else 3
    header = header_of(height, width, channels, deep=bits == 16)
    return Layout(header, page, color, bits, photometric == 0, alpha, orientation)


_SAVE = "save the image as gray, RGB or RGBA of 8 or 16 bits"


def _bits(path: Path, page: t.Page) -> int:
    """Return the bits per sample.

    Raise ImageError unless all samples are unsigned integers of 1, 2, 4, 8 or 16 bits.
    """
    kinds = set(page.values.get(t.FORMAT, (1,)))
    sizes = set(page.values.get(t.BITS, (1,)))
    if kinds != {1}:
        kind = _FORMATS.get(max(kinds), "undefined ")
        raise ImageError(f"{path}: contains {kind}{max(sizes)} pixels; 8 and 16 bit are supported")
    if len(sizes) > 1:
        text = ", ".join(map(str, page.values[t.BITS]))
        raise ImageError(f"{path}: contains samples of unequal size ({text} bits), which cannot be decoded; {_SAVE}")
    (bits,) = sizes
    if bits not in (1, 2, 4, 8, 16):
        raise ImageError(f"{path}: contains uint{bits} pixels; 8 and 16 bit are supported")
    return bits


def _alpha(path: Path, page: t.Page, color: str, bits: int) -> int | None:
    """Return the kind of the alpha channel: premultiplied (1), straight (2), or None without alpha.

    Raise ImageError for samples per pixel whose meaning is not known.
    """
    plain = {_GRAY: 1, _PALETTE: 1, _CMYK: 4}.get(color, 3)
    extra = page.get(t.SAMPLES, plain if color == "YCbCr" else 1) - plain
    kinds = page.values.get(t.EXTRA, (_STRAIGHT,) if (color, extra) == ("RGB", 1) else ())
    if extra < 0 or len(kinds) != extra:
        raise ImageError(
            f"{path}: has {page.get(t.SAMPLES, 1)} samples per pixel; {color} needs {plain}, or {plain + 1} with alpha"
        )
    if not kinds:
        return None
    allowed = {_GRAY: 1 if bits == 8 else 0, "RGB": {8: 3, 16: 1}.get(bits, 0), _PALETTE: 1 if bits == 8 else 0}
    known = {_GRAY: (0, 1, 2), "RGB": (0, 1, 2), _PALETTE: (0, 2)}.get(color, ())
    if extra > allowed.get(color, 0) or kinds[0] not in known or any(kinds[1:]):
        listed = ", ".join({0: "unspecified", 1: "premultiplied alpha", 2: "alpha"}.get(k, str(k)) for k in kinds)
        raise ImageError(
            f"{path}: {bits}-bit {color} with more samples per pixel ({listed}) cannot be decoded; {_SAVE}"
        )
    return kinds[0] or None


def _check_kind(path: Path, page: t.Page, color: str, bits: int) -> None:
    """Raise ImageError for combinations of colors, bits and tags that Pillow and OpenCV decode wrongly or not at all."""
    planes = page.get(t.PLANAR, 1) == 2 and page.get(t.SAMPLES, 1) > 1
    if planes and bits == 16:  # OpenCV decodes it wrongly without an error
        raise ImageError(
            f"{path}: a 16-bit TIFF with separate color planes cannot be decoded; save it with interleaved channels"
        )
    if planes and page.get(t.EXTRA, 0):
        raise ImageError(
            f"{path}: a TIFF with separate color planes and alpha cannot be decoded; save it with interleaved channels"
        )
    if color in (_CMYK, "YCbCr") and bits != 8:
        raise ImageError(f"{path}: contains {bits}-bit {color} colors, which cannot be decoded; {_SAVE}")
    if color == _PALETTE and bits == 16:
        raise ImageError(f"{path}: contains a palette of 16 bits, which cannot be decoded; {_SAVE}")
    if color == "RGB" and bits < 8:
        raise ImageError(f"{path}: contains RGB of {bits} bits per sample, which cannot be decoded; {_SAVE}")
    if page.get(t.INK_SET, 1) != 1:
        raise ImageError(f"{path}: contains other inks than CMYK, which cannot be decoded; {_SAVE}")
    if page.get(t.FILL_ORDER, 1) != 1 and (page.get(t.SAMPLES, 1) > 1 or bits == 16):
        raise ImageError(f"{path}: bytes with bits in reverse order (FillOrder 2) cannot be decoded; {_SAVE}")


def _check_strips(path: Path, page: t.Page) -> None:
    """Raise ImageError if strips or tiles of the image are missing. Decoders would leave the missing parts black."""
    width, height = page.get(t.WIDTH, 0), page.get(t.LENGTH, 0)
    planes = page.get(t.SAMPLES, 1) if page.get(t.PLANAR, 1) == 2 else 1
    if t.TILES in page.counts:
        across, down = page.get(t.TILE_WIDTH, 0), page.get(t.TILE_LENGTH, 0)
        if min(across, down) < 1:
            raise ImageError(f"{path}: the image header gives an invalid size of tiles ({across}x{down} pixels)")
        needed, found = -(-width // across) * -(-height // down) * planes, page.counts[t.TILES]
    else:
        rows = min(page.get(t.ROWS_PER_STRIP, height), height) or height
        needed, found = (-(-height // rows) * planes if rows else 0), page.counts.get(t.STRIPS, 0)
    if found < needed:
        raise ImageError(f"{path}: corrupt or truncated image (it has {found} of {needed} strips or tiles)")


def decode_tiff(path: Path, data: bytes, layout: Layout) -> Image:
    """Decode a TIFF to [H, W, C]. The orientation tag is applied, and an alpha channel becomes straight alpha."""
    if layout.orientation != 1:  # decoders differ in whether they apply it: none does where the tag says 1
        data = _replaced(data, layout.page, t.ORIENTATION)
    if layout.bits == 16 and layout.color != _GRAY:
        height, width = _stored_size(layout)
        stored = header_of(height, width, layout.header.channels, deep=True)
        pixels = decode_cv2(path, data, stored)[..., : layout.header.channels]
        pixels = straight(pixels) if layout.alpha == _ASSOCIATED else np.ascontiguousarray(pixels)
    else:
        try:
            pixels = _decode_pillow(data, layout)
        except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error, MemoryError) as error:
            raise ImageError(f"{path}: corrupt or truncated image: {reason_of(error)}") from None
    if pixels.shape != (*_stored_size(layout), layout.header.channels):
        raise ImageError(f"{path}: corrupt or truncated image (decoded to {pixels.shape}, unlike its tags)")
    return turn(pixels, layout.orientation)


def _replaced(data: bytes, page: t.Page, tag: int) -> bytes:
    """Return a copy of the TIFF's bytes in which the value of one tag, a 16-bit number, is replaced by 1."""
    place = page.places[tag]
    return data[:place] + struct.pack(t.byte_order(data) + "H", 1) + data[place + 2 :]


def _decode_pillow(data: bytes, layout: Layout) -> Image:
    inverted = layout.bits == 16 and layout.inverted  # Pillow inverts 8 bits only
    if inverted and t.PHOTOMETRIC in layout.page.places:
        data = _replaced(data, layout.page, t.PHOTOMETRIC)
    image = open_pillow(data, ["TIFF"])
    if layout.bits == 16:
        pixels = np.asarray(image).astype(np.uint16)
        pixels = np.invert(pixels) if inverted else pixels
    else:
        image = image.convert("LA") if image.mode == "La" else image
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[layout.header.channels]
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _stored_size(layout: Layout) -> tuple[int, int]:
    return layout.page.get(t.LENGTH, 0), layout.page.get(t.WIDTH, 0)


def straight(pixels: Image) -> Image:
    """Convert premultiplied to straight alpha as Pillow does: divide the colors by alpha and round down.

    Colors are limited to the largest value of the type; where alpha is 0, they become 0.
    """
    top = int(np.iinfo(pixels.dtype).max)
    colors, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    colors = np.where(alpha == 0, 0, np.minimum(colors * top // np.maximum(alpha, 1), top))
    return np.concatenate([colors.astype(pixels.dtype), pixels[..., 3:]], axis=2)


@cache
def _lacks_codec(decoder: str, compression: int, bits: int) -> bool:
    """Return True if the installed Pillow or OpenCV cannot read a compression of TIFF files.

    It cannot if it fails to write a small test image with this compression.
    """
    if decoder == "OpenCV":
        try:
            options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
            return not cv2.imencode(".tiff", np.zeros((8, 8, 3), np.uint16), options)[0]
        except cv2.error:
            return True
    name = cast("Any", PIL.TiffImagePlugin).COMPRESSION_INFO.get(compression)
    fax = compression in (2, 3, 4)
    if name is None or (fax and bits != 1):
        return True
    try:
        PIL.Image.new("1" if fax else "RGB", (8, 8)).save(io.BytesIO(), "TIFF", compression=name)
    except (OSError, ValueError, KeyError):
        return True
    return False
