"""A finished store gets LR of more scales; what is there does not change."""

import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from stores import Kill, add, dump, interrupt, picture, pixels, prepare, stamps

from sr_train.data.degrade import reduce_image
from sr_train.data.images import write_image
from sr_train.data.sources import open_lr_source
from sr_train.data.store import builder, local_copy, partial
from sr_train.data.store.format import StoreError
from sr_train.data.store.partial import Partial
from sr_train.data.store.reader import Store


def test_a_scale_that_is_added_equals_that_of_a_new_store(folder, stored, tmp_path):
    (folder / "more" / "dot.bmp").unlink()  # 3x3 pixels
    shutil.rmtree(stored)
    prepare(folder, stored)
    before = stamps(stored)
    report = prepare(folder, stored, scales=[2, 3, 4, 5])
    assert (report.written, report.kept) == (11, 0)
    assert {name: stamp for name, stamp in stamps(stored).items() if name != "lr_x4_x5"} == before
    prepare(folder, tmp_path / "new.lmdb", scales=[2, 3, 4, 5])
    store, new = Store(stored), Store(tmp_path / "new.lmdb")
    assert store.scales == [1, 2, 3, 4, 5]
    assert store.records == new.records
    a, b = pixels(store), pixels(new)
    assert all(np.array_equal(a[k], b[k]) for k in b)
    assert all(store.verify(*k) is None for k in a)
    assert np.array_equal(store.crop(4, "0003", 2, 1, 3, 4), new.crop(4, "0003", 2, 1, 3, 4))
    assert np.array_equal(store.read(5, "0003"), new.read(5, "0003"))
    assert store.made == new.made == dict.fromkeys((2, 3, 4, 5), "float")
    assert store.size == sum(p.stat().st_size for p in stored.rglob("data.mdb"))
    assert prepare(folder, stored, scales=[2, 3, 4, 5]) is None
    assert open_lr_source(str(stored), 4, cache=False).shape(3) == new.records[4]["0003"].shape


def test_scales_may_be_added_one_by_one_with_their_own_arithmetic(folder, tmp_path):
    prepare(folder, tmp_path / "y.lmdb", scales=[])
    for scales, arithmetic in (([2], "uint8"), ([3], "uint8_replicate")):
        assert prepare(folder, tmp_path / "y.lmdb", scales=scales, arithmetic=arithmetic).written == 12
    store = Store(tmp_path / "y.lmdb")
    assert store.made == {2: "uint8", 3: "uint8_replicate"}
    image = store.view(1, "0001")
    assert np.array_equal(store.view(3, "0001"), reduce_image(image, 3, "uint8_replicate"))
    with pytest.raises(FileExistsError, match="x3 was made with arithmetic=uint8_replicate, but arithmetic=float"):
        prepare(folder, tmp_path / "y.lmdb", scales=[3])


def test_a_store_is_read_while_it_is_extended_and_by_readers_opened_before(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "x.lmdb", scales=[2])
    early, seen = Store(tmp_path / "x.lmdb"), []
    whole = pixels(early)
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    work = builder.StoreBuilder(folder, tmp_path / "x.lmdb", scales=[2, 3])
    assert not work.complete()
    assert work.added == [3]

    def look(_):
        for store in (early, Store(tmp_path / "x.lmdb")):
            assert store.scales == [1, 2]
            assert all(np.array_equal(store.read(*k), image) for k, image in whole.items())
        seen.append(1)

    work.build(look)
    assert len(seen) == 13
    assert all(np.array_equal(early.read(*k), image) for k, image in whole.items())
    assert Store(tmp_path / "x.lmdb").scales == [1, 2, 3]


@pytest.mark.parametrize(
    ("where", "name", "calls", "kept"),
    [
        (Partial, "commit", 0, 0),
        (Partial, "commit", 5, 5),
        (Partial, "finish", 0, 12),
        (partial, "write_bytes", 0, 12),
        (os, "replace", 1, 12),  # the added folder is whole, not yet renamed
    ],
)
def test_an_interrupted_extension_continues_and_the_store_stays_as_it_was(
    folder, tmp_path, monkeypatch, where, name, calls, kept
):
    for store in ("x.lmdb", "calm.lmdb"):
        prepare(folder, tmp_path / store, scales=[2])
    prepare(folder, tmp_path / "calm.lmdb", scales=[3])
    before = stamps(tmp_path / "x.lmdb")
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    with monkeypatch.context() as patch:
        interrupt(patch, where, name, calls)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb", scales=[2, 3])
    assert stamps(tmp_path / "x.lmdb") == before
    assert Store(tmp_path / "x.lmdb").scales == [1, 2]
    report = prepare(folder, tmp_path / "x.lmdb", scales=[2, 3])
    assert (report.written, report.kept) == (12 - kept, kept)
    for file in ("data.mdb", "lr_x3/data.mdb"):
        folder_of = (tmp_path / "x.lmdb" / file).parent
        assert dump(folder_of) == dump(tmp_path / "calm.lmdb" / folder_of.relative_to(tmp_path / "x.lmdb"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm.lmdb", "images", "x.lmdb"]


def _lr(tmp_path, scale):
    """Reductions of the images of a store as files."""
    store, files = Store(tmp_path / "x.lmdb"), {}
    for key in store.keys(1):
        path = tmp_path / "lr" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, reduce_image(store.view(1, key), scale))
        files[key] = path
    return files


def test_an_extension_is_continued_under_its_own_plan_only(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "x.lmdb", scales=[2])
    with monkeypatch.context() as patch:
        interrupt(patch, Partial, "finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb", scales=[2, 3])
    with pytest.raises(FileExistsError, match=r"started with scales=\[3\] arithmetic=float, added to a finished store"):
        prepare(folder, tmp_path / "x.lmdb", scales=[3], lr={3: _lr(tmp_path, 3)})
    assert prepare(folder, tmp_path / "x.lmdb", scales=[3]).kept == 12


def test_changed_images_are_refused_before_a_store_is_extended(folder, stored):
    add(folder)
    with pytest.raises(FileExistsError, match="1 image added, removed or changed"):
        prepare(folder, stored, scales=[2, 3, 4])
    assert not list(stored.parent.glob("*.partial"))


def test_an_added_folder_of_another_store_is_refused(folder, tmp_path):
    for store, scales in (("x.lmdb", [2]), ("y.lmdb", [3])):
        prepare(folder, tmp_path / store, scales=scales)
    prepare(folder, tmp_path / "x.lmdb", scales=[3])
    shutil.move(tmp_path / "x.lmdb" / "lr_x3", tmp_path / "y.lmdb" / "lr_x3")
    with pytest.raises(StoreError, match=r"y\.lmdb/lr_x3: belongs to another store, .* scales=\[3\]"):
        Store(tmp_path / "y.lmdb")
    assert Store(tmp_path / "x.lmdb").scales == [1, 2]


def test_a_damaged_added_folder_is_named(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb", scales=[])
    prepare(folder, tmp_path / "x.lmdb", scales=[2])
    data = tmp_path / "x.lmdb" / "lr_x2" / "data.mdb"
    os.truncate(data, data.stat().st_size - 4096)
    with pytest.raises(StoreError, match=r"x\.lmdb/lr_x2: truncated"):
        Store(tmp_path / "x.lmdb")


def test_a_local_copy_contains_the_added_scales(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb", scales=[2])
    digest = Store(tmp_path / "x.lmdb").digest
    prepare(folder, tmp_path / "x.lmdb", scales=[3])
    store = Store(tmp_path / "x.lmdb")
    assert store.digest != digest
    whole = pixels(store)
    local_copy.use_copies([store], tmp_path / "local")
    assert store.path.parent == tmp_path / "local"
    shutil.rmtree(tmp_path / "x.lmdb")
    assert all(np.array_equal(store.read(*k), image) for k, image in whole.items())
    assert Store(store.path).digest == store.digest


EXTEND = """
import sys
from sr_train.data.store import builder as build
build._COMMIT_BYTES = 30_000
builder = build.StoreBuilder(sys.argv[1], sys.argv[2], scales=[2, 3])
if builder.complete():
    raise SystemExit
builder.estimate()
builder.build(lambda n: (print(n, flush=True), sys.stdin.read(1)))
"""


@pytest.mark.kill
def test_an_extension_killed_many_times_adds_the_same_scale(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(60):
        write_image(folder / f"{k:04d}.png", picture(k, 50, 60))
    for store in ("x.lmdb", "calm.lmdb"):
        prepare(folder, tmp_path / store, scales=[2])
    prepare(folder, tmp_path / "calm.lmdb", scales=[3])
    chance, killed = random.Random(4), 0
    command = [sys.executable, "-c", EXTEND, str(folder), str(tmp_path / "x.lmdb")]
    while killed < 5:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        for _ in range(chance.randrange(1, 12)):
            process.stdout.readline()
            process.stdin.write(b"x")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
        assert Store(tmp_path / "x.lmdb").scales == [1, 2]
    prepare(folder, tmp_path / "x.lmdb", scales=[2, 3])
    assert dump(tmp_path / "x.lmdb" / "lr_x3") == dump(tmp_path / "calm.lmdb" / "lr_x3")
    assert dump(tmp_path / "x.lmdb") == dump(tmp_path / "calm.lmdb")
