"""Small stores for tests: how they are made, changed, interrupted and compared."""

import lmdb
import numpy as np

from sr_train.data.images import write_image
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.reader import Store

SCALES = [2, 3]


def picture(number, height=40, width=51, channels=3, dtype=np.uint8):
    random = np.random.default_rng(number)
    return random.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def prepare(images, store, scales=SCALES, **options):
    """Build a store as sr-prepare does; returns its report, or None if there is nothing to do."""
    builder = StoreBuilder(images, store, scales=scales, **options)
    if builder.complete():
        return None
    builder.estimate()
    return builder.build()


def dump(path):
    """Every key and value of an LMDB."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def pixels(store):
    return {(scale, key): store.view(scale, key).copy() for scale in store.scales for key in store.keys(scale)}


def assert_same_store(one, other):
    assert dump(one) == dump(other)
    a, b = pixels(Store(one)), pixels(Store(other))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    assert all(Store(one).verify(*k) is None for k in a)


def stamps(path):
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in path.iterdir()}


def files_below(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def add(folder):
    write_image(folder / "new.png", picture(99))
    return "new"


def remove(folder):
    (folder / "0002.png").unlink()
    return "0002"


def change(folder):
    write_image(folder / "0003.png", picture(98))
    return "0003"


def change_keeping_size(folder):
    path = folder / "more" / "dot.bmp"
    size = path.stat().st_size
    write_image(path, picture(97, 3, 3))
    assert path.stat().st_size == size
    return "more/dot"


class Kill(Exception):  # noqa: N818 - not an error
    """Stands for a kill, where a real one would hit too rarely."""


def interrupt(monkeypatch, where, name, calls):
    """Raise at one call of a function, the calls before it work."""
    original, count = getattr(where, name), [0]

    def broken(*arguments, **options):
        count[0] += 1
        if count[0] > calls:
            raise Kill
        return original(*arguments, **options)

    monkeypatch.setattr(where, name, broken)


def rewrite(path, **items):
    """Put values into a store behind its back; its index would no longer fit."""
    (path / "index").unlink(missing_ok=True)
    with (
        lmdb.open(str(path), map_size=1 << 24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in items.items():
            transaction.put(key.encode(), value)
