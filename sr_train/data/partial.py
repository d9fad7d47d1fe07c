"""What building a store needs beside the images: one writer, files known again, offsets found, work done ahead."""

from __future__ import annotations

import mmap
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import numpy as np

from sr_train.data.store import MARK, Record, StoreError, checksum, mark_bytes, pixel_name, walk_records

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


def find_offsets(folder: Path, environment: lmdb.Environment) -> bytes:
    """Where in the file the mark and each image's pixels stand. Committed pages of a value of their own never move.

    LMDB tells addresses in its map only; the mark, searched in the file, tells where the map begins.
    """
    mark = mark_bytes()
    with (
        environment.begin(buffers=True) as transaction,
        (folder / "data.mdb").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        records = list(walk_records(transaction))
        names = [MARK, *(pixel_name(scale, key) for scale, key, _ in records)]
        values = [memoryview(transaction.get(name) or b"") for name in names]
        addresses = np.array([np.frombuffer(v, np.uint8).ctypes.data for v in values], np.int64)
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:  # a freed copy of the mark may stand before it
            offsets = addresses - addresses[0] + at
            if all(data[o : o + 64] == bytes(v[:64]) for o, v in zip(offsets.tolist(), values, strict=True)):
                found = offsets.astype("<u8").tobytes()
                return found + checksum(records, found).to_bytes(8, "little")
    raise StoreError(f"{folder}: the pixels were not found in the file; delete it and run sr-prepare again")


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
