"""Parts of building a store next to the images: one writer, recognition of files, work done ahead."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb

from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, Header, ImageError, decode_image, list_images, read_header
from sr_train.data.store.format import (
    FORMAT,
    INDEX,
    MAX_KEY,
    OFFSETS,
    SUMMARY,
    VERSION,
    Record,
    StoreError,
    pixel_name,
    record_name,
)
from sr_train.data.store.index_file import Index
from sr_train.data.store.reader import Image, Store
from sr_train.data.store.scan import Estimate
from sr_train.files import remove_leftovers, sync_folder, write_bytes
from sr_train.resampling import Arithmetic, check_arithmetic

T = TypeVar("T")

R = TypeVar("R")


def parallel(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Future[R]]:
    """Futures of ``function`` over ``items``, in order, a bounded number ahead (threads: decoders release the GIL)."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()


def same_file(record: Record, path: Path) -> bool:
    """Whether a file is the one a record was made of; its content decides where only the time differs (a copied folder)."""
    try:
        status = path.stat()
        if status.st_size != record.file_size:
            return False
        return status.st_mtime_ns == record.file_mtime or zlib.crc32(path.read_bytes()) == record.file_crc
    except OSError:
        return False


def size_of(folder: Path) -> int:
    """Bytes of a folder's files; 0 where there is none."""
    return sum(f.stat().st_size for f in folder.glob("*")) if folder.is_dir() else 0


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """One writer a store. Record locks vanish with their process, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: two sr-prepare at once are then the user's to avoid
        yield
        return
    handle: Any = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"{folder}: another sr-prepare is writing it at this moment") from None
        yield
    finally:
        os.close(handle)


_PLAN = b"plan"

_COMMIT_BYTES = 128 << 20  # or _COMMIT_SECONDS: what a kill can cost

_COMMIT_SECONDS = 1.0

_OVERHEAD = 1.02  # of LMDB's pages over the pixels

_MAP_START = 64 << 20


class Plan(NamedTuple):
    """What a store shall hold; a partial store continues only under an equal plan."""

    scales: tuple[int, ...]
    arithmetic: str


class Item(NamedTuple):
    """One decoded image with its LR versions, ready to be written."""

    key: str
    images: dict[int, Image]
    file: tuple[int, int, int]  #: size, mtime in ns, CRC-32


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
        self.images = Path(images)
        self.store = Path(store)
        if self.store.suffix != ".lmdb":
            raise ValueError(
                f"store={store}: give a name that ends in .lmdb, e.g. store={self.store.with_suffix('.lmdb')}"
            )
        self.partial = self.store.with_name(self.store.name + ".partial")
        self.plan = Plan(tuple(sorted(scales)), arithmetic)
        self.workers = workers
        self.skip_bad = skip_bad
        self.check = check
        self.remedy = "them out with skip_bad=true" if files is None else "their clips out with list=FILE"
        self.files = list_images(self.images) if files is None else dict(files)
        self.listed = frozenset(self.files)
        self.bad: list[str] = []
        long = [f"{p}: its path is over {MAX_KEY} bytes" for k, p in self.files.items() if len(k.encode()) > MAX_KEY]
        if long:
            raise BadFilesError(f"{self.images}: names too long for a store", long)

    # -- before anything is written ------------------------------------------------------------------------------

    def _check_header(self, path: Path) -> Header:
        header = read_header(path)
        largest = max(self.plan.scales, default=1)
        if min(header.height, header.width) < largest:
            raise ImageError(f"{path}: {header.width}x{header.height} pixels are too few to reduce by {largest}")
        return header

    def estimate(self, progress: Callable[[int], object] = lambda n: None) -> Estimate:
        """Read all headers: bad files are found, and the disk that the store will take, before work starts.

        Raises BadFilesError with every bad file at once (unless ``skip_bad``), OSError where the disk is too small.
        """
        total, good, known = 0, {}, {}
        share = 1 + sum(1 / s**2 for s in self.plan.scales)
        headers = parallel(lambda item: self._check_header(item[1]), self.files.items(), self.workers)
        for (key, path), future in zip(self.files.items(), headers, strict=True):
            try:
                header = future.result()
            except ImageError as error:
                self.bad.append(str(error))
            else:
                good[key], known[key] = path, header
                total += int(header.height * header.width * header.channels * header.dtype.itemsize * share)
            progress(1)
        self.bad += self.check(known)
        if (
            self.bad and not self.skip_bad
        ):  # it fails anyhow: decode the others too, so that all bad files are in one list
            for future in parallel(self._load, good.items(), self.workers):
                try:
                    future.result()
                except ImageError as error:
                    self.bad.append(str(error))
                progress(1)
        self._raise_bad()
        self.files = good
        if not good:
            raise BadFilesError(f"{self.images}: none of the images can be used", self.bad)
        parent = self.store.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        here = size_of(self.partial)
        if total * _OVERHEAD > free + here:
            raise OSError(
                f"{parent}: the store needs about {total * _OVERHEAD / 1e9:.2f} GB, "
                f"only {(free + here) / 1e9:.2f} GB are free"
            )
        return Estimate(len(good), total, free)

    def _raise_bad(self) -> None:
        if self.bad and not self.skip_bad:
            raise BadFilesError(
                f"{self.images}: {len(self.bad)} bad files; mend or remove them and run the same command again "
                f"(what is done is kept), or leave {self.remedy}",
                self.bad,
            )

    def complete(self) -> bool:
        """Whether the store stands already, made of these very files by this very plan.

        Raises FileExistsError where a store stands that holds something else.
        """
        if not self.store.exists():
            return False
        store = Store(self.store)
        made = Plan(tuple(store.summary["scales"]), store.summary["arithmetic"])
        remedy = "give another store=, or delete this one"
        if made != self.plan:
            raise FileExistsError(
                f"{self.store}: was made with scales={list(made.scales)} arithmetic={made.arithmetic}, "
                f"asked for are scales={list(self.plan.scales)} arithmetic={self.plan.arithmetic}; {remedy}"
            )
        records = store.records[1]
        left_out = set(store.summary.get("skipped", []))
        changed = sorted(records.keys() ^ (self.files.keys() - left_out))
        changed += [k for k, p in self.files.items() if k in records and not same_file(records[k], p)]
        if changed:
            names = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
            raise FileExistsError(
                f"{self.store}: exists, and {len(changed)} images of {self.images} were added, removed or changed "
                f"since ({names}); {remedy}"
            )
        return True

    # -- writing -------------------------------------------------------------------------------------------------

    def _load(self, item: tuple[str, Path]) -> Item:
        key, path = item
        try:
            data = path.read_bytes()
            status = path.stat()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from None
        image = decode_image(data, path)
        images = {1: image}
        for scale in self.plan.scales:
            images[scale] = reduce_image(image, scale, self.plan.arithmetic)
        return Item(key, images, (len(data), status.st_mtime_ns, zlib.crc32(data)))

    def build(self, progress: Callable[[int], object] = lambda n: None) -> Report:
        """Write every image that is not there yet, then put the store in place.

        A killed build continues. Raises BadFilesError when some images could not be decoded (all others are kept), and
        OSError when the disk is full (what was committed is kept).
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.partial):
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
            todo = [(k, p) for k, p in self.files.items() if k not in done]
            pending: list[Item] = []
            size, last = 0, time.monotonic()
            for (_, path), future in zip(todo, parallel(self._load, todo, self.workers), strict=True):
                try:
                    item = future.result()
                except ImageError as error:
                    self.bad.append(str(error))
                    self.files = {k: p for k, p in self.files.items() if p != path}
                else:
                    pending.append(item)
                    size += sum(i.nbytes for i in item.images.values())
                if size >= _COMMIT_BYTES or time.monotonic() - last >= _COMMIT_SECONDS:
                    self._commit(environment, pending)
                    pending, size, last = [], 0, time.monotonic()
                progress(1)
            self._commit(environment, pending)
            self._raise_bad()
            written = len(self.files) - len(done)
            if not self.files:
                raise BadFilesError(f"{self.images}: none of the images can be used", self.bad)
            self._finish(environment)
        finally:
            environment.close()
        for name in ("lock.mdb", OFFSETS):  # offsets: of a build that an earlier sr-train began
            (self.partial / name).unlink(missing_ok=True)
        sync_folder(self.partial)
        os.replace(self.partial, self.store)  # noqa: PTH105
        sync_folder(self.store.absolute().parent)
        return Report(written, len(done), (self.store / "data.mdb").stat().st_size, self.bad)

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
            if key in self.files and same_file(record, self.files[key]):
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
            "counts": {str(s): len(self.files) for s in (1, *self.plan.scales)},
            "records": self._committed()[0].checksum,
            "skipped": sorted(self.listed - self.files.keys()),
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


def _transact(environment: lmdb.Environment, write: Callable[[lmdb.Transaction], None]) -> None:
    """Run ``write`` in one transaction; a full map is grown and the transaction repeated."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                write(transaction)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
