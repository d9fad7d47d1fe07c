"""Messages that tell the user what to do if LMDB fails while a store is built.

The causes are a full disk, a limit of the file's size, or a damaged file.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from sr_train.data.store.format import StoreError

if sys.platform != "win32":
    import resource

#: LMDB returns EIO for a short write: the rest of the disk, of a quota or of ``ulimit -f`` holds only a part of the pages.
_WRITES = (errno.EIO, errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else []))


@contextmanager
def explained(partial: Path) -> Generator[None]:
    """Convert LMDB's errors in the ``with`` block: raise OSError for a failed write to ``partial``, StoreError for damage."""
    try:
        yield
    except lmdb.CorruptedError as error:
        raise StoreError(f"{partial}: damaged ({error}); delete it and run sr-prepare again") from None
    except lmdb.Error as error:
        if not could_not_write(error):
            raise
        limit = _size_limit()
        if limit is not None and _size(partial / "data.mdb") + 4096 > limit:  # LMDB writes in pages
            raise OSError(
                f"{partial}: data.mdb has reached the largest file size that this shell allows, {limit} bytes ({error}); "
                "raise the limit (ulimit -f unlimited) and run the same command again; images already written are kept"
            ) from None
        raise OSError(
            f"{partial}: the disk is full or failing ({error}); free some space and run the same command again; "
            "images already written are kept"
        ) from None


def could_not_write(error: lmdb.Error) -> bool:
    """Return True if LMDB could not write to the disk.

    lmdb has an error class for a full disk (ENOSPC) only. Other disk errors are recognized by their text.
    """
    return isinstance(error, lmdb.DiskError) or str(error).endswith(tuple(os.strerror(number) for number in _WRITES))


def _size_limit() -> int | None:
    """Return the largest size of a file that this process may write, in bytes; None if there is no limit."""
    if sys.platform == "win32":
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
