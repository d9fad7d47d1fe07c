"""Stores of version 1."""

import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest
from stores import Kill, dump, interrupt, prepare, rewrite, stamps

from sr_train.data.degrade import reduce_image
from sr_train.data.images import write_image
from sr_train.data.store.format import Record, StoreError
from sr_train.data.store.partial import Partial
from sr_train.data.store.reader import Store


@pytest.fixture
def old(tmp_path):
    """A store as sr-train made it when positions were in a file ``offsets`` and LMDB was opened for all else."""
    shutil.unpack_archive(Path(__file__).with_name("store_v1.zip"), tmp_path / "old.lmdb")
    return tmp_path / "old.lmdb"


def ramp(number, height, width, channels=3):
    y, x, c = np.mgrid[:height, :width, :channels]
    return ((y * 3 + x * 5 + c * 7 + number * 11) % 251).astype(np.uint8)


def test_a_store_of_version_1_can_be_read(old):
    store = Store(old)
    expected = {"a": ramp(0, 40, 48), "b": ramp(1, 30, 36), "more/deep": ramp(2, 24, 20, 1).astype(np.uint16) * 257}
    assert store.summary["version"] == 1
    assert store.scales == [1, 2]
    assert store.keys() == list(expected)
    for key, image in expected.items():
        assert np.array_equal(store.view(1, key), image)
        assert store.view(1, key).dtype == image.dtype
        assert np.array_equal(store.crop(1, key, 3, 4, 5, 6), image[3:8, 4:10])
        assert np.array_equal(store.view(2, key), reduce_image(image, 2, "float"))
    assert all(store.verify(s, k) is None for s in store.scales for k in store.keys(s))


def test_a_folder_is_that_of_a_store_of_version_1(old, tmp_path):
    """And one that was changed is told, as with stores of today."""
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name, image in (("a", ramp(0, 40, 48)), ("b", ramp(1, 30, 36)),
                        ("more/deep", ramp(2, 24, 20, 1).astype(np.uint16) * 257)):  # fmt: skip
        write_image(tmp_path / "images" / f"{name}.png", image)
    before = stamps(old)
    assert prepare(tmp_path / "images", old, scales=[2]) is None
    assert stamps(old) == before
    write_image(tmp_path / "images" / "b.png", ramp(9, 30, 36))
    with pytest.raises(FileExistsError, match=r"has changed since: 1 image added, removed or changed \(b\)"):
        prepare(tmp_path / "images", old, scales=[2])


def test_the_file_of_offsets_belongs_to_a_store_of_version_1(old):
    message = r"old\.lmdb: its file 'offsets' is missing or does not fit data\.mdb; .* copy the whole folder"
    (old / "offsets").rename(old / "elsewhere")
    with pytest.raises(StoreError, match=message):
        Store(old)
    whole = (old / "elsewhere").read_bytes()
    for file in (whole[:-16], whole[:-24] + whole[-32:-24] + whole[-16:], whole[:-1] + b"x", b""):
        (old / "offsets").write_bytes(file)
        with pytest.raises(StoreError, match=message):
            Store(old)
    (old / "offsets").write_bytes(whole[:-8])  # of a store from before the checksum was added
    assert Store(old).verify(1, "b") is None


def test_a_store_of_version_1_that_was_rewritten_is_refused(old, tmp_path):
    changed = tmp_path / "changed.lmdb"
    shutil.copytree(old, changed)
    rewrite(changed, **{"m/1/b": Record(36, 30, 3, 1, 0, 0, 0, 0).pack()})
    rewrite(old, note=bytes(5000))
    (tmp_path / "y.lmdb").mkdir()
    with lmdb.open(str(old), readonly=True, lock=False) as environment:
        environment.copy(str(tmp_path / "y.lmdb"), compact=True)
    shutil.copy(old / "offsets", tmp_path / "y.lmdb")
    for path in (changed, tmp_path / "y.lmdb"):
        with pytest.raises(StoreError, match=r"data\.mdb is damaged or was rewritten by another LMDB tool"):
            Store(path)


def test_an_unfinished_store_of_version_1_continues(folder, tmp_path, monkeypatch):
    """It holds the mark that the search for positions needed, and may hold a file of them."""
    with monkeypatch.context() as patch:
        interrupt(patch, Partial, "finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    rewrite(tmp_path / "x.lmdb.partial", mark=bytes(4096))
    assert prepare(folder, tmp_path / "x.lmdb").kept == 12
    prepare(folder, tmp_path / "calm.lmdb")
    assert dump(tmp_path / "x.lmdb") == dump(tmp_path / "calm.lmdb") | {b"mark": bytes(4096)}
    assert all(Store(tmp_path / "x.lmdb").verify(1, f"{k:04d}") is None for k in range(8))


def test_a_scale_that_the_store_does_not_hold_is_refused(stored):
    with pytest.raises(StoreError, match=r"x\.lmdb: contains no images of scale 4, only of \[1, 2, 3\]"):
        Store(stored).keys(4)
