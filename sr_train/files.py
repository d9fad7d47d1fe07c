"""Writing files so that a crash leaves the old one or the new one, never half of one; and whether an archive is whole."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path


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
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # noqa: PTH101 - mkstemp made it private
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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


def archive_problem(path: Path) -> str | None:
    """What is wrong with one of torch's archives, or None; raises what ``zipfile`` meets in one that is none.

    torch does not look at the checksums, and unpacks a compressed archive to whatever it says that it holds.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
        if packed or sum(m.file_size for m in members) > path.stat().st_size:
            return "a compressed archive; torch's own are not: unpack it first"
        spoiled = archive.testzip()
    return None if spoiled is None else f"damaged: the checksum of {spoiled} differs; copy or download it again"
