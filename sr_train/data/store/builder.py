"""Building a store (LMDB of images for training) from images, or adding LR images of more scales to a store.

Images are decoded in parallel. A killed build can be continued. The store gets its final name at the end.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sr_train.console import counted
from sr_train.data.archives import InputFile, Member
from sr_train.data.degradation.whole import WholeMaker
from sr_train.data.images import Header
from sr_train.data.store.disk_errors import explained
from sr_train.data.store.drawn import DrawnTable
from sr_train.data.store.format import FORMAT, GIVEN, VERSION, Record, part_name
from sr_train.data.store.partial import Partial, writer_lock
from sr_train.data.store.reader import Store
from sr_train.data.store.scan import Estimate, Inputs, Item, Reduction
from sr_train.files import remove_leftovers
from sr_train.resampling import Arithmetic, check_arithmetic

_COMMIT_BYTES = 128 << 20  # a kill loses at most this much, or the work of _COMMIT_SECONDS

_COMMIT_SECONDS = 1.0

_DEGRADED = "degrade "  # first word of the name of a WholeMaker


class Report(NamedTuple):
    """Result of building a store."""

    written: int  #: images written by this build
    kept: int  #: images written by an earlier build
    size: int  #: size of data.mdb in bytes
    skipped: list[str]  #: bad files that were left out, with reasons


class StoreBuilder:
    """Builder that makes a store (LMDB of images for training) from the images in a folder.

    A finished store is extended: LR of the scales that it lacks is made from its HR pixels and added as a folder of its
    own, ``NAME.lmdb/lr_x3``. Nothing that is there is changed, so the store can be read meanwhile.

    Args:
        images: folder of images, with its subfolders and archives, an archive, a path inside an archive, or an LMDB of
            BasicSR.
        store: the ``NAME.lmdb`` folder to make.
        scales: scales of the LR images to store next to each image. They are made by bicubic reduction, after the image
            is cropped to a multiple of the scale.
        arithmetic: name of the rounding rules of the reduction, see :mod:`sr_train.resampling`.
        workers: number of threads that decode and reduce images.
        skip_bad: true to leave unreadable images out; false to raise an error.
        files: {key: file} of the images to store; default: every image below the folder.
        lr: {scale: {key: file}} of given LR images, which are stored instead of reductions. Every image needs one.
        listed: text file with the names of the images to store, if ``files`` is not given.
        check: function from the headers of all readable files to a list of problems; called before writing.
        maker: maker of LR instead of bicubic reduction. ``degradation.csv`` in the store then lists what was drawn.
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
        lr: Mapping[int, Mapping[str, InputFile]] | None = None,
        listed: str | None = None,
        check: Callable[[Mapping[str, Header]], list[str]] = lambda headers: [],
        maker: WholeMaker | None = None,
    ) -> None:
        check_arithmetic(arithmetic)
        lr = dict(lr or {})
        if any(s < 2 for s in scales) or len(set(scales)) != len(scales) or not lr.keys() <= set(scales):
            raise ValueError(
                f"scales={list(scales)}: give integers of at least 2, each once, e.g. scales=[2,3,4]"
                + (f"; LR is given for {sorted(lr)}" if lr else "")
            )
        self.store = Path(store)
        if self.store.suffix != ".lmdb":
            raise ValueError(
                f"store={store}: give a name that ends in .lmdb, e.g. store={self.store.with_suffix('.lmdb')}"
            )
        self.partial = self.store.with_name(self.store.name + ".partial")
        made = arithmetic if maker is None else maker.name
        self.plan = Reduction(tuple(sorted(scales)), made, tuple(sorted(lr)))
        self.maker = maker
        options: dict[str, Any] = {"workers": workers, "skip_bad": skip_bad, "listed": listed, "check": check}
        copies = self.store.absolute().parent
        self.inputs = Inputs(Path(images), self.plan, files=files, lr=lr, copies=copies, maker=maker, **options)

    @property
    def added(self) -> list[int]:
        """Scales that are added to a finished store, after :meth:`complete`; empty if the store is new."""
        return list(self.inputs.plan.scales) if self.inputs.base is not None else []

    def estimate(self, progress: Callable[[int], object] = lambda n: None) -> Estimate:
        """Check the input images and the free disk space before anything is written; see :meth:`.scan.Inputs.estimate`."""
        return self.inputs.estimate(self.store, self.partial, progress)

    def complete(self) -> bool:
        """Return True if the store exists, was made from the same files, and contains all scales.

        If it lacks scales, return False; the build then adds them. Raises FileExistsError if it has other contents.
        """
        if not self.store.exists():
            return False
        store = Store(self.store)
        self._check_made(store)
        self._check_files(store)
        missing = tuple(s for s in self.plan.scales if s not in store.scales)
        if not missing:
            self.inputs.discard_copies()
            return True
        given = tuple(s for s in self.plan.given if s in missing)
        self.plan = Reduction(missing, self.plan.arithmetic, given, store.base)
        self.inputs.extend(store, self.plan)
        return False

    def _check_made(self, store: Store) -> None:
        """Raise FileExistsError if the store has LR of a requested scale that was made in another way."""
        for scale in self.plan.scales:
            made, wanted = store.made.get(scale), self.plan.made[scale]
            if made in (None, wanted):
                continue
            rest = [s for s in self.plan.scales if s not in store.made]
            remedy = f"leave x{scale} out (scales={_shown(rest)})" if rest else f"leave x{scale} out"
            if GIVEN not in (made, wanted) and not any(text.startswith(_DEGRADED) for text in (str(made), wanted)):
                remedy = f"give arithmetic={made}, {remedy}"
            raise FileExistsError(
                f"{self.store}: its LR of x{scale} {_made_text(made)}, but {_asked_text(wanted)}; {remedy}, or give another "
                "store="
            )

    def _check_files(self, store: Store) -> None:
        """Raise FileExistsError if the input files are not those that the store was made from."""
        left_out = set(store.summary.get("skipped", []))
        changed = set(store.records[1].keys() ^ (self.inputs.files.keys() - left_out))
        for scale, files in {1: self.inputs.files, **self.inputs.lr}.items():
            records = store.records.get(scale, {})
            changed |= {k for k, p in files.items() if k in records and not _same_file(records[k], p)}
        if changed:
            names = ", ".join(sorted(changed)[:5]) + (", ..." if len(changed) > 5 else "")
            raise FileExistsError(
                f"{self.store}: exists, but {self.inputs.images} has changed since: "
                f"{counted(len(changed), 'image')} added, removed or changed ({names}); give another store=, or delete this one"
            )

    def build(self, progress: Callable[[int], object] = lambda n: None) -> Report:
        """Write every missing image, then give the store its final name.

        A killed build is continued. Raises BadFilesError if some images cannot be decoded; the other images are kept.
        Raises OSError if the disk is full or the file may not grow; images that are already written are kept.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.partial):
            remove_leftovers(self.partial)
            with explained(self.partial):
                return self._build(progress)

    def _build(self, progress: Callable[[int], object]) -> Report:
        partial = Partial(self.partial, self.plan)
        table = None if self.maker is None else DrawnTable(self.partial)
        try:
            done = partial.reconcile(self.inputs.written_scales, self._kept(table))
            progress(len(done))
            pending: list[Item] = []
            size, last = 0, time.monotonic()
            for item in self.inputs.load([key for key in self.inputs.files if key not in done]):
                if item is not None:
                    pending.append(item)
                    size += sum(image.nbytes for image, _ in item.images.values())
                if size >= _COMMIT_BYTES or time.monotonic() - last >= _COMMIT_SECONDS:
                    _commit(partial, table, pending)
                    pending, size, last = [], 0, time.monotonic()
                progress(1)
            _commit(partial, table, pending)
            self.inputs.raise_bad()
            self.inputs.raise_none()
            partial.finish(self._summary())
            if table is not None:
                table.finish(self.inputs.files)
        finally:
            partial.close()
        place = self.store if self.inputs.base is None else self.store / part_name(self.plan.scales)
        partial.rename(place)
        self.inputs.discard_copies()
        kept = len(done)
        return Report(len(self.inputs.files) - kept, kept, (place / "data.mdb").stat().st_size, self.inputs.bad)

    def _kept(self, table: DrawnTable | None) -> Callable[[int, str, Record], bool]:
        """Return a function that returns true for an image in the partial store that need not be made again."""

        def kept(scale: int, key: str, record: Record) -> bool:
            made = scale in self.plan.scales and scale not in self.plan.given
            number = None if table is None or (scale, key) not in table.rows else table.rows[scale, key].number
            return self._is_current(scale, key, record) and (
                table is None or not made or number == self.inputs.numbers[key]
            )

        return kept

    def _is_current(self, scale: int, key: str, record: Record) -> bool:
        """Return True if an image in the partial store was made from the file of this build."""
        base = self.inputs.base
        if key not in self.inputs.files:
            return False
        if scale in self.inputs.lr:
            return _same_file(record, self.inputs.lr[scale][key])
        if base is not None:
            return record.file == base.records[1][key].file
        return _same_file(record, self.inputs.files[key])

    def _summary(self) -> dict[str, Any]:
        written = self.inputs.written_scales
        base = {} if self.plan.base is None else {"of": self.plan.base}
        return (
            base
            | {
                "format": FORMAT,
                "version": VERSION,
                "scales": list(self.plan.scales),
                "arithmetic": self.plan.arithmetic,
                "lr": {str(scale): made for scale, made in self.plan.made.items()},
                "counts": {str(s): len(self.inputs.files) for s in written},
                "skipped": sorted(self.inputs.listed - self.inputs.files.keys()),
            }
            | ({} if self.maker is None else {"degrade": self.maker.config, "seed": self.maker.seed})
        )


def _commit(partial: Partial, table: DrawnTable | None, items: Sequence[Item]) -> None:
    """Write images to a partial store, and before them what was drawn for them."""
    if table is not None:
        table.add(row for item in items for row in item.drawn)
    partial.commit(items)


def _shown(scales: Sequence[int]) -> str:
    return f"[{','.join(map(str, scales))}]"


def _made_text(made: str | None) -> str:
    if str(made).startswith(_DEGRADED):
        return f"was made by {made}"
    return "is that of given files" if made == GIVEN else f"was made with arithmetic={made}"


def _asked_text(wanted: str) -> str:
    if wanted.startswith(_DEGRADED):
        return f"{wanted} is requested"
    return "lr= is given now" if wanted == GIVEN else f"arithmetic={wanted} is requested"


def _same_file(record: Record, path: InputFile) -> bool:
    """Return True if a store's record (entry of one image) was made from this file: equal size and time, or contents."""
    try:
        status = path.stat()
        if status.st_size != record.file_size:
            return False
        if isinstance(path, Member) and path.crc is not None:
            return path.crc == record.file_crc
        return status.st_mtime_ns == record.file_mtime or zlib.crc32(path.read_bytes()) == record.file_crc
    except OSError:
        return False
