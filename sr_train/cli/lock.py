"""One run folder, one run: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from sr_train.files import naming

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

fcntl: ModuleType | None = _fcntl
PATIENCE = 15.0  # seconds: the loader workers of a killed run may outlive it a little
HEARTBEAT = 10.0  # seconds between the signs of life of a holder, where the file system has no locks
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def _who() -> str:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()})


def lock_file(run_folder: Path) -> Path:
    """The lock stands beside the run's folder, so that the folder can be moved while it is held."""
    return run_folder.parent / f".{run_folder.name}.lock"


@contextmanager
def hold(run_folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a run's lock. Raises FileExistsError naming the holder where another process keeps it for ``patience`` seconds.

    An fcntl record lock belongs to this process alone: it is not inherited by loader workers, which outlive a kill -9 by
    a second. Where the file system has no locks, the file's age decides: its holder renews it.
    """
    path = lock_file(run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        supported = fcntl is not None and _record_lock(handle, path, run_folder, patience)
        if supported:
            with naming(path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, _who().encode(), 0)
            yield
        else:
            with _heartbeat(path, run_folder, patience):
                yield
    finally:
        os.close(handle)


def _refuse(path: Path, run_folder: Path) -> FileExistsError:
    try:
        who = json.loads(path.read_text())
        holder = f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        holder = "another process"
    return FileExistsError(
        f"{run_folder}: is being written by {holder}; wait for it, stop it, or give another name=..."
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


@contextmanager
def _heartbeat(path: Path, run_folder: Path, patience: float) -> Iterator[None]:
    """The holder writes its name every HEARTBEAT seconds; a file untouched for three of them is nobody's."""
    deadline = time.monotonic() + patience
    while path.stat().st_size and time.time() - path.stat().st_mtime < 3 * HEARTBEAT and path.read_text() != _who():
        if time.monotonic() > deadline:
            raise _refuse(path, run_folder)
        time.sleep(0.2)
    with naming(path):
        path.write_text(_who())
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT):
            path.write_text(_who())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        path.write_text("")
