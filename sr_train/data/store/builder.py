"""Building a store from a folder of images: parallel, resumable after a kill, renamed into place when complete."""

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

from sr_train.data.images import Header
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

_COMMIT_BYTES = 128 << 20  # or _COMMIT_SECONDS: what a kill can cost

_COMMIT_SECONDS = 1.0

_MAP_START = 64 << 20


class Report(NamedTuple):
    """What building did."""

    written: int  #: images written now
    kept: int  #: images that were there already
    size: int  #: bytes of data.mdb
    skipped: list[str]  #: bad files passed over, with reasons


class StoreBuilder:
    """Builds ``store`` from the images below ``images``.

    Args:
        images: folder, nested as may be.
        store: the ``NAME.lmdb`` folder to make.
        scales: LR versions to keep beside each image, by bicubic reduction of the image cut to a multiple of the scale.
        arithmetic: of the reduction, see :mod:`sr_train.resampling`.
        workers: threads that decode and reduce.
        skip_bad: leave unreadable images out instead of failing.
        files: key -> file of what to keep; default: every image below the folder.
        check: told every good file's header before work starts; returns what is wrong with them together.
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
        files: Mapping[str, Path] | None = None,
        check: Callable[[Mapping[str, Header]], list[str]] = lambda headers: [],
    ) -> None:
        check_arithmetic(arithmetic)
        if any(s < 2 for s in scales) or len(set(scales)) != len(scales):
            raise ValueError(f"scales={list(scales)}: give whole numbers from 2 on, each once, e.g. scales=[2,3,4]")
        self.store = Path(store)
        if self.store.suffix != ".lmdb":
            raise ValueError(
                f"store={store}: give a name that ends in .lmdb, e.g. store={self.store.with_suffix('.lmdb')}"
            )
        self.partial = self.store.with_name(self.store.name + ".partial")
        self.plan = Reduction(tuple(sorted(scales)), arithmetic)
        self.inputs = Inputs(Path(images), self.plan, workers=workers, skip_bad=skip_bad, files=files, check=check)

    def estimate(self, progress: Callable[[int], object] = lambda n: None) -> Estimate:
        """Check the inputs and the free disk space before anything is written, see :meth:`.scan.Inputs.estimate`."""
        return self.inputs.estimate(self.store, self.partial, progress)

    def complete(self) -> bool:
        """Whether the store stands already, made of these very files by this very plan.

        Raises FileExistsError where a store stands that holds something else.
        """
        if not self.store.exists():
            return False
        store = Store(self.store)
        made = Reduction(tuple(store.summary["scales"]), store.summary["arithmetic"])
        remedy = "give another store=, or delete this one"
        if made != self.plan:
            raise FileExistsError(
                f"{self.store}: was made with scales={list(made.scales)} arithmetic={made.arithmetic}, "
                f"asked for are scales={list(self.plan.scales)} arithmetic={self.plan.arithmetic}; {remedy}"
            )
        records, files = store.records[1], self.inputs.files
        left_out = set(store.summary.get("skipped", []))
        changed = sorted(records.keys() ^ (files.keys() - left_out))
        changed += [k for k, p in files.items() if k in records and not _same_file(records[k], p)]
        if changed:
            names = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
            raise FileExistsError(
                f"{self.store}: exists, and {len(changed)} images of {self.inputs.images} were added, removed or changed "
                f"since ({names}); {remedy}"
            )
        return True

    def build(self, progress: Callable[[int], object] = lambda n: None) -> Report:
        """Write every image that is not there yet, then put the store in place.

        A killed build continues. Raises BadFilesError when some images could not be decoded (all others are kept), and
        OSError when the disk is full (what was committed is kept).
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with _writer_lock(self.partial):
            remove_leftovers(self.partial)
            try:
                return self._build(progress)
            except lmdb.DiskError as error:
                raise OSError(
                    f"{self.partial}: the disk is full or failing ({error}); make room and run the same command again, "
                    "what is written is kept"
                ) from None
            except lmdb.CorruptedError as error:
                raise StoreError(f"{self.partial}: damaged ({error}); delete it and run sr-prepare again") from None

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
        for name in ("lock.mdb", OFFSETS):  # offsets: of a build that an earlier sr-train began
            (self.partial / name).unlink(missing_ok=True)
        sync_folder(self.partial)
        os.replace(self.partial, self.store)  # noqa: PTH105
        sync_folder(self.store.absolute().parent)
        kept = len(done)
        return Report(len(self.inputs.files) - kept, kept, (self.store / "data.mdb").stat().st_size, self.inputs.bad)

    def _open_partial(self) -> lmdb.Environment:
        data = self.partial / "data.mdb"
        try:
            size = max(_MAP_START, 2 * data.stat().st_size if data.exists() else 0)
            return lmdb.open(str(self.partial), map_size=size, lock=False, meminit=False)
        except lmdb.Error as error:
            raise StoreError(
                f"{self.partial}: cannot be opened ({error}); delete it and run sr-prepare again"
            ) from None

    def _reconcile(self, environment: lmdb.Environment) -> set[str]:
        """Check the partial store against the plan and the folder; drop what is stale; return the keys that are done."""
        _, records = self._committed()
        with environment.begin() as transaction:
            plan = transaction.get(_PLAN)
        mine = json.dumps(self.plan).encode()
        if plan is not None and bytes(plan) != mine:
            scales, arithmetic = json.loads(bytes(plan))
            raise FileExistsError(
                f"{self.partial}: was begun with scales={scales} arithmetic={arithmetic}; run that command again, "
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
        Store(self.partial)  # raises if what was written cannot be read back

    def _committed(self) -> tuple[Index, list[tuple[int, str, Record]]]:
        """The index of what is committed, and (scale, key, record) of its images."""
        try:
            with (
                (self.partial / "data.mdb").open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                index = Index.of(data)
            return index, [image[:3] for image in index.images()]
        except ValueError as error:
            raise StoreError(f"{self.partial}: damaged ({error}); delete it and run sr-prepare again") from None


def _same_file(record: Record, path: Path) -> bool:
    """Return whether a record was made from a file; the content decides where only the time differs (a copied folder)."""
    try:
        status = path.stat()
        if status.st_size != record.file_size:
            return False
        return status.st_mtime_ns == record.file_mtime or zlib.crc32(path.read_bytes()) == record.file_crc
    except OSError:
        return False


@contextmanager
def _writer_lock(folder: Path) -> Generator[None]:
    """Allow one writer a store, until its process ends, however it does."""
    if os.name == "nt":  # no such locks there: two sr-prepare at once are then the user's to avoid
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock_file(handle):
            raise FileExistsError(f"{folder}: another sr-prepare is writing it at this moment")
        yield
    finally:
        os.close(handle)


def _transact(environment: lmdb.Environment, write: Callable[[lmdb.Transaction], None]) -> None:
    """Run ``write`` in one transaction; a full map is grown and the transaction repeated."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                write(transaction)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
