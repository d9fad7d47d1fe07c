"""Lock of a run's folder.

One process at a time holds the lock. The lock is released when the process ends for any reason.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from sr_train.files import naming, retried

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

fcntl: ModuleType | None = _fcntl

PATIENCE = 15.0  # seconds: the loader workers of a killed run may end a little later than the run

HEARTBEAT = 10.0  # seconds between two heartbeats of a holder, on a file system without locks

_MISSED = 3  # heartbeats: a holder that missed more counts as ended

_FREE = "free"  # content of a released claim

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def _who(token: str = "") -> str:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **({"token": token} if token else {})})


def lock_file(run_folder: Path) -> Path:
    """Return the path of a run's lock file.

    The lock file is next to the run's folder, so the folder can be moved while the run is locked.
    """
    return run_folder.parent / f".{run_folder.name}.lock"


@contextmanager
def hold(run_folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a run inside the ``with`` block.

    Raise FileExistsError with the holder's name if another process keeps the lock for more than ``patience`` seconds.
    The lock is an fcntl record lock, which belongs to this process alone: loader workers, which may end a second after
    a kill -9, do not inherit the lock. On a file system without locks, numbered claim files are used (:func:`_claim`).
    """
    path = lock_file(run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, locked = retried(lambda: _open(path, run_folder, patience), path)
    try:
        if locked:
            yield
        else:
            with _claim(path, run_folder, patience):
                yield
    finally:
        os.close(handle)


def _open(path: Path, run_folder: Path, patience: float) -> tuple[int, bool]:
    """Open the lock file and lock it.

    Return (handle of the file, true); (handle, false) if the file system has no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        locked = fcntl is not None and _record_lock(handle, path, run_folder, patience)
        if locked:
            with naming(path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, _who().encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    return handle, locked


def is_held(run_folder: Path) -> bool:
    """Return true if another process holds the lock of a run. On a file system without locks, return false."""
    path = lock_file(run_folder)
    if fcntl is None or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _refuse(path: Path, run_folder: Path, seen: str = "") -> FileExistsError:
    try:
        who = json.loads(path.read_text())
        holder = f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        holder = "another process"
    return FileExistsError(
        f"{run_folder}: is being written by {holder}{seen}; wait until it ends, stop it, or give another name=..."
    )


def _record_lock(handle: int, path: Path, run_folder: Path, patience: float) -> bool:
    assert fcntl is not None
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
        if time.monotonic() > deadline:
            raise _refuse(path, run_folder)
        time.sleep(0.2)


def _newest(path: Path) -> int:
    """Return the highest number N of a lock's claim files ``LOCKFILE.N`` (see :func:`_claim`); 0 if there is no claim file."""
    numbered = re.compile(rf"{re.escape(path.name)}\.(\d+)")
    return max((int(m[1]) for p in path.parent.iterdir() if (m := numbered.fullmatch(p.name))), default=0)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _write(handle: int, text: str) -> None:
    """Write a text to an open file from its start, and sync it. The file system sets the file's time, not this host."""
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, text.encode())
    os.fsync(handle)


def _age(claim: Path) -> float | None:
    """Return the seconds since the last heartbeat of a claim file; None for a claim that was released or removed.

    A process that holds the lock writes its claim file regularly (heartbeat), see :func:`_claim`. Both times come from
    the file system, because the clocks of two hosts may differ by more than the maximum age of a claim. The file is
    opened, because a network file system may return a cached time for a file that is not open.
    """
    try:
        with claim.open("rb") as file:
            content, touched = file.read().decode(errors="replace"), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    if content == _FREE:
        return None
    with tempfile.NamedTemporaryFile(prefix=f".{claim.name[:100]}.", suffix=".now", dir=claim.parent) as now:
        _write(now.fileno(), "now")
        return os.fstat(now.fileno()).st_mtime - touched


def _take(path: Path, number: int, text: str) -> int | None:
    """Create the claim file ``LOCKFILE.number`` (see :func:`_claim`) and return its handle.

    Return None if another process has a claim file with this number or a higher number.
    """
    claim = _numbered(path, number)
    try:
        handle = os.open(claim, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    with naming(path):
        _write(handle, text)
    if _newest(path) == number:
        return handle
    os.close(handle)
    claim.unlink(missing_ok=True)
    return None


def _win(path: Path, run_folder: Path, patience: float, text: str) -> tuple[int, int]:
    """Wait until the newest claim file (see :func:`_claim`) is free, and create the next one.

    Return its number and handle. Raise FileExistsError if the newest claim is still in use after ``patience`` seconds.
    """
    deadline, limit = time.monotonic() + patience, _MISSED * HEARTBEAT
    while True:
        newest = _newest(path)
        age = _age(_numbered(path, newest))
        if age is None or age > limit:
            handle = _take(path, newest + 1, text)
            if handle is not None:
                return newest + 1, handle
        elif time.monotonic() > deadline:
            seen = f" (last heartbeat {max(age, 0):.0f} s ago; after {limit:.0f} s the process counts as ended)"
            raise _refuse(_numbered(path, newest), run_folder, seen)
        time.sleep(0.05)


@contextmanager
def _claim(path: Path, run_folder: Path, patience: float) -> Iterator[None]:
    """Hold a run's lock on a file system without locks, with numbered claim files ``LOCKFILE.1``, ``LOCKFILE.2``, ...

    The process that has created the file with the highest number holds the lock. Another process may create the next
    number when this claim was released, or when its heartbeat has stopped. If several processes try this at the same
    time, they try the same number, and only one of them can create the file. A slow process with an old list of the
    files may create a number that was used and removed in the meantime. This process then
    always finds a file with a higher number and gives up, because the file with the highest number is never removed.
    """
    text = _who(uuid.uuid4().hex)
    number, handle = _win(path, run_folder, patience, text)
    for old in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if old.suffix[1:].isdecimal() and int(old.suffix[1:]) < number:
            old.unlink(missing_ok=True)
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, number, handle, text, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(OSError):
            os.ftruncate(handle, 0)
            _write(handle, _FREE)
        os.close(handle)


def _beat(path: Path, number: int, handle: int, text: str, done: threading.Event) -> None:
    """Write a heartbeat to this process's claim file (see :func:`_claim`) every ``HEARTBEAT`` seconds, until ``done`` is set.

    The open handle of the file is used, because it never refers to a claim file of another process. If this process was
    suspended for a long time, another process may have taken the lock. Then this process is stopped, because only one
    process may write.
    """
    while not done.wait(HEARTBEAT):
        with suppress(OSError):  # the network may fail for a moment
            try:
                _write(handle, text)
            except OSError:
                _reopen(_numbered(path, number), handle, text)
                _write(handle, text)
            if _newest(path) > number:
                sys.stderr.write(
                    f"{path}: another process took over this run: the heartbeat of this process had stopped\n"
                )
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _reopen(claim: Path, handle: int, text: str) -> None:
    """Open this process's claim file again if its handle is stale, and let ``handle`` refer to the new open file.

    The handle is changed only if the file still contains ``text``, which identifies this process.
    """
    new = os.open(claim, os.O_RDWR)
    try:
        if os.read(new, len(text) + 1) == text.encode():
            os.dup2(new, handle, inheritable=False)
    finally:
        os.close(new)
