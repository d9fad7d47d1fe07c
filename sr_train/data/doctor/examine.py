"""Decode one image and describe it."""

from __future__ import annotations

import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sr_train.batch import Image
from sr_train.data.decoding.formats import orientation_of
from sr_train.data.doctor.file_damage import damage_of, disguise_of, missing_rows
from sr_train.data.doctor.findings import Finding, finding
from sr_train.data.doctor.jpeg_warnings import JpegWarnings, is_damage
from sr_train.data.doctor.likeness import fingerprint
from sr_train.data.images import ImageError, decode_image
from sr_train.data.sources import InputFile, Source
from sr_train.data.store.basicsr import Entry
from sr_train.data.store.format import StoreError

_LEAST_BAND = 16  # rows


@dataclass(frozen=True)
class Item:
    """One image: a file, an image of an LMDB of BasicSR, or an image of another source."""

    key: str
    name: str  #: for messages, unique
    file: InputFile | None = None
    source: Source | None = None
    index: int = 0  #: in the source

    @property
    def path(self) -> Path:
        """Path for messages of the decoder."""
        return Path(self.name)

    def data(self) -> bytes | None:
        """Return the bytes of the file, None without a file. Raises ImageError if they cannot be read."""
        if self.file is None:
            return None
        try:
            if isinstance(self.file, Path) and not stat.S_ISREG(self.file.stat().st_mode):
                raise ImageError(f"{self.name}: is not a regular file")
            return self.file.read_bytes()
        except FileNotFoundError:
            what = "a link to a file that does not exist" if self.path.is_symlink() else "there is no such file"
            raise ImageError(f"{self.name}: {what}") from None
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read: {error.strerror or error}") from None

    def bytes(self) -> int:
        """Return the size in bytes that is read, 0 if unknown."""
        if self.source is not None:
            height, width, channels = self.source.shape(self.index)
            return height * width * channels
        try:
            return 0 if self.file is None else self.file.stat().st_size
        except OSError:
            return 0

    def read(self) -> Image:
        """Decode the image again. Raises ImageError or StoreError."""
        data = self.data()
        if data is not None:
            return decode_image(data, self.path)
        assert self.source is not None
        return self.source.read(self.index)


class Facts(NamedTuple):
    """Description of a decoded image."""

    height: int
    width: int
    channels: int
    dtype: str
    orientation: int  #: of EXIF, 1 is upright
    checksum: int  #: of the pixels
    fingerprint: int

    @property
    def size(self) -> str:
        """Size for messages."""
        return f"{self.width}x{self.height}"


class Examined(NamedTuple):
    """Result for one image."""

    facts: Facts | None  #: None if it cannot be decoded
    pixels: Image | None
    findings: list[Finding]


def examine(item: Item, warnings: JpegWarnings, *, low: bool = False) -> Examined:
    """Read and decode an image, and look for damage. LR (``low``) needs no search for bands, because HR has the same."""
    try:
        data = item.data()
        if data is not None and (disguise := disguise_of(data)):
            return Examined(None, None, [finding("unreadable", item.name, disguise)])
        if data is not None and (damage := damage_of(data)):
            return Examined(None, None, [finding("damaged", item.name, damage)])
        pixels, found = _decoded(item, data, warnings)
    except (ImageError, StoreError, OSError, MemoryError) as error:
        return Examined(None, None, [_refusal(item, error)])
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return Examined(None, None, [finding("damaged", item.name, "contains values that are not finite (NaN)")])
    orientation = 1 if data is None or not _may_have_exif(data) else orientation_of(item.path, data)
    height, width, channels = pixels.shape
    checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
    facts = Facts(height, width, channels, str(pixels.dtype), orientation, checksum, fingerprint(pixels))
    return Examined(facts, pixels, [*found, *_uniform(item, pixels, bands=not low)])


def _may_have_exif(data: bytes) -> bool:
    """Return False for a PNG without EXIF. Pillow would decode its pixels before it says so."""
    return not data.startswith(b"\x89PNG") or b"eXIf" in data or b"Raw profile type exif" in data


def _refusal(item: Item, error: Exception) -> Finding:
    text = str(error) or type(error).__name__
    damaged = isinstance(error, StoreError) or "corrupt or truncated" in text or "cannot be read: unpack" in text
    return finding("damaged" if damaged else "unreadable", item.name, text)


def _decoded(item: Item, data: bytes | None, warnings: JpegWarnings) -> tuple[Image, list[Finding]]:
    """Decode an image. Raises ImageError for pixels that a decoder has made up."""
    if data is None:
        return item.read(), []
    try:
        if isinstance(item.file, Entry):
            item.file.lmdb.check(item.file.key, data)
        pixels = decode_image(data, item.path)
    except ImageError:
        if rows := missing_rows(data):
            raise ImageError(f"{item.name}: {rows} (corrupt or truncated image)") from None
        raise
    warning = warnings.of(data) if data.startswith(b"\xff\xd8") else ""
    if is_damage(warning):
        raise ImageError(f"{item.name}: corrupt or truncated image, whose rest is filled with one color: {warning}")
    return pixels, [finding("decoder", item.name, warning)] if warning else []


def _uniform(item: Item, pixels: Image, *, bands: bool) -> list[Finding]:
    """Return a finding for an image, or a band at its top or bottom, of one color."""
    first, last = _rows_of_one_color(pixels), _rows_of_one_color(pixels[::-1])
    height = pixels.shape[0]
    color = ", ".join(map(str, pixels[0 if first else -1, 0]))
    if first == height:
        name = "black, " if not pixels.any() else ""
        return [finding("constant", item.name, f"all pixels are {name}({color})")]
    least = max(_LEAST_BAND, height // 8)
    if bands and max(first, last) >= least > min(first, last):  # bars at both ends belong to many videos
        where = "upper" if first > last else "lower"
        return [finding("band", item.name, f"the {where} {max(first, last)} of {height} rows are ({color})")]
    return []


def _rows_of_one_color(pixels: Image) -> int:
    """Return the number of rows at the top that have the color of the first pixel."""
    color, rows = pixels[0, 0], 0
    while rows < len(pixels):  # in growing steps: most images end at once
        step = pixels[rows : rows * 2 + 1]
        equal = (step == color).all(axis=(1, 2))
        if not equal.all():
            return rows + int(np.argmin(equal))
        rows += len(step)
    return rows
