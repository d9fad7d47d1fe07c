"""Write files atomically: after a crash, a file has its old or its new content, never a part of the new content.

A read or write that fails with a temporary error of a shared file system is repeated (see :func:`retried`).
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

if sys.platform != "win32":
    import fcntl

PAUSES = (0.1, 0.4, 1.5, 3.0)  # seconds between the attempts of :func:`retried`

_PASSING = frozenset(  # stale handles, time-outs, a server that restarts; not every system has every number
    getattr(errno, name)
    for name in (
        "ESTALE", "EIO", "EREMOTEIO", "EAGAIN", "EBUSY", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "ECONNRESET", "ECONNABORTED",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH",
    )
    if hasattr(errno, name)
)  # fmt: skip

_Result = TypeVar("_Result")


def may_pass(error: OSError) -> bool:
    """Return true for an error that may be temporary: a shared file system reports it while its server does not answer."""
    return error.errno in _PASSING


def retried(
    attempt: Callable[[], _Result], path: str | os.PathLike[str], pauses: Sequence[float] | None = None
) -> _Result:
    """Return ``attempt()``. If ``attempt`` fails with a temporary error (see :func:`may_pass`), wait and call it again.

    The last error is raised; its message contains the path and what to do. ``attempt`` must write all data again in
    each call, because after a failed fsync the data of earlier writes are lost.
    """
    pauses = PAUSES if pauses is None else pauses
    for pause in pauses:
        try:
            return attempt()
        except OSError as error:
            if not may_pass(error):
                raise
        time.sleep(pause)
    try:
        return attempt()
    except OSError as error:
        if not may_pass(error):
            raise
        reason = (error.strerror or str(error)).partition(" (")[0]
        text = (
            f"{reason} ({len(pauses) + 1} attempts); check that its file system is mounted and answers, then run the same "
            "command again"
        )
        raise OSError(error.errno, text, str(path)) from None


class Lines:
    """Text file to which lines are appended. Lines that cannot be written at once are kept in memory and written later.

    Args:
        path: path of the file. Only one process may write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = ""  #: lines that are not in the file
        self._size: int | None = None  # size without a part of the kept lines
        self._warned = False

    def append(self, text: str) -> None:
        """Append lines. If a shared file system does not answer, warn once and keep the lines in memory."""
        self.kept += text
        try:
            self.flush(PAUSES[:2])
        except OSError as error:
            if not may_pass(error):
                raise
            if not self._warned:
                self._warned = True
                reason = str(error.strerror).partition(";")[0]
                warnings.warn(f"{self.path}: {reason}; the lines are kept and written later", stacklevel=2)

    def flush(self, pauses: Sequence[float] | None = None) -> None:
        """Write the lines that are kept in memory. Raise OSError with the file's name if they cannot be written."""
        if self.kept:
            with naming(self.path):
                retried(self._write, self.path, pauses)
            self.kept, self._size = "", None

    def replace(self, text: str) -> None:
        """Replace the whole file atomically. Forget the lines that are kept in memory."""
        self.kept, self._size = "", None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, text.encode())

    def _write(self) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            if self._size is None:
                self._size = os.fstat(handle).st_size
            else:
                os.ftruncate(handle, self._size)  # an earlier attempt may have written a part
            os.lseek(handle, self._size, os.SEEK_SET)
            write_all(handle, self.kept.encode())
        finally:
            os.close(handle)


class Reader:
    """File that is read at any position.

    A read that fails is repeated with a new handle, because the old handle may be stale. A forked process may use the
    same handle, because a read does not change the handle's position.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def read(self, at: int, length: int) -> bytes:
        """Return ``length`` bytes from position ``at``. Raise OSError with the file's name if they cannot be read."""
        with naming(self.path):
            return retried(lambda: self._read(at, length), self.path)

    def _read(self, at: int, length: int) -> bytes:
        try:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            parts: list[bytes] = []
            while length:
                parts.append(_pread(self._handle, length, at))
                if not parts[-1]:
                    raise OSError(errno.EIO, f"ends at byte {at}, but {length} more were expected")
                at, length = at + len(parts[-1]), length - len(parts[-1])
        except OSError:
            self.close()
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with suppress(OSError):  # a stale handle
                os.close(handle)


def _pread(handle: int, length: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, length, at)
    os.lseek(handle, at, os.SEEK_SET)  # Windows, which does not fork
    return os.read(handle, length)


_NETWORK = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs", "panfs", "pvfs2", "wekafs",
)  # fmt: skip


def on_network(path: str | os.PathLike[str]) -> bool:
    """Return true if a path is on a network file system, e.g. NFS; false if the system has no list of file systems."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    where, best, kind = Path(path).resolve(), -1, ""
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = Path(mount.split()[4].encode().decode("unicode_escape"))
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind in _NETWORK or kind.startswith("fuse.")


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all bytes to an open file. ``os.write`` is repeated, because one call may write only a part."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(handle, left) :]


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path to an OSError without a file name that is raised in the ``with`` block, e.g. the error of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(path)) from None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically: write a temporary file in the same folder, sync it to the disk, and rename it."""
    path = Path(path)
    try:
        retried(lambda: _write(path, data), path)
    except OSError as error:
        raise OSError(
            error.errno, error.strerror or str(error), str(path)
        ) from None  # the error of a full disk has no file name


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        try:
            write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
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
    """Open a hidden temporary file next to ``path`` for writing. At the end, sync the file and rename it to ``path``.

    An error or Ctrl-C inside the ``with`` block removes the temporary file. At the start, temporary files of killed
    processes are removed. Files that another process is writing are locked and are not removed.
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

    Return true if the system or the file system has no locks.
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
    """Remove temporary files that killed processes left in :func:`write_bytes`.

    Only a folder's single writer may call this function.
    """
    for left in folder.glob(".*.part"):
        left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder to the disk, so that renamed files keep their new names after a power failure."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
