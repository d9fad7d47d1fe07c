"""The store: raw pixels of many images in one LMDB, so that a training patch is a view into the memory map.

Records of ``NAME.lmdb/data.mdb``:

- ``p/S/KEY``  pixels, [H, W, C] in C order, in the image's own dtype; S is 1 for the images as given, else the scale of
  their bicubic LR; padded to a page, so that LMDB gives them pages of their own
- ``m/S/KEY``  where they came from and how to check them (``Record``)
- ``mark``     a page of known bytes
- ``store``    JSON, written last: what the store holds and how it was made

``NAME.lmdb/offsets`` says where in that file the mark and each image's pixels stand, in the order of the records; its last
number is a checksum of these and of the records (stores made before there was one go without).

A store under construction is ``NAME.lmdb.partial``; it is renamed when complete, so a ``NAME.lmdb`` is always whole.

A reader opens the LMDB once, read-only and without locks, to learn the index, and closes it again: LMDB reads a whole
value ahead whenever it is asked for one, which costs 8 MB of disk for a crop of a 2K image. Pixels are then read from a
memory map of the same file at the recorded offsets, a crop as one row band.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

from sr_train.data.pages import damage

Image = NDArray[Any]

FORMAT = "sr-train store"
VERSION = 1
SUMMARY = b"store"
OFFSETS = "offsets"
MARK = b"mark"
MAX_KEY = 480  # bytes; LMDB's keys end at 511
_RECORD = struct.Struct("<IIBBxxIQQI")
_DTYPES = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.float32)}


class StoreError(ValueError):
    """A store that is missing, unfinished, damaged or of another version."""


class MissingStoreError(StoreError):
    """There is no store at this path.

    Args:
        path: of the store.
        made_of: ``images`` or ``clips``: the key of ``sr-prepare`` that makes one.
    """

    def __init__(self, path: Path, made_of: str = "images") -> None:
        self.path = path
        super().__init__(f"{path}: there is no such store; make it with sr-prepare {made_of}=DIR store={path}")


class Record(NamedTuple):
    """What the store knows of one image."""

    height: int
    width: int
    channels: int
    depth: int  #: bytes per sample
    crc: int  #: CRC-32 of the pixels
    file_size: int  #: of the source file, bytes
    file_mtime: int  #: of the source file, nanoseconds
    file_crc: int  #: CRC-32 of the source file

    def pack(self) -> bytes:
        """The record as stored."""
        return _RECORD.pack(*self)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Record:
        """The inverse of :meth:`pack`; raises StoreError where the bytes are no record."""
        if len(data) != _RECORD.size:
            raise StoreError(f"a record of {len(data)} bytes where {_RECORD.size} are expected")
        return cls(*_RECORD.unpack(data))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or uint16; float32 in [0, 1] in stores that other tools fill."""
        if self.depth not in _DTYPES:
            raise StoreError(f"a record says {self.depth} bytes per sample")
        return _DTYPES[self.depth]

    @property
    def nbytes(self) -> int:
        """Bytes of pixels."""
        return self.height * self.width * self.channels * self.depth


def pixel_name(scale: int, key: str) -> bytes:
    """LMDB key of an image's pixels."""
    return f"p/{scale}/{key}".encode()


def record_name(scale: int, key: str) -> bytes:
    """LMDB key of an image's record."""
    return f"m/{scale}/{key}".encode()


def walk_records(transaction: lmdb.Transaction) -> Iterator[tuple[int, str, Record]]:
    """(scale, key, record) of every image in a store, in key order."""
    cursor = transaction.cursor()
    if not cursor.set_range(b"m/"):
        return
    for name, value in cursor:
        name = bytes(name)
        if not name.startswith(b"m/"):
            return
        scale, _, key = name[2:].decode().partition("/")
        yield int(scale), key, Record.unpack(bytes(value))


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a path is, or by its name is meant to be, a store."""
    path = Path(path)
    return path.suffix == ".lmdb" or (path / "data.mdb").is_file()


def bytes_used(environment: lmdb.Environment) -> int:
    """How long LMDB believes its file to be."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def checksum(entries: Sequence[tuple[int, str, Record]], offsets: bytes) -> int:
    """Of a store's index: a damaged offset would hand out other pixels than the record's, one record those of another."""
    crc = zlib.crc32(offsets)
    for scale, key, record in entries:
        crc = zlib.crc32(record_name(scale, key) + record.pack(), crc)
    return crc


def mark_bytes() -> bytes:
    """What the record ``mark`` holds: a page that occurs by chance nowhere else."""
    return hashlib.shake_256(FORMAT.encode()).digest(mmap.PAGESIZE)


class Store:
    """A complete store, for reading. Picklable; every process opens its own map on first use.

    Args:
        path: the ``NAME.lmdb`` folder.

    Raises:
        StoreError: naming the store and what to do, where it cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "data.mdb").is_file():
            partial = self.path.with_name(self.path.name + ".partial")
            if partial.exists():
                raise StoreError(f"{self.path}: is not finished; run the same sr-prepare command again to complete it")
            if self.path.exists():
                raise StoreError(f"{self.path}: holds no data.mdb; it is not a store that sr-prepare made")
            raise MissingStoreError(self.path)
        self._map: mmap.mmap | None = None
        self._offsets: dict[tuple[int, str], int] = {}
        self._check_tree()
        self.records: dict[int, dict[str, Record]] = {}
        try:
            with (
                lmdb.open(str(self.path), readonly=True, lock=False, create=False) as environment,
                self._begin(environment) as transaction,
            ):
                self.summary = self._read_summary(transaction)
                self._read_index(transaction)
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"{self.path}: cannot be opened as LMDB ({error}): truncated, damaged or unreadable; if it is damaged, "
                "delete it and run sr-prepare again"
            ) from None

    def _check_tree(self) -> None:
        try:
            problem = damage(self._mapped())
        except (OSError, ValueError):  # an empty file cannot be mapped: LMDB says what is wrong
            return
        if problem is not None:
            raise StoreError(
                f"{self.path}: truncated or damaged: {problem}; copy it again, or delete it and run sr-prepare again"
            )

    def _begin(self, environment: lmdb.Environment) -> lmdb.Transaction:
        """A transaction. LMDB does not notice that its file was cut short, and touching what is missing kills (SIGBUS)."""
        size, needed = (self.path / "data.mdb").stat().st_size, bytes_used(environment)
        if size < needed:
            raise StoreError(
                f"{self.path}: truncated: data.mdb has {size} bytes of {needed}; "
                "copy it again, or delete it and run sr-prepare again"
            )
        return environment.begin(buffers=True)

    def _read_index(self, transaction: lmdb.Transaction) -> None:
        """Records and offsets, checked against the summary and against the file."""
        try:
            entries = list(walk_records(transaction))
        except ValueError as error:
            raise StoreError(f"{self.path}: damaged index ({error}); delete it and run sr-prepare again") from None
        for scale, key, record in entries:
            self.records.setdefault(scale, {})[key] = record
        try:
            offsets = np.fromfile(self.path / OFFSETS, "<u8").tolist()
        except FileNotFoundError:
            raise StoreError(f"{self.path}: its file {OFFSETS!r} is missing; copy the whole folder") from None
        counts = {int(s): n for s, n in self.summary["counts"].items()}
        if counts != {s: len(r) for s, r in self.records.items()} or len(offsets) - len(entries) not in (1, 2):
            raise StoreError(
                f"{self.path}: damaged: its index does not fit its summary; delete it and run sr-prepare again"
            )
        sums, offsets = offsets[len(entries) + 1 :], offsets[: len(entries) + 1]
        self._offsets = {(scale, key): at for (scale, key, _), at in zip(entries, offsets[1:], strict=True)}
        size = (self.path / "data.mdb").stat().st_size
        ends = (at + record.nbytes for at, (_, _, record) in zip(offsets[1:], entries, strict=True))
        if max(ends, default=0) > size:
            raise StoreError(
                f"{self.path}: truncated: data.mdb has {size} bytes; copy it again, or delete it and run sr-prepare again"
            )
        if sums and sums[0] != checksum(entries, np.array(offsets, "<u8").tobytes()):
            raise StoreError(
                f"{self.path}: damaged: the checksum of its index and of its file {OFFSETS!r} differs; copy it again, or "
                "delete it and run sr-prepare again"
            )
        mark = mark_bytes()[: 1 << 12]  # a page of the machine that wrote it may be smaller than one of ours
        if self._mapped()[offsets[0] : offsets[0] + len(mark)] != mark:
            raise StoreError(f"{self.path}: was rewritten by another LMDB tool; make it anew with sr-prepare")

    def _mapped(self) -> mmap.mmap:
        """The process's map of the file; one inherited over a fork serves as well."""
        if self._map is None:
            with (self.path / "data.mdb").open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):  # we say ourselves what to read ahead
                self._map.madvise(mmap.MADV_RANDOM)
        return self._map

    def _read_summary(self, transaction: lmdb.Transaction) -> dict[str, Any]:
        try:
            raw = transaction.get(SUMMARY)
            summary = None if raw is None else json.loads(bytes(raw))
        except (ValueError, lmdb.Error) as error:
            raise StoreError(f"{self.path}: damaged summary ({error}); delete it and run sr-prepare again") from None
        if not isinstance(summary, dict) or summary.get("format") != FORMAT:
            raise StoreError(
                f"{self.path}: an LMDB, but not a store of sr-train (BasicSR's hold PNG files, ours pixels); "
                "make one from the images with sr-prepare"
            )
        if summary.get("version") != VERSION:
            raise StoreError(
                f"{self.path}: is of version {summary.get('version')}, this sr-train reads version {VERSION}; "
                "make it anew with sr-prepare"
            )
        if not (isinstance(summary.get("counts"), dict) and isinstance(summary.get("scales"), list)):
            raise StoreError(f"{self.path}: damaged summary (no counts); delete it and run sr-prepare again")
        return summary

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    @property
    def scales(self) -> list[int]:
        """Scales held: 1 for the images as given, then those of their LR."""
        return sorted(self.records)

    def keys(self, scale: int = 1) -> list[str]:
        """Names of the images, sorted."""
        if scale not in self.records:
            raise StoreError(f"{self.path}: holds no images of scale {scale}, only of {self.scales}")
        return sorted(self.records[scale])

    def view(self, scale: int, key: str) -> Image:
        """The whole image [H, W, C], a read-only view into the memory map."""
        record = self.records[scale][key]
        size = record.height * record.width * record.channels
        return np.frombuffer(self._mapped(), record.dtype, size, self._offsets[scale, key]).reshape(record.shape)

    def _read_ahead(self, scale: int, key: str, first: int, last: int) -> None:
        """Ask for bytes [first, last) of an image at once, instead of page by page as they are touched."""
        if hasattr(mmap, "MADV_WILLNEED"):
            start = self._offsets[scale, key] + first
            aligned = start - start % mmap.PAGESIZE
            self._mapped().madvise(mmap.MADV_WILLNEED, aligned, start - aligned + last - first)

    def read(self, scale: int, key: str) -> Image:
        """The whole image [H, W, C], fetched as one run of the disk, its checksum compared. Raises StoreError."""
        self._read_ahead(scale, key, 0, self.records[scale][key].nbytes)
        image = self.view(scale, key)
        if zlib.crc32(image.data) != self.records[scale][key].crc:
            raise StoreError(f"{self.path}: image {key!r} (scale {scale}): checksum differs, the pixels are damaged")
        return image

    def crop(self, scale: int, key: str, top: int, left: int, height: int, width: int) -> Image:
        """A window [height, width, C], a read-only view; its row band is fetched as one run of the disk."""
        row = self.records[scale][key].nbytes // self.records[scale][key].height
        self._read_ahead(scale, key, top * row, (top + height) * row)
        return self.view(scale, key)[top : top + height, left : left + width]

    def verify(self, scale: int, key: str) -> str | None:
        """Read an image and compare its checksum: what is wrong with it, or None."""
        try:
            self.read(scale, key)
        except StoreError as error:
            return str(error)
        return None
