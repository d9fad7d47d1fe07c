"""Parts of building a store next to the images: one writer, recognition of files, work done ahead."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sr_train.data.store_index import Record

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
