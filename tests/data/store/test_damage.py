"""A store or index that is damaged, truncated or of another origin is refused by name."""

import json
import mmap
import os
import random
import shutil
import subprocess
import sys

import lmdb
import numpy as np
import pytest
from stores import (
    change_keeping_size,
    dump,
    picture,
    pixels,
    prepare,
    rewrite,
)

from sr_train.data.images import encode_image
from sr_train.data.store.format import SUMMARY, Record, StoreError
from sr_train.data.store.index_file import Index, read_tree
from sr_train.data.store.reader import Store

# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_found_and_its_image_named(stored):
    where = stored / "data.mdb"
    data = bytearray(where.read_bytes())
    at = bytes(data).index(picture(5, 35, 42).tobytes())
    data[at + 1000] ^= 1
    where.write_bytes(data)
    store = Store(stored)
    problem = store.verify(1, "0005")
    assert "x.lmdb: image '0005' (scale 1): checksum differs, the pixels are damaged" in problem
    assert [k for s in store.scales for k in store.keys(s) if store.verify(s, k)] == ["0005"]


OPEN = """
import os, sys
from sr_train.data.store.format import StoreError
from sr_train.data.store.reader import Store
path = sys.argv[1]
for size in map(int, sys.argv[2:]):
    os.truncate(os.path.join(path, "data.mdb"), size)
    try:
        store = Store(path)
        print(size, "opened", [store.verify(s, k) for s in store.scales for k in store.keys(s)])
    except StoreError as error:
        print(size, "refused", error)
"""


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.slow
def test_a_truncated_store_is_refused_and_kills_no_process(stored, indexed):
    """In a process of its own: to touch what is missing of a memory map is a bus error."""
    size = (stored / "data.mdb").stat().st_size
    lengths = [
        size - 1,
        size - 4096,
        size - 5000,
        *(int(size * part) for part in (0.9, 0.7, 0.5, 0.2, 0.1)),
        8192,
        4097,
    ]
    lengths += [4096, 100, 0]
    if not indexed:
        (stored / "index").unlink()
    command = [sys.executable, "-c", OPEN, str(stored), *map(str, lengths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for size, line in zip(lengths, done.stdout.splitlines(), strict=True):
        whole = not indexed and line == f"{size} opened {[None] * 36}"  # where nothing uses the last pages
        assert line.startswith(f"{size} refused ") or (whole and size > 310_000), line
    expected = "x.lmdb: truncated: data.mdb has" if indexed else "x.lmdb: cannot be opened as LMDB ("
    assert all(word in done.stdout for word in (expected, "run sr-prepare again"))


def test_a_path_without_a_store_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(
        StoreError, match=r"x\.lmdb: there is no such store; make the store with sr-prepare images=DIR store="
    ):
        Store(tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb").mkdir()
    with pytest.raises(StoreError, match=r"x\.lmdb: contains no data\.mdb, so it is not a store of sr-prepare"):
        Store(tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb" / "data.mdb").write_bytes(b"not an LMDB" * 1000)
    with pytest.raises(StoreError, match=r"x\.lmdb: cannot be opened as LMDB .*delete it and run sr-prepare again"):
        Store(tmp_path / "x.lmdb")
    (tmp_path / "y.lmdb.partial").mkdir()
    with pytest.raises(StoreError, match=r"y\.lmdb: is not finished; run the same sr-prepare command again"):
        Store(tmp_path / "y.lmdb")


def test_an_lmdb_of_basicsr_is_refused(tmp_path):
    (tmp_path / "DIV2K.lmdb").mkdir()
    rewrite(tmp_path / "DIV2K.lmdb", **{f"{k:04d}": encode_image(picture(k), ".png") for k in range(3)})
    (tmp_path / "DIV2K.lmdb" / "meta_info.txt").write_text("0000.png (40,51,3) 1\n")
    with pytest.raises(
        StoreError, match=r"an LMDB, but not a store of sr-train; if it is an LMDB of BasicSR, copy its meta_info\.txt"
    ):
        Store(tmp_path / "DIV2K.lmdb")


def test_a_store_of_another_version_is_refused(stored):
    summary = json.loads(dump(stored)[SUMMARY])
    rewrite(stored, store=json.dumps({**summary, "version": 99}).encode())
    with pytest.raises(StoreError, match=r"has version 99, this sr-train reads versions 1 and \d+; make it again"):
        Store(stored)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"store": b"{"}, "damaged summary"),
        ({"store": b"[]"}, "not a store of sr-train"),
        ({"m/1/0003": b"ab"}, r"x\.lmdb: damaged index \(records of 1262 bytes; expected a multiple of 36"),
        (
            {"m/one/0003": Record(1, 1, 1, 1, 0, 0, 0, 0).pack(), "p/one/0003": b"x"},
            r"x\.lmdb: damaged index \(invalid lit",
        ),
        ({"m/1/9999": Record(1, 1, 1, 1, 0, 0, 0, 0).pack()}, r"cannot be opened as LMDB \(b'1/9999' has no pixels\)"),
        ({"m/7/0003": bytes(36), "p/7/0003": b""}, r"x\.lmdb: damaged index"),
        ({"m/1/9999": Record(1, 1, 1, 1, 0, 0, 0, 0).pack(), "p/1/9999": b"a"}, "its index does not fit its summary"),
        ({"m/1/0003": Record(1, 1, 1, 1, 0, 0, 0, 0).pack()}, "damaged: its index does not fit its summary"),
        (
            {"m/1/0003": Record(9000, 9000, 3, 1, 0, 0, 0, 0).pack()},
            r"'1/0003' of shape \(9000, 9000, 3\) does not fit at position \d+ of \d+ bytes",
        ),
    ],
)
def test_a_damaged_index_is_refused_by_name(stored, items, message):
    rewrite(stored, **items)
    with pytest.raises(StoreError, match=message):
        Store(stored)


# -- the index --------------------------------------------------------------------------------------------------------


def test_a_store_is_opened_and_read_without_lmdb(stored, monkeypatch):
    expected = pixels(Store(stored))
    monkeypatch.setattr(lmdb, "open", None)
    monkeypatch.setattr(Index, "of", None)
    assert all(np.array_equal(v, expected[k]) for k, v in pixels(Store(stored)).items())
    assert "lmdb" not in vars(sys.modules[Store.__module__])


def test_a_store_without_its_index_holds_the_same(stored):
    with_index = Store(stored)
    (stored / "index").unlink()
    without = Store(stored)
    assert vars(without) | {"_map": None} == vars(with_index) | {"_map": None}
    assert len(pixels(without)) == 36
    assert all(without.verify(*k) is None for k in pixels(without))


def test_the_tree_of_many_images_is_read_as_lmdb_reads_it(tmp_path):
    """More pages than one branch can name, keys of many lengths, values that were deleted, small values and large ones."""
    (tmp_path / "x.lmdb").mkdir()
    chance = random.Random(1)
    expected = {bytes(chance.choices(b"abc/", k=chance.randint(1, 480))): chance.randbytes(chance.choice((0, 9, 999, 9999)))
                for _ in range(3000)}  # fmt: skip
    rewrite(tmp_path / "x.lmdb", **{k.decode(): v for k, v in expected.items()})
    with (
        lmdb.open(str(tmp_path / "x.lmdb"), map_size=1 << 26, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key in list(expected)[::3]:
            transaction.delete(key)
            del expected[key]
        assert environment.stat()["depth"] >= 3
    with (
        (tmp_path / "x.lmdb" / "data.mdb").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        size, spans = read_tree(data)
        assert size == mmap.PAGESIZE
        assert {key: data[at : at + length] for key, (at, length) in spans.items()} == expected


@pytest.mark.parametrize("size", [0, 3, 60, -1, -40])
def test_a_truncated_index_is_refused_with_a_remedy(stored, size):
    whole = (stored / "index").read_bytes()
    (stored / "index").write_bytes(whole[:size])
    message = (
        r"x\.lmdb: its file 'index' cannot be read \(the file is damaged, or was written by a newer sr-train\); copy"
    )
    with pytest.raises(StoreError, match=message):
        Store(stored)


def test_every_flipped_byte_of_an_index_is_noticed(stored):
    whole = (stored / "index").read_bytes()
    for at in range(0, len(whole), 7):
        (stored / "index").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(StoreError, match=r"x\.lmdb: its file 'index' cannot be read"):
            Store(stored)


def test_an_index_that_cannot_be_read_is_named(stored):
    (stored / "index").unlink()
    (stored / "index").mkdir()
    with pytest.raises(StoreError, match=r"x\.lmdb: its file 'index' cannot be read \(.*directory"):
        Store(stored)


def test_the_index_of_another_store_is_refused_though_all_its_positions_would_fit(stored, folder, tmp_path):
    """One image of equal size differs, so that the files of both stores are of equal length and structure."""
    change_keeping_size(folder)
    prepare(folder, tmp_path / "y.lmdb")
    sizes = [(p / "data.mdb").stat().st_size for p in (stored, tmp_path / "y.lmdb")]
    assert sizes[0] == sizes[1]
    expected = pixels(Store(tmp_path / "y.lmdb"))
    shutil.copy(tmp_path / "y.lmdb" / "data.mdb", stored)
    with pytest.raises(
        StoreError, match=r"x\.lmdb: its files 'index' and 'data\.mdb' belong to different stores, or data\.mdb was"
    ):
        Store(stored)
    (stored / "index").unlink()
    assert all(np.array_equal(v, expected[k]) for k, v in pixels(Store(stored)).items())
    assert all(Store(stored).verify(*k) is None for k in expected)


def test_a_store_that_was_changed_in_place_is_refused(stored):
    size = (stored / "data.mdb").stat().st_size
    shutil.copy(stored / "index", stored / "kept")
    rewrite(stored, note=b"short")
    shutil.move(stored / "kept", stored / "index")
    os.truncate(stored / "data.mdb", size)
    with pytest.raises(StoreError, match=r"belong to different stores, or data\.mdb was changed"):
        Store(stored)


def test_a_store_that_was_compacted_is_read_without_its_index_only(stored, tmp_path):
    expected = pixels(Store(stored))
    rewrite(stored, note=bytes(5000))  # so that there is something to compact
    prepared = Store(stored)
    assert all(np.array_equal(v, expected[k]) for k, v in pixels(prepared).items())
    (tmp_path / "y.lmdb").mkdir()
    with lmdb.open(str(stored), readonly=True, lock=False) as environment:
        environment.copy(str(tmp_path / "y.lmdb"), compact=True)
    compacted = Store(tmp_path / "y.lmdb")
    assert compacted._offsets != prepared._offsets
    assert all(np.array_equal(v, expected[k]) for k, v in pixels(compacted).items())
