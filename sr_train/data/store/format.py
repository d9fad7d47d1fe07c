"""File format of a store (LMDB of sr-train): keys, records and version."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_train.console import for_shell
from sr_train.data.known.hints import known_command
from sr_train.data.packed.paths import split_archive, without_ending

SUMMARY = b"store"

_RECORD = struct.Struct("<IIBBxxIQQI")

_DTYPES = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.float32)}


class StoreError(ValueError):
    """Store that is missing, unfinished, damaged or of another version."""


class MissingStoreError(StoreError):
    """No store exists at this path, or it is an archive, which must be made a store first.

    Args:
        path: path of the store or of the archive.
        made_of: ``images`` or ``clips``, the key of ``sr-prepare`` to use for making the store.
        scales: scales of the LR images that the store must contain.
        arithmetic: name of the rounding rules of these LR images.
    """

    def __init__(
        self, path: Path, made_of: str = "images", scales: Sequence[int] = (), arithmetic: str = "float"
    ) -> None:
        self.path = path
        self.made_of = made_of
        self.scales = list(scales)
        self.arithmetic = arithmetic
        lr = f" scales=[{','.join(map(str, scales))}]" if scales else ""
        lr += f" arithmetic={arithmetic}" if scales and arithmetic != "float" else ""
        split = split_archive(path)
        if split is not None:  # archives are inputs of sr-prepare only
            store = without_ending(split[0]).with_name(f"{Path(split[1]).name or without_ending(split[0]).name}.lmdb")
            command = f"sr-prepare {for_shell(f'{made_of}={path}')} {for_shell(f'store={store}')}{lr}"
            super().__init__(f"{path}: training and scores do not read archives; run {command} and give {store}")
            return
        command = known_command(path, scales) or f"sr-prepare {made_of}=DIR {for_shell(f'store={path}')}{lr}"
        super().__init__(f"{path}: there is no such store; make the store with {command}")

    def needing(self, scales: Sequence[int], arithmetic: str) -> MissingStoreError:
        """Return the error of a store that needs LR images of these scales."""
        return MissingStoreError(self.path, self.made_of, scales, arithmetic)

    def of_clips(self) -> MissingStoreError:
        """Return the error of a store of clips."""
        return MissingStoreError(self.path, "clips", self.scales, self.arithmetic)


class Record(NamedTuple):
    """Entry of a store (LMDB of sr-train) for one image.

    An entry contains shape, sample size and checksum of the pixels, and size, modification time and checksum of the
    source file.
    """

    height: int
    width: int
    channels: int
    depth: int  #: bytes per sample
    crc: int  #: CRC-32 of the pixels
    file_size: int  #: size of the source file in bytes
    file_mtime: int  #: modification time of the source file in nanoseconds
    file_crc: int  #: CRC-32 of the source file

    def pack(self) -> bytes:
        """Return the record as bytes, as they are in the store."""
        return _RECORD.pack(*self)

    @classmethod
    def unpack(cls, raw: bytes) -> Iterator[Record]:
        """Read consecutive records from bytes, the inverse of :meth:`pack`.

        Raises ValueError if the last record is cut off.
        """
        if len(raw) % _RECORD.size:
            raise ValueError(f"records of {len(raw)} bytes; expected a multiple of {_RECORD.size} bytes")
        return map(cls._make, _RECORD.iter_unpack(raw))

    @property
    def file(self) -> tuple[int, int, int]:
        """Size, modification time and CRC-32 of the source file."""
        return self.file_size, self.file_mtime, self.file_crc

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample: uint8 or uint16; float32 in [0, 1] in stores that were not written by sr-prepare."""
        if self.depth not in _DTYPES:
            raise StoreError(f"a record contains {self.depth} bytes per sample; expected 1, 2 or 4")
        return _DTYPES[self.depth]

    @property
    def nbytes(self) -> int:
        """Size of the pixels in bytes."""
        return self.height * self.width * self.channels * self.dtype.itemsize


FORMAT = "sr-train store"

VERSION = 2

GIVEN = "given"  # in the summary's "lr": LR of this scale comes from files; else the arithmetic of the reduction

INDEX = "index"

PART = "lr_x"  # start of the names of folders in a store that contain LR added to it later

OFFSETS = "offsets"  # file of version 1

MAX_KEY = 480  # bytes; LMDB allows 511


def pixel_name(scale: int, key: str) -> bytes:
    """Return the LMDB key of an image's pixels."""
    return f"p/{scale}/{key}".encode()


def record_name(scale: int, key: str) -> bytes:
    """Return the LMDB key of an image's record."""
    return f"m/{scale}/{key}".encode()


def part_name(scales: Sequence[int]) -> str:
    """Return the name of the folder in a store that contains LR added to it later."""
    return PART + "_x".join(map(str, scales))


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return True if a path has the suffix .lmdb of a store, or is a folder with a file ``data.mdb``."""
    path = Path(path)
    return path.suffix == ".lmdb" or (path / "data.mdb").is_file()
