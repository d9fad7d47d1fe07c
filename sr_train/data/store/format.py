"""Format of the LMDB store: keys, records and versions."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUMMARY = b"store"

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
    """A store's entry for one image: its shape, sample size and checksums, and those of its source file."""

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
    def unpack(cls, raw: bytes) -> Iterator[Record]:
        """Records one after another, the inverse of :meth:`pack`. Raises ValueError."""
        if len(raw) % _RECORD.size:
            raise ValueError(f"records of {len(raw)} bytes, not a multiple of {_RECORD.size}")
        return map(cls._make, _RECORD.iter_unpack(raw))

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
        return self.height * self.width * self.channels * self.dtype.itemsize


FORMAT = "sr-train store"

VERSION = 2

INDEX = "index"

OFFSETS = "offsets"  # of version 1

MAX_KEY = 480  # bytes; LMDB's keys end at 511


def pixel_name(scale: int, key: str) -> bytes:
    """LMDB key of an image's pixels."""
    return f"p/{scale}/{key}".encode()


def record_name(scale: int, key: str) -> bytes:
    """LMDB key of an image's record."""
    return f"m/{scale}/{key}".encode()


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a path is, or by its name is meant to be, a store."""
    path = Path(path)
    return path.suffix == ".lmdb" or (path / "data.mdb").is_file()
