"""Decode PNG files with OpenCV, because Pillow reduces 16-bit colors to 8 bits.

Pillow decodes only files with a palette. OpenCV ignores the transparent color of a file (chunk tRNS), so the alpha
channel for this color is computed here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sr_train.batch import Image
from sr_train.data.decoding.header import Header, ImageError, header_of, refuse_animation

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA = 0, 2, 3, 4  # color types; 6 is RGBA

_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2}  # per pixel; RGBA has 4

_MOST = 1032  # deflate makes a byte of at most so many

_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


class Layout(NamedTuple):
    """Content of the chunks before the pixels."""

    header: Header
    palette: bool
    depth: int
    size: int  #: bytes of the pixels before compression, at least
    transparent: tuple[int, ...] | None  #: the transparent gray or RGB value, in the samples of the file
    animated: bool  #: has chunks of an animation, of one frame


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of every chunk of a PNG file.

    ``start`` is the position of the chunk's length field in ``data``. The last chunk may end beyond the end of
    ``data``.
    """
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at, at + 12 + length
        at += 12 + length


def read_layout(path: Path, data: bytes) -> Layout:
    """Read the chunks before the pixels.

    Raises ImageError for an animation, and if the file has no pixels (IDAT chunk).
    """
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    transparent: bytes | None = None
    frames, in_animation = 0, False
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            break
        if kind == b"tRNS":
            transparent = data[start + 8 : end - 4]
        elif kind == b"acTL":
            frames = int.from_bytes(data[start + 8 : start + 12], "big")
        elif kind == b"fcTL":
            in_animation = True
    else:
        raise ImageError(f"{path}: corrupt or truncated image (it has no pixels)")
    images = frames + (frames > 0 and not in_animation)  # the default image may not belong to the animation
    refuse_animation(path, "an animated PNG", images)
    plain = {_GRAY: 1, _RGB: 3, _PALETTE: 3}.get(color, 4)
    key = None
    if transparent is not None and color in (_GRAY, _RGB) and len(transparent) >= 2 * plain:
        key = struct.unpack_from(f">{plain}H", transparent)
    has_alpha = key is not None or (color == _PALETTE and transparent is not None)
    header = header_of(height, width, 4 if has_alpha else plain, deep=depth == 16)
    size = height * -(-width * depth * _SAMPLES.get(color, 4) // 8)
    return Layout(header, color == _PALETTE, depth, size, key, frames > 0)


def check_chunks(path: Path, data: bytes, layout: Layout) -> None:
    """Raise ImageError if the file is truncated, or too short for the number of pixels in its header.

    OpenCV 5 does not check these two points and would allocate up to 4 GB.
    """
    if layout.size > _MOST * len(data):
        size = f"{layout.header.width}x{layout.header.height}"
        raise ImageError(
            f"{path}: corrupt image: {len(data)} bytes cannot contain the {size} pixels that its header announces"
        )
    if not any(kind == b"IEND" and end <= len(data) for kind, _, end in _chunks(data)):
        raise ImageError(f"{path}: corrupt or truncated image (its chunks do not fit {len(data)} bytes)")


def without_animation(data: bytes) -> bytes:
    """Return the bytes of a PNG without the animation's chunks, so that every decoder returns the default image."""
    kept = [data[start:end] for kind, start, end in _chunks(data) if kind not in _ANIMATION]
    return data[:8] + b"".join(kept)


def decode_png(path: Path, data: bytes, layout: Layout) -> Image:
    """Decode a PNG without a palette to [H, W, C], uint8 or uint16, in RGB order."""
    pixels = decode_cv2(path, without_animation(data) if layout.animated else data, layout.header)
    if layout.transparent is None:
        return pixels
    count = len(layout.transparent)
    colors = pixels[..., :count]
    top = np.iinfo(pixels.dtype).max
    key = np.array([k & (2**layout.depth - 1) for k in layout.transparent]) * (top // (2**layout.depth - 1))
    alpha = np.where((colors == key).all(axis=2, keepdims=True), 0, top).astype(pixels.dtype)
    return np.concatenate([colors] * (3 if count == 1 else 1) + [alpha], axis=2)


def decode_cv2(path: Path, data: bytes, header: Header) -> Image:
    """Decode with OpenCV to [H, W, C] in RGB order. Raise ImageError if size or type differ from ``header``."""
    pixels_there = header.height * header.width
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        if pixels_there > 1 << 30 and "PIXELS" in str(error):
            raise ImageError(
                f"{path}: {header.width}x{header.height} pixels are more than OpenCV may decode (2^30); "
                f"set the environment variable OPENCV_IO_MAX_IMAGE_PIXELS={pixels_there}"
            ) from None
        text = str(error).split("\n")[0][:200] or type(error).__name__
        raise ImageError(f"{path}: corrupt or truncated image: {text}") from None
    if pixels is None:
        raise ImageError(f"{path}: corrupt or truncated image ({header.width}x{header.height})")
    if pixels.dtype != header.dtype:
        raise ImageError(f"{path}: contains {pixels.dtype} pixels; 8 and 16 bit are supported")
    if pixels.shape[:2] != (header.height, header.width):
        raise ImageError(
            f"{path}: decoded to {pixels.shape[1]}x{pixels.shape[0]}, but its header gives {header.width}x{header.height}"
        )
    return swap_red_blue(pixels)


def swap_red_blue(pixels: Image) -> Image:
    """Convert BGR(A) to RGB(A) and back; add a channel axis to gray."""
    pixels = np.atleast_3d(pixels)
    if pixels.shape[2] == 1:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
