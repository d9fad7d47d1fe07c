"""Reading a store: an LMDB with raw pixels of many images. A training patch is a view into the memory map of the file.

Keys of ``NAME.lmdb/data.mdb``:

- ``p/S/KEY``  pixels, [H, W, C] in C order, in the image's own dtype; S is 1 for the original images, else the scale of
  their LR images; padded to a page, so that LMDB stores them in separate pages
- ``m/S/KEY``  shape, source file and checksums (``Record``)
- ``store``    JSON, written last: contents of the store, how it was made, and a checksum of the records

``NAME.lmdb/index`` contains the records and the positions of the pixels in ``data.mdb``
(:mod:`sr_train.data.store.index_file`).
LR of scales that were added to a finished store is in folders ``NAME.lmdb/lr_x3`` with the same two files; the summary states
to which store they belong.

Stores of version 1 have a file ``offsets`` instead, with only positions and a checksum.

An unfinished store is ``NAME.lmdb.partial``. The folder is renamed at the end, so a ``NAME.lmdb`` is always finished.

A reader does not use the LMDB library. The reader reads pixels from a memory map of the file, at the positions in the
index. For a crop, only the rows of the crop are read. The LMDB library would read the whole image for each crop: 8 MB
for a 2K image.

On a network file system the pixels are read by ``pread``, which can be repeated if the server does not answer. A memory
map is not used there, because a failed access to a memory map kills the process (SIGBUS).
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from sr_train.batch import Image
from sr_train.data.store.format import (
    FORMAT,
    INDEX,
    OFFSETS,
    PART,
    VERSION,
    MissingStoreError,
    Record,
    StoreError,
    record_name,
)
from sr_train.data.store.index_file import Index
from sr_train.files import Reader, on_network


class Store:
    """Finished store (LMDB of images), opened for reading. It can be pickled; every process opens its own memory map.

    Args:
        path: the ``NAME.lmdb`` folder.

    Raises:
        StoreError: the store cannot be used; the message names the store and the remedy.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "data.mdb").is_file():
            partial = self.path.with_name(self.path.name + ".partial")
            if partial.exists():
                raise StoreError(f"{self.path}: is not finished; run the same sr-prepare command again to finish it")
            if self.path.exists():
                raise StoreError(f"{self.path}: contains no data.mdb, so it is not a store of sr-prepare")
            raise MissingStoreError(self.path)
        self._map: mmap.mmap | None = None
        self._reader = Reader(self.path / "data.mdb") if on_network(self.path) else None
        self._offsets: dict[tuple[int, str], int] = {}
        self.records: dict[int, dict[str, Record]] = {}
        index = self._read_index()
        self.summary = self._read_summary(self._mapped()[index.at : index.at + index.length])
        self._unpack(index)
        self.base = f"{index.checksum:08x}{index.identity:08x}"  #: digest without the scales added later
        self.made = {
            int(s): str(m) for s, m in self._made().items()
        }  #: scale -> ``given``, or arithmetic of its reduction
        self._parts: dict[int, Store] = {}
        for folder in sorted(self.path.glob(f"{PART}*")):
            self._add(Store(folder))
        added = "".join(dict.fromkeys(part.base for part in self._parts.values()))
        self.digest = self.base + (
            f"{zlib.crc32(added.encode()):08x}" if added else ""
        )  #: equal for stores with equal files

    def _made(self) -> dict[str, str]:
        made: Any = self.summary.get("lr")  # stores of earlier versions contain no given LR
        if isinstance(made, dict):
            return cast("dict[str, str]", made)
        return dict.fromkeys(map(str, self.summary["scales"]), str(self.summary["arithmetic"]))

    def _add(self, part: Store) -> None:
        """Add the images of a folder that was added to the store. Raises StoreError if it belongs to another store."""
        if part.summary.get("of") != self.base or any(
            r.keys() != self.records[1].keys() for r in part.records.values()
        ):
            raise StoreError(
                f"{part.path}: belongs to another store, or {self.path} was made again; delete this folder and run sr-prepare "
                f"again with scales=[{','.join(map(str, part.scales))}]"
            )
        for scale, records in part.records.items():
            if scale not in self.records:
                self.records[scale], self._parts[scale] = records, part
                self.made[scale] = part.made[scale]

    @property
    def size(self) -> int:
        """Size of the files with the pixels in bytes."""
        return sum((folder / "data.mdb").stat().st_size for folder in (self.path, *self.parts))

    @property
    def parts(self) -> list[Path]:
        """Folders in the store that contain LR added to it later."""
        return list(dict.fromkeys(part.path for part in self._parts.values()))

    def use(self, copy: Path) -> None:
        """From now on, read the pixels from a copy of this store. The index in memory stays in use.

        The copy must have the same digest as this store.
        """
        for part in {id(part): part for part in self._parts.values()}.values():
            part.use(copy / part.path.name)
        self.path, self._map = copy, None
        self._reader = Reader(copy / "data.mdb") if on_network(copy) else None

    def _read_index(self) -> Index:
        """Read the store's index from the file ``index``, or from LMDB's pages in ``data.mdb`` if there is no such file.

        Raise StoreError if a file is damaged, or if ``index`` was not made from this ``data.mdb``.
        """
        try:
            data = self._mapped()
            if not (self.path / INDEX).exists():
                return Index.of(data)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path}: cannot be opened as LMDB ({error}); if it is truncated or damaged, copy it again, "
                "or delete it and run sr-prepare again"
            ) from None
        try:
            index = Index.unpack((self.path / INDEX).read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path}: its file {INDEX!r} cannot be read ({error}); copy it again, or delete only this file: "
                "the store then opens without it, more slowly"
            ) from None
        if len(data) < index.size:
            raise StoreError(
                f"{self.path}: truncated: data.mdb has {len(data)} of {index.size} bytes; "
                "copy it again, or delete it and run sr-prepare again"
            )
        if not index.fits(data):
            raise StoreError(
                f"{self.path}: its files {INDEX!r} and 'data.mdb' belong to different stores, or data.mdb was changed; copy "
                f"the whole folder again, or delete {INDEX!r} if data.mdb is the right one"
            )
        return index

    def _unpack(self, index: Index) -> None:
        """Keep the records and positions of the index in this object.

        Raise StoreError if they do not fit the summary.
        """
        try:
            for scale, key, record, at in index.images():
                self.records.setdefault(scale, {})[key] = record
                self._offsets[scale, key] = at
        except ValueError as error:
            raise StoreError(f"{self.path}: damaged index ({error}); delete it and run sr-prepare again") from None
        counts = {str(scale): len(of_scale) for scale, of_scale in self.records.items()}
        if counts != self.summary["counts"] or self.summary.get("records", index.checksum) != index.checksum:
            raise StoreError(
                f"{self.path}: damaged: its index does not fit its summary; delete it and run sr-prepare again"
            )
        if self.summary["version"] == 1 and not self._fits_offsets(index):
            raise StoreError(
                f"{self.path}: its file {OFFSETS!r} is missing or does not fit data.mdb; data.mdb is damaged or was "
                "rewritten by another LMDB tool; copy the whole folder, or delete it and run sr-prepare again"
            )

    def _fits_offsets(self, index: Index) -> bool:
        """Return true if the file ``offsets`` of a store of version 1 fits the index.

        The file contains the position of the summary, the positions of all images, and a checksum of positions and
        records.
        """
        file = (self.path / OFFSETS).read_bytes() if (self.path / OFFSETS).exists() else b""
        body = file[:8] + index.offsets
        crc = zlib.crc32(body)
        for scale, key, record, _ in index.images():
            crc = zlib.crc32(record_name(scale, key) + record.pack(), crc)
        return file in (body, body + crc.to_bytes(8, "little"))  # the oldest files have no checksum

    def _mapped(self) -> mmap.mmap:
        """Return this process's memory map of ``data.mdb``. A forked process uses the map of its parent process."""
        if self._map is None:
            with (self.path / "data.mdb").open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):  # _read_ahead chooses what is read ahead
                self._map.madvise(mmap.MADV_RANDOM)
        return self._map

    def _read_summary(self, raw: bytes) -> dict[str, Any]:
        try:
            summary: Any = json.loads(raw) if raw else None
        except ValueError as error:
            raise StoreError(f"{self.path}: damaged summary ({error}); delete it and run sr-prepare again") from None
        summary = cast("dict[str, Any]", summary) if isinstance(summary, dict) else {}
        if summary.get("format") != FORMAT:
            raise StoreError(
                f"{self.path}: an LMDB, but not a store of sr-train; if it is an LMDB of BasicSR, copy its meta_info.txt "
                "to this folder, next to data.mdb; otherwise make a store from the images with sr-prepare"
            )
        if summary.get("version") not in (1, VERSION):
            raise StoreError(
                f"{self.path}: has version {summary.get('version')}, this sr-train reads versions 1 and {VERSION}; "
                "make it again with sr-prepare"
            )
        if not (isinstance(summary.get("counts"), dict) and isinstance(summary.get("scales"), list)):
            raise StoreError(f"{self.path}: damaged summary (no counts); delete it and run sr-prepare again")
        return summary

    def __getstate__(self) -> dict[str, Any]:
        reader = None if self._reader is None else Reader(self._reader.path)
        return {**self.__dict__, "_map": None, "_reader": reader}

    @property
    def scales(self) -> list[int]:
        """Scales in the store: 1 for the original images, then the scales of their LR images."""
        return sorted(self.records)

    def keys(self, scale: int = 1) -> list[str]:
        """Return the names of the images, sorted."""
        if scale not in self.records:
            raise StoreError(f"{self.path}: contains no images of scale {scale}, only of {self.scales}")
        return sorted(self.records[scale])

    def view(self, scale: int, key: str) -> Image:
        """Return a whole image [H, W, C], read-only.

        The array is a view into the memory map of the file. On a network file system, the pixels are read into memory
        instead.
        """
        if scale in self._parts:
            return self._parts[scale].view(scale, key)
        record = self.records[scale][key]
        if self._reader is not None:
            return np.ndarray(record.shape, record.dtype, self._reader.read(self._offsets[scale, key], record.nbytes))
        return np.ndarray(record.shape, record.dtype, self._mapped(), self._offsets[scale, key])

    def _read_ahead(self, scale: int, key: str, first: int, last: int) -> None:
        """Ask the operating system to read the bytes [first, last) of an image now, instead of page by page on access."""
        if hasattr(mmap, "MADV_WILLNEED"):
            start = self._offsets[scale, key] + first
            aligned = start - start % mmap.PAGESIZE
            self._mapped().madvise(mmap.MADV_WILLNEED, aligned, start - aligned + last - first)

    def read(self, scale: int, key: str) -> Image:
        """Read a whole image [H, W, C] in one disk access.

        Raises StoreError if the pixels do not have the stored checksum.
        """
        if scale in self._parts:
            return self._parts[scale].read(scale, key)
        if self._reader is None:
            self._read_ahead(scale, key, 0, self.records[scale][key].nbytes)
        image = self.view(scale, key)
        if zlib.crc32(image.data) != self.records[scale][key].crc:
            raise StoreError(f"{self.path}: image {key!r} (scale {scale}): checksum differs, the pixels are damaged")
        return image

    def crop(self, scale: int, key: str, top: int, left: int, height: int, width: int) -> Image:
        """Return a window [height, width, C] of an image as a read-only view. Its rows are read in one disk access."""
        if scale in self._parts:
            return self._parts[scale].crop(scale, key, top, left, height, width)
        record = self.records[scale][key]
        row = record.width * record.channels * record.depth
        if self._reader is not None:
            band = self._reader.read(self._offsets[scale, key] + top * row, height * row)
            return np.ndarray((height, *record.shape[1:]), record.dtype, band)[:, left : left + width]
        self._read_ahead(scale, key, top * row, (top + height) * row)
        return self.view(scale, key)[top : top + height, left : left + width]

    def verify(self, scale: int, key: str) -> str | None:
        """Read an image and compare its checksum with the stored checksum. Return an error message or None."""
        try:
            self.read(scale, key)
        except StoreError as error:
            return str(error)
        return None
