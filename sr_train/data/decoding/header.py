"""Header of an image, errors for files that cannot be used, and the limit of an image's size, for all decoders."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from sr_train.console import UsageError
from sr_train.devices import free_memory

_COPIES = 2.5  # memory of decoding / size of the pixels: the decoder's buffer and the array

_SMALL = 256 << 20  # bytes that are decoded without a look at the free memory

warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file

_limit: dict[str, int] = {}  # "pixels": the value of max_pixels=, if one is set


class ImageError(ValueError):
    """Image file that cannot be used; the message gives the reason."""


class Header(NamedTuple):
    """Size, channels and type of an image, read without decoding pixels."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]


def header_of(height: int, width: int, channels: int, *, deep: bool) -> Header:
    """Return a header with the pixel type uint16 if ``deep`` is true, else uint8."""
    return Header(height, width, channels, np.dtype(np.uint16 if deep else np.uint8))


def reason_of(error: BaseException) -> str:
    """Return the first line of a decoder's error, for the end of a message."""
    return str(error).split("\n")[0].replace("<_io.BytesIO object at", "<data at")[:200] or type(error).__name__


def open_pillow(data: bytes, formats: list[str]) -> PIL.Image.Image:
    """Parse the header of an image with Pillow."""
    return PIL.Image.open(io.BytesIO(data), formats=formats)


def limit_pixels(count: int | None) -> None:
    """From now on, refuse images of more than ``count`` pixels in this process.

    With None, only the free memory limits the size of images.
    """
    value: Any = count  # from a config
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"max_pixels={count!r}: expected an integer of at least 1, or null for the free memory alone")
    _limit.clear()
    if count is not None:
        _limit["pixels"] = count


def check_size(path: Path, header: Header) -> Header:
    """Return the header.

    Raise ImageError for an image without pixels, or an image too large for ``max_pixels=`` or memory.
    """
    pixels = header.height * header.width
    size = f"{header.width}x{header.height} pixels"
    if min(header.height, header.width) < 1:
        raise ImageError(f"{path}: the image header gives a size without pixels ({size})")
    if pixels > _limit.get("pixels", pixels):
        raise ImageError(
            f"{path}: refused before it is decoded: it has {size} ({pixels}), more than max_pixels={_limit['pixels']}"
        )
    needed = int(pixels * header.channels * header.dtype.itemsize * _COPIES)
    if needed > _SMALL and needed > (free := free_memory(torch.device("cpu"))):
        raise ImageError(
            f"{path}: refused before it is decoded: {size} need about {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free"
        )
    return header


def refuse_animation(path: Path, kind: str, count: int, parts: str = "frames") -> None:
    """Raise ImageError for a file of several images, of which only the first would be used."""
    if count > 1:
        raise ImageError(
            f"{path}: {kind} of {count} {parts}; a file must contain one image: save the {parts} as files of their own"
        )
