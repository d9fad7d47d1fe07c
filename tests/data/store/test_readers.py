"""Readers in other processes, many at once."""

import multiprocessing
import operator
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stores import change, picture, pixels, prepare, stamps

from sr_train.data.store.format import is_store
from sr_train.data.store.reader import Store


def test_reading_writes_nothing_and_needs_no_write_permission(stored):
    before = stamps(stored)
    for path in (*stored.iterdir(), stored, stored.parent):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        store = Store(stored)
        assert all(store.verify(s, k) is None for s in store.scales for k in store.keys(s))
        assert stamps(stored) == before
    finally:
        for path in (stored.parent, stored, *stored.iterdir()):
            path.chmod(path.stat().st_mode | 0o700)
    assert not list(stored.parent.rglob("lock.mdb"))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_store_is_read_in_other_processes(stored, method):
    store = Store(stored)
    expected = store.view(1, "more/deep").copy()  # opened here before the others inherit it
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:  # a Pool may hang at its end
        calls = [operator.methodcaller("crop", 1, "more/deep", k, 2, 20, 9) for k in range(8)]
        crops = [pool.submit(call, store) for call in calls]
        for k, crop in enumerate(crops):
            assert np.array_equal(crop.result(60), expected[k : k + 20, 2:11])
        assert pool.submit(Store, stored).result(60).keys() == store.keys()
    assert np.array_equal(store.view(1, "more/deep"), expected)


def test_a_pickled_store_is_small_and_opens_again(stored):
    store = Store(stored)
    expected = pixels(store)
    again = pickle.loads(pickle.dumps(store))
    assert again.summary == store.summary
    assert all(np.array_equal(v, expected[k]) for k, v in pixels(again).items())
    assert len(pickle.dumps(store)) < 10_000 < (stored / "data.mdb").stat().st_size


def test_one_store_may_be_open_many_times(stored):
    stores = [Store(stored), Store(Path(os.path.relpath(stored))), Store(str(stored))]
    for k in range(8):
        for store in stores:
            assert np.array_equal(store.view(1, f"{k:04d}"), picture(k, 30 + k, 47 - k))
    del stores[0]
    assert all(store.verify(1, "0000") is None for store in stores)


def test_a_store_that_was_made_again_is_read_again(stored, folder):
    old = Store(stored)
    before = old.view(1, "0003")
    shutil.rmtree(stored)
    change(folder)
    prepare(folder, stored)
    assert np.array_equal(Store(stored).view(1, "0003"), picture(98))
    assert np.array_equal(before, picture(3, 33, 44))  # whoever has the old one open keeps it


def test_a_store_is_known_by_its_name_or_by_what_it_holds(stored, folder, tmp_path):
    assert is_store(stored)
    assert is_store("missing.lmdb")
    assert not is_store(folder)
    stored.rename(tmp_path / "renamed")
    assert is_store(tmp_path / "renamed")
    assert len(Store(tmp_path / "renamed").keys()) == 12
