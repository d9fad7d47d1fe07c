"""Unfinished store ``NAME.lmdb.partial``: images are written in transactions, so a killed build is continued."""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from sr_train.data.store.disk_errors import could_not_write
from sr_train.data.store.format import INDEX, OFFSETS, SUMMARY, Record, StoreError, pixel_name, record_name
from sr_train.data.store.index_file import Index
from sr_train.data.store.reader import Store
from sr_train.data.store.scan import Item, Reduction
from sr_train.files import lock_file, sync_folder, write_bytes

_PLAN = b"plan"

_MAP_START = 64 << 20

_HEAD = 2 * mmap.PAGESIZE  # LMDB's two headers; a shorter file contains nothing


class Partial:
    """Unfinished store, open for writing.

    Args:
        path: the ``NAME.lmdb.partial`` folder.
        plan: what the store will contain; a partial store is continued only with the same plan.
    """

    def __init__(self, path: Path, plan: Reduction) -> None:
        self.path = path
        self.plan = plan
        self._environment = self._open()

    def close(self) -> None:
        """Close the file."""
        self._environment.close()

    def _open(self) -> lmdb.Environment:
        data = self.path / "data.mdb"
        if data.exists() and data.stat().st_size < _HEAD:  # the disk was full before the first image
            data.unlink()
        try:
            size = max(_MAP_START, 2 * data.stat().st_size if data.exists() else 0)
            return lmdb.open(str(self.path), map_size=size, lock=False, meminit=False)
        except lmdb.Error as error:
            if could_not_write(error):
                raise
            raise StoreError(f"{self.path}: cannot be opened ({error}); delete it and run sr-prepare again") from None

    def reconcile(self, scales: Sequence[int], is_current: Callable[[int, str, Record], bool]) -> set[str]:
        """Delete outdated images from the partial store. Return the keys of the images that are kept.

        An image is kept if ``is_current`` returns True for it at all ``scales``. Raises FileExistsError if the build was
        started with another plan.
        """
        _, records = self._committed()
        with self._environment.begin() as transaction:
            started = transaction.get(_PLAN)
        mine = self.plan.pack()
        if started is not None and bytes(started) != mine:
            raise FileExistsError(
                f"{self.path}: was started with {Reduction.unpack(bytes(started))}; run that command again, give another "
                "store=, or delete this folder"
            )
        seen: dict[str, set[int]] = {}
        for scale, key, record in records:
            if is_current(scale, key, record):
                seen.setdefault(key, set()).add(scale)
        done = {key for key, held in seen.items() if held == set(scales)}
        stale = [(scale, key) for scale, key, _ in records if key not in done]

        def write(transaction: lmdb.Transaction) -> None:
            transaction.put(_PLAN, mine)
            for scale, key in stale:
                transaction.delete(pixel_name(scale, key))
                transaction.delete(record_name(scale, key))

        _transact(self._environment, write)
        return done

    def commit(self, items: Sequence[Item]) -> None:
        """Write images in one transaction."""

        def write(transaction: lmdb.Transaction) -> None:
            for key, images, _ in items:
                for scale, (image, file) in images.items():
                    pixels = image.tobytes()
                    shape = (*image.shape, image.dtype.itemsize)
                    transaction.put(pixel_name(scale, key), pixels.ljust(mmap.PAGESIZE, b"\0"))
                    transaction.put(record_name(scale, key), Record._make((*shape, zlib.crc32(pixels), *file)).pack())

        if items:
            _transact(self._environment, write)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and the index, and read the store back. Raises StoreError if that fails."""
        summary |= {"records": self._committed()[0].checksum}

        def write(transaction: lmdb.Transaction) -> None:
            transaction.delete(_PLAN)
            transaction.put(SUMMARY, json.dumps(summary, sort_keys=True).encode())

        _transact(self._environment, write)
        self._environment.sync(True)
        write_bytes(self.path / INDEX, self._committed()[0].pack())
        Store(self.path)  # raises if the store cannot be read back

    def rename(self, store: Path) -> None:
        """Give the finished store its name."""
        for name in ("lock.mdb", OFFSETS):  # an earlier version of sr-train wrote offsets
            (self.path / name).unlink(missing_ok=True)
        sync_folder(self.path)
        os.replace(self.path, store)  # noqa: PTH105
        sync_folder(store.absolute().parent)

    def _committed(self) -> tuple[Index, list[tuple[int, str, Record]]]:
        """Return the index of the store, and (scale, key, record) of each image that is already written to the store."""
        try:
            with (
                (self.path / "data.mdb").open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                index = Index.of(data)
            return index, [image[:3] for image in index.images()]
        except ValueError as error:
            raise StoreError(f"{self.path}: damaged ({error}); delete it and run sr-prepare again") from None


@contextmanager
def writer_lock(folder: Path) -> Generator[None]:
    """Lock a store, so that only one process writes it. The lock ends with the process, also if it is killed."""
    if os.name == "nt":  # no such locks: the user must not run two at once
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock_file(handle):
            raise FileExistsError(f"{folder}: another sr-prepare is writing it now")
        yield
    finally:
        os.close(handle)


def _transact(environment: lmdb.Environment, write: Callable[[lmdb.Transaction], None]) -> None:
    """Run ``write`` in one LMDB transaction. If LMDB's memory map is full, double the size of the map and try again."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                write(transaction)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
