"""One line about a finished store."""

from __future__ import annotations

import os

from sr_train.console import counted
from sr_train.data.store.reader import Store


def describe_store(path: str | os.PathLike[str]) -> str:
    """Return the number of images, the scales and the size of a store: ``x.lmdb: 5 images, LR x2, 3.4 MB``."""
    store = Store(path)
    lr = "".join(f", LR x{s}" for s in store.scales if s != 1)
    return f"{path}: {counted(len(store.keys()), 'image')}{lr}, {store.size / 1e6:,.1f} MB"
