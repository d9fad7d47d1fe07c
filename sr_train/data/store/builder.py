"""Building a store (LMDB of images for training) from a folder of images.

Images are decoded in parallel. A killed build can be continued. The store gets its final name at the end.
"""

from __future__ import annotations

import json
import mmap
import os
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb

from sr_train.console import counted
from sr_train.data.images import Header
from sr_train.data.store.basicsr import InputFile
from sr_train.data.store.disk_errors import could_not_write, explained
from sr_train.data.store.format import (
    FORMAT,
    INDEX,
    OFFSETS,
    SUMMARY,
    VERSION,
    Record,
    StoreError,
    pixel_name,
    record_name,
)
from sr_train.data.store.index_file import Index
from sr_train.data.store.reader import Store
from sr_train.data.store.scan import Estimate, Inputs, Item, Reduction
from sr_train.files import lock_file, remove_leftovers, sync_folder, write_bytes
from sr_train.resampling import Arithmetic, check_arithmetic

_PLAN = b"plan"

_COMMIT_BYTES = 128 << 20  # a kill loses at most this much, or the work of _COMMIT_SECONDS

_COMMIT_SECONDS = 1.0

_MAP_START = 64 << 20

_HEAD = 2 * mmap.PAGESIZE  # LMDB's two headers; a shorter file contains nothing


class Report(NamedTuple):
    """Result of building a store."""

    written: int  #: images written by this build
    kept: int  #: images written by an earlier build
    size: int  #: size of data.mdb in bytes
    skipped: list[str]  #: bad files that were left out, with reasons


class StoreBuilder:
    """Builder that makes a store (LMDB of images for training) from the images in a folder.

    Args:
        images: folder of images, with its subfolders, or an LMDB of BasicSR.
        store: the ``NAME.lmdb`` folder to make.
        scales: scales of the LR images to store next to each image, made by bicubic reduction.
        arithmetic: name of the rounding rules of the reduction, see :mod:`sr_train.resampling`.
        workers: number of threads that decode and reduce images.
        skip_bad: true to leave unreadable images out; false to raise an error.
        files: {key: file} of the images to store; default: every image below the folder.
        listed: text file with the names of the images to store, if ``files`` is not given.
        check: function from the headers of all readable files to a list of problems; called before writing.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        store: str | os.PathLike[str],
        *,
        scales: Sequence[int] = (),
        arithmetic: Arithmetic = "float",
        workers: int = 2,
        skip_bad: bool = False,
        files: Mapping[str, InputFile] | None = None,
        listed: str | None = None,
        check: Callable[[Mapping[str, Header]], list[str]] = lambda headers: [],
    ) -> None:
        check_arithmetic(arithmetic)
        if any(s < 2 for s in scales) or len(set(scales)) != len(scales):
            raise ValueError(f"scales={list(scales)}: give integers of at least 2, each once, e.g. scales=[2,3,4]")
        self.store = Path(store)
        if self.store.suffix != ".lmdb":
            raise ValueError(
                f"store={store}: give a name that ends in .lmdb, e.g. store={self.store.with_suffix('.lmdb')}"
            )
        self.partial = self.store.with_name(self.store.name + ".partial")
        self.plan = Reduction(tuple(sorted(scales)), arithmetic)
        self.inputs = Inputs(
            Path(images), self.plan, workers=workers, skip_bad=skip_bad, files=files, listed=listed, check=check
        )

    def estimate(self, progress: Callable[[int], object] = lambda n: None) -> Estimate:
        """Check the input images and the free disk space before anything is written; see :meth:`.scan.Inputs.estimate`."""
        return self.inputs.estimate(self.store, self.partial, progress)

    def complete(self) -> bool:
        """Return True if the store exists and was made from the same files with the same scales and arithmetic.

        Raises FileExistsError if the existing store has other contents.
        """
        if not self.store.exists():
            return False
        store = Store(self.store)
        made = Reduction(tuple(store.summary["scales"]), store.summary["arithmetic"])
        remedy = "give another store=, or delete this one"
        if made != self.plan:
            raise FileExistsError(
                f"{self.store}: was made with scales={list(made.scales)} arithmetic={made.arithmetic}, "
                f"but scales={list(self.plan.scales)} arithmetic={self.plan.arithmetic} are requested; {remedy}"
            )
        records, files = store.records[1], self.inputs.files
        left_out = set(store.summary.get("skipped", []))
        changed = sorted(records.keys() ^ (files.keys() - left_out))
        changed += [k for k, p in files.items() if k in records and not _same_file(records[k], p)]
        if changed:
            names = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
            raise FileExistsError(
                f"{self.store}: exists, but {self.inputs.images} has changed since: "
                f"{counted(len(changed), 'image')} added, removed or changed ({names}); {remedy}"
            )
        return True

    def build(self, progress: Callable[[int], object] = lambda n: None) -> Report:
        """Write every missing image, then give the store its final name.

        A killed build is continued. Raises BadFilesError if some images cannot be decoded; the other images are kept.
        Raises OSError if the disk is full or the file may not grow; images that are already written are kept.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with _writer_lock(self.partial):
            remove_leftovers(self.partial)
            with explained(self.partial):
                return self._build(progress)

    def _build(self, progress: Callable[[int], object]) -> Report:
        environment = self._open_partial()
        try:
            done = self._reconcile(environment)
            progress(len(done))
            pending: list[Item] = []
            size, last = 0, time.monotonic()
            for item in self.inputs.load([key for key in self.inputs.files if key not in done]):
                if item is not None:
                    pending.append(item)
                    size += sum(i.nbytes for i in item.images.values())
                if size >= _COMMIT_BYTES or time.monotonic() - last >= _COMMIT_SECONDS:
                    self._commit(environment, pending)
                    pending, size, last = [], 0, time.monotonic()
                progress(1)
            self._commit(environment, pending)
            self.inputs.raise_bad()
            self.inputs.raise_none()
            self._finish(environment)
        finally:
            environment.close()
        for name in ("lock.mdb", OFFSETS):  # an earlier version of sr-train wrote offsets
            (self.partial / name).unlink(missing_ok=True)
        sync_folder(self.partial)
        os.replace(self.partial, self.store)  # noqa: PTH105
        sync_folder(self.store.absolute().parent)
        kept = len(done)
        return Report(len(self.inputs.files) - kept, kept, (self.store / "data.mdb").stat().st_size, self.inputs.bad)

    def _open_partial(self) -> lmdb.Environment:
        data = self.partial / "data.mdb"
        if data.exists() and data.stat().st_size < _HEAD:  # the disk was full before the first image
            data.unlink()
        try:
            size = max(_MAP_START, 2 * data.stat().st_size if data.exists() else 0)
            return lmdb.open(str(self.partial), map_size=size, lock=False, meminit=False)
        except lmdb.Error as error:
            if could_not_write(error):
                raise
            raise StoreError(
                f"{self.partial}: cannot be opened ({error}); delete it and run sr-prepare again"
            ) from None

    def _reconcile(self, environment: lmdb.Environment) -> set[str]:
        """Delete images whose files have changed from the partial store. Return the keys of the images that are kept.

        Raise FileExistsError if the partial store was started with other scales or another arithmetic.
        """
        _, records = self._committed()
        with environment.begin() as transaction:
            plan = transaction.get(_PLAN)
        mine = json.dumps(self.plan).encode()
        if plan is not None and bytes(plan) != mine:
            scales, arithmetic = json.loads(bytes(plan))
            raise FileExistsError(
                f"{self.partial}: was started with scales={scales} arithmetic={arithmetic}; run that command again, "
                "give another store=, or delete this folder"
            )
        seen: dict[str, set[int]] = {}
        for scale, key, record in records:
            if key in self.inputs.files and _same_file(record, self.inputs.files[key]):
                seen.setdefault(key, set()).add(scale)
        wanted = {1, *self.plan.scales}
        done = {key for key, scales in seen.items() if scales == wanted}
        stale = [(scale, key) for scale, key, _ in records if key not in done]

        def write(transaction: lmdb.Transaction) -> None:
            transaction.put(_PLAN, mine)
            for scale, key in stale:
                transaction.delete(pixel_name(scale, key))
                transaction.delete(record_name(scale, key))

        _transact(environment, write)
        return done

    def _commit(self, environment: lmdb.Environment, items: Sequence[Item]) -> None:
        def write(transaction: lmdb.Transaction) -> None:
            for key, images, file in items:
                for scale, image in images.items():
                    pixels = image.tobytes()
                    shape = (*image.shape, image.dtype.itemsize)
                    transaction.put(pixel_name(scale, key), pixels.ljust(mmap.PAGESIZE, b"\0"))
                    transaction.put(record_name(scale, key), Record._make((*shape, zlib.crc32(pixels), *file)).pack())

        if items:
            _transact(environment, write)

    def _finish(self, environment: lmdb.Environment) -> None:
        summary = {
            "format": FORMAT,
            "version": VERSION,
            "scales": list(self.plan.scales),
            "arithmetic": self.plan.arithmetic,
            "counts": {str(s): len(self.inputs.files) for s in (1, *self.plan.scales)},
            "records": self._committed()[0].checksum,
            "skipped": sorted(self.inputs.listed - self.inputs.files.keys()),
        }

        def write(transaction: lmdb.Transaction) -> None:
            transaction.delete(_PLAN)
            transaction.put(SUMMARY, json.dumps(summary, sort_keys=True).encode())

        _transact(environment, write)
        environment.sync(True)
        write_bytes(self.partial / INDEX, self._committed()[0].pack())
        Store(self.partial)  # raises if the store cannot be read back

    def _committed(self) -> tuple[Index, list[tuple[int, str, Record]]]:
        """Return the index of the store, and (scale, key, record) of each image that is already written to the store."""
        try:
            with (
                (self.partial / "data.mdb").open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                index = Index.of(data)
            return index, [image[:3] for image in index.images()]
        except ValueError as error:
            raise StoreError(f"{self.partial}: damaged ({error}); delete it and run sr-prepare again") from None


def _same_file(record: Record, path: InputFile) -> bool:
    """Return True if a store's record (entry of one image) was made from this file: equal size and time, or contents."""
    try:
        status = path.stat()
        if status.st_size != record.file_size:
            return False
        return status.st_mtime_ns == record.file_mtime or zlib.crc32(path.read_bytes()) == record.file_crc
    except OSError:
        return False


@contextmanager
def _writer_lock(folder: Path) -> Generator[None]:
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
