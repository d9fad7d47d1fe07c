"""Copies of stores (LMDBs of sr-train) on a local disk of the node.

One process of the node makes a copy, and all processes of the node use the copy.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from sr_train.console import say
from sr_train.data.store.format import INDEX, OFFSETS, PART, StoreError
from sr_train.data.store.reader import Store
from sr_train.files import Reader, lock_file, naming, sync_folder, write_all

_CHUNK = 8 << 20  # bytes of one read

_UNSET = re.compile(r"\$\{?(\w+)\}?")


def local_folder(given: str) -> Path:
    """Return the folder of ``data.stage=DIR``. Environment variables and ``~`` in DIR are expanded."""
    folder = Path(os.path.expandvars(given)).expanduser().absolute()
    unset = _UNSET.search(str(folder))
    if unset is not None:
        raise ValueError(
            f"data.stage={given}: the environment variable {unset[1]} is not set; set it, or give a folder"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"data.stage={given}: {folder} is a file; give a folder on a local disk")
    return folder


def use_copies(stores: Sequence[Store], folder: Path) -> None:
    """Let stores read their pixels from copies in ``folder``. Make the copies that are missing.

    The name of a copy contains a digest of the store's content, so an outdated copy is never used. If another process
    is making the copy, this process waits.
    """
    todo = {store.digest: store for store in stores if store.path.parent != folder}
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space([store for store in todo.values() if not _is_copy(_place(store, folder), store)], folder)
    for digest, store in todo.items():
        copy = _make(store, folder)
        say(f"{store.path}: is read from its copy {copy}")
        for other in stores:
            if other.digest == digest:
                other.use(copy)


def _place(store: Store, folder: Path) -> Path:
    return folder / f"{store.path.stem}-{store.digest}.lmdb"


def _files(store: Path) -> list[Path]:
    folders = [store, *sorted(store.glob(f"{PART}*"))]
    return [folder / name for folder in folders for name in ("data.mdb", INDEX, OFFSETS) if (folder / name).exists()]


def _sizes(store: Path) -> dict[str, int]:
    return {file.relative_to(store).as_posix(): file.stat().st_size for file in _files(store)}


def _is_copy(path: Path, store: Store) -> bool:
    """Return true if ``path`` is a complete copy of a store: the same files and sizes, and the same index and summary."""
    try:
        return _sizes(path) == _sizes(store.path) and Store(path).digest == store.digest
    except StoreError:
        return False


def _check_space(stores: Sequence[Store], folder: Path) -> None:
    """Raise ValueError if the copies do not fit on the disk."""
    needed, free = sum(sum(_sizes(store.path).values()) for store in stores), shutil.disk_usage(folder).free
    if needed > free:
        names = ", ".join(str(store.path) for store in stores)
        old = sorted(p.name for store in stores for p in folder.glob(f"{store.path.stem}-*.lmdb"))
        remove = f"; copies that may be outdated, and that you can delete: {', '.join(old)}" if old else ""
        raise ValueError(
            f"data.stage={folder}: copies of {names} need {_size(needed)}, but {_size(free)} are free{remove}; give another "
            "folder, or data.stage=null to read the stores where they are"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _make(store: Store, folder: Path) -> Path:
    """Return the path of a store's copy.

    Make the copy if it is missing; a lock lets only one process do this at a time.
    """
    place = _place(store, folder)
    with _alone(folder / f".{place.name}.lock", store):
        if not _is_copy(place, store):
            for left in (place, *folder.glob(f".{place.name}.*.partial")):  # damaged, or of a killed process
                shutil.rmtree(left, ignore_errors=True)
            _check_space([store], folder)
            _copy(store, place)
    return place


@contextmanager
def _alone(lock: Path, store: Store) -> Generator[None]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        waits = False
        while not lock_file(handle):
            if not waits:
                say(f"{store.path}: waiting until another process of this node has copied it to {lock.parent}")
            waits = True
            time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def _copy(store: Store, place: Path) -> None:
    """Copy a store to a temporary folder, compare the copy with the store, and rename the temporary folder to ``place``."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    temporary.chmod(0o755)  # mkdtemp hides it from other users
    sizes = _sizes(store.path)
    try:
        with tqdm(total=sum(sizes.values()), desc=f"copying {store.path.name}", unit="B", unit_scale=True) as bar:
            for name, size in sizes.items():
                _copy_file(store.path / name, temporary / name, size, bar)
        sync_folder(temporary)
        if not _is_copy(temporary, store):
            raise StoreError(
                f"{store.path}: was changed while it was copied to {place.parent}; run the same command again"
            )
        temporary.replace(place)
        sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _copy_file(source: Path, target: Path, size: int, bar: tqdm[NoReturn]) -> None:
    reader = Reader(source)
    target.parent.mkdir(exist_ok=True)
    with naming(target):
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        try:
            for at in range(0, size, _CHUNK):
                data = reader.read(at, min(_CHUNK, size - at))
                write_all(handle, data)
                bar.update(len(data))
            os.fsync(handle)
        finally:
            os.close(handle)
            reader.close()
