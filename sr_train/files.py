"""Write files atomically: after a crash there is the old file or the new one, never a part of it."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path to an OSError without a file name, e.g. that of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(path)) from None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically: to a temporary file in the same folder, which is synced and renamed."""
    path = Path(path)
    try:
        _write(path, data)
    except OSError as error:
        raise OSError(
            error.errno, error.strerror or str(error), str(path)
        ) from None  # the error of a full disk has no file name


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _finish(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _finish(temporary: str, path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)  # noqa: PTH101 - mkstemp creates it with mode 0600
    os.replace(temporary, path)  # noqa: PTH105


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden temporary file next to ``path`` for writing; at the end, sync it and rename it to ``path``.

    An error or Ctrl-C inside the ``with`` removes the temporary file. Temporary files of killed processes are removed first;
    those that another process is writing (they are locked) stay.
    """
    start = f".{path.name[:100]}."
    for left in path.parent.iterdir():
        if left.name.startswith(start) and left.name.endswith(".part") and not _in_use(left):
            left.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=start, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            lock_file(handle)
            yield file
            file.flush()
            os.fsync(handle)
        _finish(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # the error of a full disk has no file name
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise


def lock_file(handle: int) -> bool:
    """Lock an open file or folder until it is closed. Return false if another process has locked it.

    Return true on systems without such locks.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # other errors: the file system has no locks
    return True


def _in_use(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            return not lock_file(file.fileno())
    except OSError:
        return False


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of :func:`write_bytes` in a killed process. Only the folder's single writer may call this."""
    for left in folder.glob(".*.part"):
        left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
