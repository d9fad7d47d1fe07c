"""Input images of a store (LMDB made by sr-prepare): check all files first, then decode and reduce them in parallel."""

from __future__ import annotations

import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from sr_train.batch import Image
from sr_train.console import counted
from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, Header, ImageError, decode_image, read_header
from sr_train.data.sources import input_files
from sr_train.data.store.basicsr import Entry, InputFile
from sr_train.data.store.format import MAX_KEY

T = TypeVar("T")

R = TypeVar("R")

_OVERHEAD = 1.02  # size of LMDB's pages / size of the pixels


class Reduction(NamedTuple):
    """Scales of a store, and rounding rules (arithmetic) of its LR images.

    A partial store is continued only with the same scales and arithmetic.
    """

    scales: tuple[int, ...]
    arithmetic: str


class Item(NamedTuple):
    """One decoded image with its LR versions, ready to be written to a store."""

    key: str
    images: dict[int, Image]
    file: tuple[int, int, int]  #: size, mtime in ns, CRC-32


class Estimate(NamedTuple):
    """Number of images in a new store, and disk space that they need, computed from the headers of the files."""

    images: int
    pixels: int  #: size of the pixels of all scales in bytes
    free: int  #: free bytes on the disk of the store


def parallel(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Future[R]]:
    """Call ``function`` with each item in threads, and yield the futures in the order of ``items``.

    At most 2 * ``workers`` items are started in advance. Threads are sufficient, because image decoders release the
    GIL.
    """
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


class Inputs:
    """Image files from which a store is made.

    Args:
        images: folder, with its subfolders, or an LMDB of BasicSR.
        plan: scales and arithmetic of the store.
        workers: number of threads that decode and reduce images.
        skip_bad: true to leave unreadable images out; false to raise an error.
        files: {key: file} of the images to store; default: every image below the folder.
        listed: text file with the names of the images to store, if ``files`` is not given.
        check: function that gets the headers of all readable files and returns a list of problems. This function is
            called before images are decoded.

    Raises:
        BadFilesError: lists all files with names that are too long.
    """

    def __init__(
        self,
        images: Path,
        plan: Reduction,
        *,
        workers: int,
        skip_bad: bool,
        files: Mapping[str, InputFile] | None,
        listed: str | None,
        check: Callable[[Mapping[str, Header]], list[str]],
    ) -> None:
        self.images = images
        self.plan = plan
        self.bad: list[str] = []  #: bad files, with reasons
        self._workers = workers
        self._skip_bad = skip_bad
        self._check = check
        self._remedy = "leave them out with skip_bad=true" if files is None else "leave their clips out with list=FILE"
        found = input_files(images, listed) if files is None else files
        self.files: dict[str, InputFile] = dict(found)  #: key -> file, without bad files
        self.listed = frozenset(self.files)
        long = [
            f"{p}: its path is longer than {MAX_KEY} bytes" for k, p in self.files.items() if len(k.encode()) > MAX_KEY
        ]
        if long:
            raise BadFilesError(f"{images}: names too long for a store", long)

    def _results(self, function: Callable[[str], R], keys: Iterable[str]) -> Iterator[tuple[str, R | None]]:
        """Yield (key, result of ``function``) in order.

        For an unreadable file, yield None and add the reason to ``self.bad``.
        """
        keys = list(keys)
        for key, future in zip(keys, parallel(function, keys, self._workers), strict=True):
            try:
                result = future.result()
            except ImageError as error:
                self.bad.append(str(error))
                result = None
            yield key, result

    def _header(self, key: str) -> Header:
        path = self.files[key]
        header = path.header() if isinstance(path, Entry) else read_header(path)
        largest = max(self.plan.scales, default=1)
        if min(header.height, header.width) < largest:
            raise ImageError(f"{path}: {header.width}x{header.height} pixels are too few to reduce by {largest}")
        return header

    def _item(self, key: str) -> Item:
        path = self.files[key]
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

    def estimate(self, store: Path, partial: Path, progress: Callable[[int], object]) -> Estimate:
        """Read the headers of all files, to find unreadable files and the size of the store before images are decoded.

        Raises BadFilesError that lists all unreadable files, unless ``skip_bad`` is true. Raises OSError if the disk is
        too small.
        """
        good: dict[str, Header] = {}
        for key, header in self._results(self._header, self.files):
            if header is not None:
                good[key] = header
            progress(1)
        self.bad += self._check(good)
        if self.bad and not self._skip_bad:
            # The build fails anyway; decode the other files too, so that one list contains all bad files.
            for _ in self._results(self._item, good):
                progress(1)
        self.raise_bad()
        self.files = {key: self.files[key] for key in good}
        self.raise_none()
        share = 1 + sum(1 / s**2 for s in self.plan.scales)
        total = sum(int(h.height * h.width * h.channels * h.dtype.itemsize * share) for h in good.values())
        parent = store.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        available = free + sum(file.stat().st_size for file in partial.glob("*"))
        if total * _OVERHEAD > available:
            raise OSError(
                f"{parent}: the store needs about {total * _OVERHEAD / 1e9:.2f} GB, but only {available / 1e9:.2f} GB are free"
            )
        return Estimate(len(good), total, free)

    def load(self, keys: Iterable[str]) -> Iterator[Item | None]:
        """Decode and reduce images in order.

        For an unreadable file, yield None and remove the file from ``self.files``.
        """
        for key, item in self._results(self._item, keys):
            if item is None:
                del self.files[key]
            yield item

    def raise_bad(self) -> None:
        """Raise BadFilesError that lists all unreadable files.

        Do nothing if ``skip_bad`` is true or all files are readable.
        """
        if self.bad and not self._skip_bad:
            raise BadFilesError(
                f"{self.images}: {counted(len(self.bad), 'bad file')}; repair or remove the listed files and run the same "
                f"command again (images already written are kept), or {self._remedy}",
                self.bad,
            )

    def raise_none(self) -> None:
        """Raise BadFilesError if none of the files can be used."""
        if not self.files:
            raise BadFilesError(f"{self.images}: none of the images can be used", self.bad)
