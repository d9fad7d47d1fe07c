"""Writing files so that a crash leaves the old one or the new one, never half of one."""

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
    """Name the file in an OSError that names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(path)) from None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, synced, then renamed."""
    path = Path(path)
    try:
        _write(path, data)
    except OSError as error:
        raise OSError(
            error.errno, error.strerror or str(error), str(path)
        ) from None  # a full disk names no file by itself


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
    os.chmod(temporary, 0o666 & ~mask)  # noqa: PTH101 - mkstemp made it private
    os.replace(temporary, path)  # noqa: PTH105


@contextmanager
def unfinished(path: Path) -> Iterator[BinaryIO]:
    """A file to be written piece by piece: under a hidden name beside ``path``, which it gets when it is complete and synced.

    Removed where an error or Ctrl-C leaves the ``with``. What a killed process left of the same file is removed first; what
    another one is still writing is not.
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
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # a full disk names no file by itself
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise


def lock_file(handle: int) -> bool:
    """Lock an open file or folder for this process until it ends or closes it, or return False; True without such locks."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # others: the file system has none
    return True


def _in_use(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            return not lock_file(file.fileno())
    except OSError:
        return False


def remove_leftovers(folder: Path) -> None:
    """Remove what :func:`write_bytes` had not finished when its process was killed. For the folder's only writer."""
    for left in folder.glob(".*.part"):
        left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
