"""LMDBs of BasicSR and MMagic: a folder with ``data.mdb``, whose values are PNG files, and ``meta_info.txt``.

A line of ``meta_info.txt`` is ``KEY.png (height,width,channels) LEVEL``. The line gives the size of an image, so no
image is decoded when an LMDB is opened. Keys of BasicSR are ``0001_s001`` for images, ``000/00000000`` for REDS and
``00001/0001/im1`` for Vimeo-90K. Keys of MMagic (``000_00000000``, ``00001_0001_1``) and keys such as
``X4/000/00000000`` are renamed to keys of BasicSR.

Positions of the values are read from LMDB's pages, without the LMDB library. Therefore no lock file is written, a
damaged file kills no process, and forked and spawned processes may use the same object (see
:mod:`sr_train.data.store.index_file`).
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sr_train.batch import Image
from sr_train.console import counted, warn
from sr_train.data.images import BadFilesError, Header, ImageError, decode_image
from sr_train.data.store.format import INDEX, OFFSETS, StoreError
from sr_train.data.store.index_file import read_tree
from sr_train.files import Reader

META = "meta_info.txt"

_LINE = re.compile(r"(?P<key>.+?)(?:\.\w+)?\s+\((?P<h>\d+),\s*(?P<w>\d+),\s*(?P<c>\d+)\)(?:\s+\S+)*")

_RENAMED = (  # if all keys have a form: MMagic's REDS and Vimeo-90K; REDS' LR made from the folder above X4
    (re.compile(r"(\d{3})_(\d{8})"), r"\1/\2"),
    (re.compile(r"(\d{5})_(\d{4})_(\d)"), r"\1/\2/im\3"),
    (re.compile(r"X\d+/(.+)"), r"\1"),
)

_LARGEST = 1 << 20  # side of an image in pixels

_PNG = struct.Struct(">8s8xII2B")  # signature; width, height, bits per sample, type of color

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Status(NamedTuple):
    """Size of a value in bytes, and modification time of its file, under the names of ``os.stat_result``."""

    st_size: int
    st_mtime_ns: int


class Entry:
    """One image of an LMDB of BasicSR. It has the methods of a file path that ``sr-prepare`` needs."""

    def __init__(self, lmdb: PngLmdb, key: str) -> None:
        self.lmdb = lmdb
        self.key = key

    def __fspath__(self) -> str:
        return str(self.lmdb.path / self.key)

    __str__ = __fspath__

    def read_bytes(self) -> bytes:
        """Return the image file."""
        return self.lmdb.read_bytes(self.key)

    def stat(self) -> Status:
        """Return the size of the image file, and the modification time of the LMDB."""
        return Status(self.lmdb.size(self.key), (self.lmdb.path / "data.mdb").stat().st_mtime_ns)

    def header(self) -> Header:
        """Return size, channels and type of the image without decoding it. Raises ImageError that names LMDB and key."""
        shape, depth = self.lmdb.shapes[self.key], self.lmdb.check(self.key, self.lmdb.read_bytes(self.key, _PNG.size))
        return Header(*shape, np.dtype(np.uint16 if depth == 16 else np.uint8))


def is_basicsr(path: str | os.PathLike[str]) -> bool:
    """Return True if a folder is an LMDB of BasicSR: it contains ``meta_info.txt``, and it is no store of sr-train."""
    path = Path(path)
    own = (path / INDEX).exists() or (path / OFFSETS).exists()
    return path.suffix == ".lmdb" and (path / META).is_file() and not own


def list_entries(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Return {key: image} for every image of an LMDB of BasicSR, sorted by key."""
    lmdb = PngLmdb(path)
    return {key: Entry(lmdb, key) for key in lmdb.shapes}


def _renamed(keys: list[str]) -> dict[str, str]:
    """Return {key in the LMDB: name of the image}. A name is the key itself, or the key in the form of BasicSR.

    If all keys have one of the forms ``000_00000000``, ``00001_0001_1`` (MMagic) or ``X4/NAME``, they are renamed to
    ``000/00000000``, ``00001/0001/im1`` and ``NAME``.
    """
    for form, name in _RENAMED:
        if all(form.fullmatch(key) for key in keys):
            return {key: form.sub(name, key) for key in keys}
    return {key: key for key in keys}


class PngLmdb:
    """LMDB of image files (BasicSR), opened for reading. It can be pickled; every process opens its own file handle.

    Args:
        path: the ``NAME.lmdb`` folder.

    Raises:
        StoreError: a file is missing or damaged; the message names it.
        BadFilesError: lists wrong lines of ``meta_info.txt``, or keys in ``meta_info.txt`` that are not in
            ``data.mdb``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        stated, spans = self._read_meta(), self._read_spans()
        missing = [f"{key}: is not in data.mdb" for key in stated if key not in spans]
        if missing:
            count = f"{len(missing)} of {counted(len(stated), 'image')}"
            raise BadFilesError(f"{self.path / META}: {count} missing; the files belong to different LMDBs", missing)
        names = _renamed(list(stated))
        self.shapes = {names[key]: shape for key, shape in stated.items()}  #: key -> (height, width, channels), sorted
        self._spans = {names[key]: spans[key] for key in stated}
        if rest := sorted(spans.keys() - stated.keys()):
            names = ", ".join(rest[:3]) + (", ..." if len(rest) > 3 else "")
            warn(f"{self.path}: {counted(len(rest), 'image')} not listed in {META}, not used: {names}")
        self._reader = Reader(self.path / "data.mdb")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": Reader(self._reader.path)}

    def _read_meta(self) -> dict[str, tuple[int, int, int]]:
        try:
            text = (self.path / META).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise StoreError(f"{self.path / META}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise StoreError(f"{self.path / META}: is not a text file") from None
        shapes: dict[str, tuple[int, int, int]] = {}
        problems: list[str] = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.strip())
            sizes = tuple(int(match[name][:9]) for name in "hwc") if match else (0, 0, 0)
            if match is None:
                problems.append(f"line {number}: {line[:80]!r}; expected KEY.png (height,width,channels) LEVEL")
            elif not (0 < sizes[0] <= _LARGEST and 0 < sizes[1] <= _LARGEST and sizes[2] in (1, 3, 4)):
                problems.append(
                    f"line {number}: {match['key']}: impossible size {line[match.end('key') :][:80].strip()}"
                )
            elif match["key"] in shapes:
                problems.append(f"line {number}: {match['key']} is listed twice")
            else:
                shapes[match["key"]] = (sizes[0], sizes[1], sizes[2])
        if problems or not shapes:
            raise BadFilesError(f"{self.path / META}: cannot be used", problems or ["it lists no images"])
        return dict(sorted(shapes.items()))

    def _read_spans(self) -> dict[str, tuple[int, int]]:
        """Return {key: (position, length)} for every value in ``data.mdb``, in bytes."""
        file = self.path / "data.mdb"
        try:
            with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                spans = read_tree(data)[1]
        except FileNotFoundError:
            raise StoreError(f"{file}: there is no such file; copy it again, next to {META}") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: truncated or damaged ({error}); copy it again") from None
        return {key.decode("utf-8", "backslashreplace"): span for key, span in spans.items()}

    def size(self, key: str) -> int:
        """Return the size of an image file in bytes."""
        return self._spans[key][1]

    def read_bytes(self, key: str, count: int | None = None) -> bytes:
        """Return an image file, or its first ``count`` bytes. Raises ImageError that names LMDB and key."""
        at, length = self._spans[key]
        try:
            return self._reader.read(at, length if count is None else min(length, count))
        except OSError as error:
            raise ImageError(f"{self.path}: image {key!r}: cannot be read: {error.strerror or error}") from None

    def check(self, key: str, data: bytes) -> int:
        """Return the bits per sample of the PNG file in ``data``.

        Raise ImageError if ``data`` is not a PNG file, or if its image does not have the size in ``meta_info.txt``.
        """
        if len(data) < _PNG.size or not data.startswith(_SIGNATURE):
            raise ImageError(f"{self.path}: image {key!r}: its value is not a PNG file (it begins with {data[:8]!r})")
        _, width, height, depth, _ = _PNG.unpack_from(data)
        stated = self.shapes[key]
        if (height, width) != stated[:2]:
            raise ImageError(
                f"{self.path}: image {key!r}: the PNG is {width}x{height}, but {META} gives {stated[1]}x{stated[0]}"
            )
        return depth

    def read(self, key: str) -> Image:
        """Decode an image to [H, W, C] uint8 or uint16, RGB order. Raises ImageError that names LMDB and key."""
        data = self.read_bytes(key)
        self.check(key, data)
        return decode_image(data, self.path / key)
