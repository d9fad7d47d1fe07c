"""The store: raw pixels of many images in one LMDB, so that a training patch is a view into the memory map.

Records of ``NAME.lmdb/data.mdb``:

- ``p/S/KEY``  pixels, [H, W, C] in C order, in the image's own dtype; S is 1 for the images as given, else the scale of
  their bicubic LR
- ``m/S/KEY``  where they came from and how to check them (``Record``)
- ``store``    JSON, written last: what the store holds and how it was made

A store under construction is ``NAME.lmdb.partial``; it is renamed when complete, so a ``NAME.lmdb`` is always whole.
Readers open it read-only and without locks, once per process.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]

FORMAT = "sr-train store"
VERSION = 1
SUMMARY = b"store"
MAX_KEY = 480  # bytes; LMDB's keys end at 511
_RECORD = struct.Struct("<IIBBxxIQQI")
_DTYPES = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


class StoreError(ValueError):
    """A store that is missing, unfinished, damaged or of another version."""


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
        """uint8 or uint16."""
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


_open: dict[tuple[int, str], lmdb.Environment] = {}


def _environment(path: Path) -> lmdb.Environment:
    """The process's one environment of a store: LMDB forbids opening a file twice in a process, and sharing over a fork."""
    name = (os.getpid(), os.path.realpath(path))
    if name not in _open:
        # readahead: a crop is fetched as one row band; without it each page of a cold band is a disk access of its own.
        _open[name] = lmdb.open(
            str(path), readonly=True, lock=False, readahead=True, max_readers=1, create=False, subdir=True
        )
    return _open[name]


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
            raise StoreError(
                f"{self.path}: there is no such store; make it with sr-prepare images=DIR store={self.path}"
            )
        self._process = -1
        self._transaction: lmdb.Transaction | None = None
        with self._begin() as transaction:
            self.summary = self._read_summary(transaction)
            self.records: dict[int, dict[str, Record]] = {}
            for scale, key, record in walk_records(transaction):
                self.records.setdefault(scale, {})[key] = record
        for scale, count in self.summary["counts"].items():
            if len(self.records.get(int(scale), {})) != count:
                raise StoreError(
                    f"{self.path}: damaged: {len(self.records.get(int(scale), {}))} records of scale {scale}, "
                    f"its summary says {count}; delete it and run sr-prepare again"
                )

    def _begin(self) -> lmdb.Transaction:
        try:
            return _environment(self.path).begin(buffers=True)
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"{self.path}: cannot be opened ({error}): not a store, truncated or unreadable; "
                "delete it and run sr-prepare again"
            ) from None

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
        return summary

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_transaction": None}

    @property
    def scales(self) -> list[int]:
        """Scales held: 1 for the images as given, then those of their LR."""
        return sorted(self.records)

    def keys(self, scale: int = 1) -> list[str]:
        """Names of the images, sorted."""
        if scale not in self.records:
            raise StoreError(f"{self.path}: holds no images of scale {scale}, only of {self.scales}")
        return sorted(self.records[scale])

    def _pixels(self, scale: int, key: str) -> tuple[Record, memoryview]:
        record = self.records[scale][key]
        if self._transaction is None or self._process != os.getpid():
            self._transaction, self._process = self._begin(), os.getpid()
        data = self._transaction.get(pixel_name(scale, key))
        if data is None or len(data) != record.nbytes:
            found = "no pixels" if data is None else f"{len(data)} bytes"
            raise StoreError(f"{self.path}: image {key!r} (scale {scale}) has {found}, expected {record.nbytes} bytes")
        return record, memoryview(data)

    def view(self, scale: int, key: str) -> Image:
        """The whole image [H, W, C], a read-only view into the memory map."""
        record, data = self._pixels(scale, key)
        return np.frombuffer(data, record.dtype).reshape(record.shape)

    def crop(self, scale: int, key: str, top: int, left: int, height: int, width: int) -> Image:
        """A window [height, width, C], fetched as one row band (one run of the disk, not one access a row)."""
        band = self.view(scale, key)[top : top + height].copy()
        return band[:, left : left + width]

    def verify(self, scale: int, key: str) -> str | None:
        """Read an image and compare its checksum: what is wrong with it, or None."""
        try:
            record, data = self._pixels(scale, key)
        except StoreError as error:
            return str(error)
        if zlib.crc32(data) != record.crc:
            return f"{self.path}: image {key!r} (scale {scale}): checksum differs, the pixels are damaged"
        return None
