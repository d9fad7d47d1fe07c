"""Input images of a store (LMDB made by sr-prepare): check all files first, then decode and reduce them in parallel."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from sr_train.batch import Image
from sr_train.console import counted
from sr_train.data.archives import InputFile, discard_copies, header_of
from sr_train.data.degradation.whole import WholeMaker, workers_for
from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, Header, ImageError, decode_image
from sr_train.data.sources import input_files
from sr_train.data.store.drawn import Row
from sr_train.data.store.format import GIVEN, MAX_KEY
from sr_train.data.store.reader import Store

T = TypeVar("T")

R = TypeVar("R")

_OVERHEAD = 1.02  # size of LMDB's pages / size of the pixels


class Reduction(NamedTuple):
    """Scales of a store, and rounding rules (arithmetic) or other origin of its LR images.

    A partial store is continued only with the same plan.
    """

    scales: tuple[int, ...]
    arithmetic: str
    given: tuple[int, ...] = ()  #: scales whose LR images are given
    base: str | None = None  #: the store to which these scales are added

    def pack(self) -> bytes:
        """Return the plan as stored bytes; without given LR and base, those of earlier versions."""
        return json.dumps(self if self.given or self.base else self[:2]).encode()

    @classmethod
    def unpack(cls, raw: bytes) -> Reduction:
        """Read a plan, the inverse of :meth:`pack`."""
        return cls(*json.loads(raw))

    @property
    def made(self) -> dict[int, str]:
        """{scale: origin of its LR images}: the name of an arithmetic, or ``given``."""
        return {scale: GIVEN if scale in self.given else self.arithmetic for scale in self.scales}

    def __str__(self) -> str:
        given = f" and given LR of {list(self.given)}" if self.given else ""
        added = ", added to a finished store" if self.base else ""
        return f"scales={list(self.scales)} arithmetic={self.arithmetic}{given}{added}"


class Item(NamedTuple):
    """One image with its LR versions, ready to be written to a store."""

    key: str
    images: dict[int, tuple[Image, tuple[int, int, int]]]  #: scale -> image; size, mtime in ns and CRC-32 of its file
    drawn: Sequence[Row] = ()  #: choices of a degradation


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
        images: folder, with its subfolders and archives, an archive, or an LMDB of BasicSR.
        plan: scales and arithmetic of the store.
        workers: number of threads that decode and reduce images.
        skip_bad: true to leave unreadable images out; false to raise an error.
        files: {key: file} of the images to store; default: every image below the folder.
        lr: {scale: {key: file}} of given LR images.
        listed: text file with the names of the images to store, if ``files`` is not given.
        check: function that gets the headers of all readable files and returns a list of problems. This function is
            called before images are decoded.
        copies: folder of the decompressed copies of tar.gz archives.
        maker: maker of LR instead of bicubic reduction.
        hr: false if HR images are not written, only their LR.

    Raises:
        BadFilesError: lists all files with names that are too long, or all images without a given LR image.
    """

    def __init__(
        self,
        images: Path,
        plan: Reduction,
        *,
        workers: int,
        skip_bad: bool,
        files: Mapping[str, InputFile] | None,
        lr: Mapping[int, Mapping[str, InputFile]],
        listed: str | None,
        check: Callable[[Mapping[str, Header]], list[str]],
        copies: Path,
        maker: WholeMaker | None = None,
        hr: bool = True,
    ) -> None:
        self.images = images
        self.maker = maker
        self._hr = hr
        self.plan = plan
        self.base: Store | None = None  #: the finished store to which scales are added
        self.bad: list[str] = []  #: bad files, with reasons
        self._workers = workers
        self._skip_bad = skip_bad
        self._check = check
        self._remedy = "leave them out with skip_bad=true" if files is None else "leave their clips out with list=FILE"
        found = input_files(images, listed, copies=copies) if files is None else files
        self.files: dict[str, InputFile] = dict(found)  #: key -> file, without bad files
        self.lr = {
            scale: {key: of_scale[key] for key in self.files if key in of_scale} for scale, of_scale in lr.items()
        }
        self.listed = frozenset(self.files)
        self.numbers = {key: number for number, key in enumerate(self.files)}  #: positions of the images
        long = [
            f"{p}: its path is longer than {MAX_KEY} bytes" for k, p in self.files.items() if len(k.encode()) > MAX_KEY
        ]
        if long:
            raise BadFilesError(f"{images}: names too long for a store", long)
        lone = [f"{key}: no LR of x{s}" for s, of_scale in self.lr.items() for key in self.files if key not in of_scale]
        if lone:
            raise BadFilesError(f"{images}: {counted(len(lone), 'image')} without LR", lone)

    def extend(self, store: Store, plan: Reduction) -> None:
        """Make LR of the scales of ``plan`` only, from the HR pixels of a finished store instead of the files."""
        self.base, self.plan, self._skip_bad = store, plan, False
        self._remedy = "leave their scale out of scales="
        self.lr = {scale: self.lr[scale] for scale in plan.given}
        self.files = {key: self.files[key] for key in store.records[1]}

    @property
    def written_scales(self) -> tuple[int, ...]:
        """Scales that are written: 1 for HR, and those of LR."""
        return self.plan.scales if self.base is not None else (1, *self.plan.scales)

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

    def _sizes(self, key: str) -> tuple[Header, int]:
        """Return the header of an image, and the bytes of all pixels that are written for it."""
        path = self.files[key]
        if self.base is None:
            header = header_of(path)
        else:
            record = self.base.records[1][key]
            header = Header(*record.shape, record.dtype)
        largest = max(self.plan.scales, default=1)
        if min(header.height, header.width) < largest:
            raise ImageError(f"{path}: {header.width}x{header.height} pixels are too few to reduce by {largest}")
        pixels = _bytes(header)
        total = pixels if self.base is None and self._hr else 0
        for scale in self.plan.scales:
            if scale in self.lr:
                lr = self.lr[scale][key]
                total += _bytes(low := header_of(lr))
                check_fit(lr, scale, low[:2], header[:2])
            else:
                total += pixels // scale**2
        return header, total

    def _item(self, key: str) -> Item:
        if self.base is None:
            image, file = _decoded(self.files[key])
        else:
            image, file = self.base.read(1, key), self.base.records[1][key].file
        images, rows = {1: (image, file)} if self.base is None else {}, list[Row]()
        for scale in self.plan.scales:
            if scale in self.lr:
                images[scale] = _decoded(self.lr[scale][key])
                check_fit(self.lr[scale][key], scale, images[scale][0].shape[:2], image.shape[:2])
            elif self.maker is not None:
                low, drawn = self.maker.make(image, scale, self.numbers[key])
                images[scale] = low, file
                rows.append(Row(self.numbers[key], key, scale, drawn))
            else:
                images[scale] = reduce_image(image, scale, self.plan.arithmetic), file
        return Item(key, images, rows)

    def estimate(self, store: Path, partial: Path, progress: Callable[[int], object]) -> Estimate:
        """Read the headers of all files, to find unreadable files and the size of the store before images are decoded.

        Raises BadFilesError that lists all unreadable files, unless ``skip_bad`` is true. Raises OSError if the disk is
        too small.
        """
        good: dict[str, Header] = {}
        total = 0
        for key, sizes in self._results(self._sizes, self.files):
            if sizes is not None:
                good[key] = sizes[0]
                total += sizes[1]
            progress(1)
        self.bad += self._check(good)
        if self.maker is not None:
            self._workers = workers_for(good, self._workers)
        if self.bad and not self._skip_bad:
            # The build fails anyway; decode the other files too, so that one list contains all bad files.
            for _ in self._results(self._item, good):
                progress(1)
        self.raise_bad()
        self.files = {key: self.files[key] for key in good}
        self.raise_none()
        parent = store.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        available = free + sum(file.stat().st_size for file in partial.glob("*"))
        if total * _OVERHEAD > available:
            raise OSError(
                f"{parent}: the store needs about {total * _OVERHEAD / 1e9:.2f} GB, but only {available / 1e9:.2f} GB are free"
            )
        return Estimate(len(good), total, free)

    def discard_copies(self) -> None:
        """Delete the decompressed copies of the archives that were read."""
        for files in (self.files, *self.lr.values()):
            discard_copies(files)

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


def _bytes(header: Header) -> int:
    return header.height * header.width * header.channels * header.dtype.itemsize


def _decoded(path: InputFile) -> tuple[Image, tuple[int, int, int]]:
    """Return an image, and size, modification time and CRC-32 of its file."""
    try:
        data = path.read_bytes()
        status = path.stat()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from None
    return decode_image(data, path), (len(data), status.st_mtime_ns, zlib.crc32(data))


def check_fit(path: InputFile, scale: int, low: Sequence[int], high: Sequence[int]) -> None:
    """Raise ImageError unless LR has the size of HR divided by ``scale`` and rounded down.

    Training and scores crop HR to ``scale`` times LR, so up to ``scale`` - 1 rows and columns of HR may be left over. LR that
    is rounded up has pixels that belong to no HR pixels; programs differ in where its grid lies.
    """
    (height, width), (low_height, low_width) = high, low
    surplus = (height - low_height * scale, width - low_width * scale)
    if min(surplus) >= 0 and max(surplus) < scale:
        return
    if (low_height, low_width) == (-(-height // scale), -(-width // scale)):
        hint = (
            f"LR is rounded up: crop HR to a multiple of {scale} before it is reduced, or leave lr= out to have LR made"
        )
    elif low_height > height:
        hint = "are HR and LR swapped?"
    else:
        hint = f"x{scale} of {width}x{height} is {width // scale}x{height // scale}"
    raise ImageError(f"{path}: LR {low_width}x{low_height} does not fit HR {width}x{height} at scale {scale}; {hint}")
