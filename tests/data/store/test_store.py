import json
import mmap
import multiprocessing
import operator
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest

from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, encode_image, read_image, write_image
from sr_train.data.store import builder
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import SUMMARY, Record, StoreError, is_store
from sr_train.data.store.index_file import Index, _read_tree
from sr_train.data.store.reader import Store
from sr_train.resampling import ARITHMETICS

SCALES = [2, 3]


def picture(number, height=40, width=51, channels=3, dtype=np.uint8):
    random = np.random.default_rng(number)
    return random.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    """Twelve images of all kinds, some in a folder of their own."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for k in range(8):
        write_image(folder / f"{k:04d}.png", picture(k, 30 + k, 47 - k))
    write_image(folder / "more" / "grey.png", picture(8, channels=1))
    write_image(folder / "more" / "alpha.webp", picture(9, channels=4))
    write_image(folder / "more" / "deep.tiff", picture(10, dtype=np.uint16))
    write_image(folder / "more" / "dot.bmp", picture(11, 3, 3))
    return folder


def prepare(images, store, scales=SCALES, **options):
    """What sr-prepare does: a report, or None where there was nothing to do."""
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


# -- what goes in comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_store_holds_what_the_files_decode_to_and_their_reductions(folder, tmp_path, arithmetic):
    report = prepare(folder, tmp_path / "x.lmdb", arithmetic=arithmetic)
    store = Store(tmp_path / "x.lmdb")
    assert (report.written, report.kept, report.skipped) == (12, 0, [])
    assert report.size == (tmp_path / "x.lmdb" / "data.mdb").stat().st_size
    assert store.scales == [1, 2, 3]
    for scale in store.scales:
        assert store.keys(scale) == [
            *(f"{k:04d}" for k in range(8)),
            "more/alpha",
            "more/deep",
            "more/dot",
            "more/grey",
        ]
    for path in (p for p in folder.rglob("*") if p.is_file()):
        key, image = path.relative_to(folder).with_suffix("").as_posix(), read_image(path)
        assert store.records[1][key].shape == image.shape
        assert store.view(1, key).dtype == image.dtype
        assert np.array_equal(store.view(1, key), image)
        assert np.array_equal(store.read(1, key), image)
        for scale in SCALES:
            assert np.array_equal(store.view(scale, key), reduce_image(image, scale, arithmetic))
        assert all(store.verify(scale, key) is None for scale in store.scales)
    assert {k for k in dump(tmp_path / "x.lmdb") if not k.startswith((b"p/", b"m/"))} == {b"store"}


def test_every_crop_is_that_window_of_the_image(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    store = Store(tmp_path / "x.lmdb")
    for key in ("0003", "more/deep", "more/grey"):
        image = store.view(1, key)
        height, width = image.shape[:2]
        for top, left, h, w in [(0, 0, 1, 1), (0, 0, height, width), (height - 7, width - 5, 7, 5), (11, 3, 20, 30)]:
            assert np.array_equal(store.crop(1, key, top, left, h, w), image[top : top + h, left : left + w])
    assert np.array_equal(store.crop(3, "0003", 2, 1, 5, 6), store.view(3, "0003")[2:7, 1:7])


def test_views_cannot_be_written(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    with pytest.raises(ValueError, match="read-only"):
        Store(tmp_path / "x.lmdb").view(1, "0000")[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        Store(tmp_path / "x.lmdb").crop(1, "0000", 0, 0, 4, 4)[0, 0, 0] = 1


def test_the_estimate_is_what_the_pixels_take(folder, tmp_path):
    builder = StoreBuilder(folder, tmp_path / "x.lmdb", scales=SCALES)
    estimate = builder.estimate()
    builder.build()
    records = [r for of_scale in Store(tmp_path / "x.lmdb").records.values() for r in of_scale.values()]
    assert estimate.images == 12
    assert estimate.pixels == pytest.approx(sum(r.nbytes for r in records), rel=0.03)  # rows that modcrop cuts
    assert estimate.free > 0


def test_progress_counts_every_image_once_in_both_passes(folder, tmp_path):
    builder = StoreBuilder(folder, tmp_path / "x.lmdb")
    for work in (builder.estimate, builder.build):
        steps = []
        work(steps.append)
        assert sum(steps) == 12


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_workers_changes_nothing(folder, tmp_path, workers):
    prepare(folder, tmp_path / "two.lmdb")
    prepare(folder, tmp_path / "other.lmdb", workers=workers)
    assert_same_store(tmp_path / "two.lmdb", tmp_path / "other.lmdb")


def test_the_map_grows_as_often_as_it_must(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "roomy.lmdb")
    sizes = []
    transact = builder._transact
    monkeypatch.setattr(builder, "_MAP_START", 1 << 16)
    monkeypatch.setattr(builder, "_transact", lambda e, w: (transact(e, w), sizes.append(e.info()["map_size"]))[0])
    prepare(folder, tmp_path / "grown.lmdb")
    assert sizes[0] == 1 << 16
    assert sizes[-1] >= 1 << 18
    assert_same_store(tmp_path / "roomy.lmdb", tmp_path / "grown.lmdb")


def test_records_are_packed_without_loss():
    record = Record(2**32 - 1, 7, 3, 2, 2**32 - 1, 2**40, 2**62, 5)
    index = Index(2**40, 1, 2, 3, 4, b"17/a/b", record.pack(), (12).to_bytes(8, "little"))
    assert list(index.images()) == [(17, "a/b", record, 12)]
    assert Index.unpack(index.pack()) == index
    assert Record(5, 7, 3, 2, 0, 0, 0, 0).nbytes == 210
    with pytest.raises(StoreError, match="a record contains 3 bytes per sample"):
        _ = Record(1, 1, 1, 3, 0, 0, 0, 0).dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": b"abc"}, "records of 3 bytes, not a multiple of 36"),
        (
            {"records": Record(9, 9, 3, 1, 0, 0, 0, 0).pack()},
            r"'1/a' of shape \(9, 9, 3\) does not fit at position 8 of 250 bytes",
        ),
        ({"records": Record(0, 9, 3, 1, 0, 0, 0, 0).pack()}, r"'1/a' of shape \(0, 9, 3\)"),
        ({"records": Record(1, 9, 3, 3, 0, 0, 0, 0).pack()}, "a record contains 3 bytes per sample"),
        ({"offsets": (2**63).to_bytes(8, "little")}, rf"at position {2**63} of 250 bytes"),
        ({"offsets": bytes(16)}, "longer"),
        ({"names": b"1/a\0001/b"}, "shorter"),
        ({"names": b"one/a"}, "invalid literal"),
        ({"names": b"\xff"}, "decode"),
    ],
)
def test_impossible_records_are_refused_even_with_a_right_checksum(change, message):
    index = Index(250, 0, 0, 0, 0, b"1/a", Record(9, 9, 3, 1, 0, 0, 0, 0).pack(), bytes(8))
    assert list(index.images()) == [(1, "a", Record(9, 9, 3, 1, 0, 0, 0, 0), 0)]
    change.setdefault("offsets", (8).to_bytes(8, "little") if "records" in change else bytes(8))
    with pytest.raises(ValueError, match=message):
        list(Index.unpack(index._replace(**change).pack()).images())


# -- the same command again ------------------------------------------------------------------------------------------


def test_the_same_command_again_touches_nothing(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    assert prepare(folder, tmp_path / "x.lmdb") is None
    assert stamps(tmp_path / "x.lmdb") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "x.lmdb"]
    assert not list(tmp_path.rglob("lock.mdb"))


def test_a_copied_folder_is_the_same_folder(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert (tmp_path / "copy" / "0000.png").stat().st_mtime_ns != (folder / "0000.png").stat().st_mtime_ns
    assert prepare(tmp_path / "copy", tmp_path / "x.lmdb") is None


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


@pytest.mark.parametrize("act", [add, remove, change, change_keeping_size])
def test_a_changed_folder_is_refused_and_the_store_unchanged(folder, tmp_path, act):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    key = act(folder)
    match = (
        rf"x\.lmdb: exists, but .* has changed since: 1 image added, removed or changed \({key}\); give another store="
    )
    with pytest.raises(FileExistsError, match=match):
        prepare(folder, tmp_path / "x.lmdb")
    assert stamps(tmp_path / "x.lmdb") == before


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"scales": [2]}, r"scales=\[2\] arithmetic=float"),
        ({"arithmetic": "uint8"}, r"scales=\[2, 3\] arithmetic=uint8"),
    ],
)
def test_a_store_made_with_other_options_is_refused_and_unchanged(folder, tmp_path, options, asked):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    with pytest.raises(
        FileExistsError, match=rf"scales=\[2, 3\] arithmetic=float, but {asked} are requested; give another"
    ):
        prepare(folder, tmp_path / "x.lmdb", **options)
    assert stamps(tmp_path / "x.lmdb") == before


def test_the_order_of_scales_does_not_matter(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb", scales=[3, 2])
    assert prepare(folder, tmp_path / "x.lmdb", scales=[2, 3]) is None


def test_an_image_that_comes_while_the_store_is_built_is_noticed_the_next_time(folder, tmp_path):
    builder = StoreBuilder(folder, tmp_path / "x.lmdb")
    builder.build(lambda n: add(folder))
    assert len(Store(tmp_path / "x.lmdb").keys()) == 12
    with pytest.raises(FileExistsError, match=r"added, removed or changed \(new\)"):
        prepare(folder, tmp_path / "x.lmdb", scales=[])


# -- interruptions ---------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("where", "name", "calls", "kept"),
    [
        (StoreBuilder, "_commit", 0, 0),
        (StoreBuilder, "_commit", 1, 1),
        (StoreBuilder, "_commit", 7, 7),
        (StoreBuilder, "_finish", 0, 12),
        (builder, "write_bytes", 0, 12),
        (os, "replace", 0, 12),  # the index is written, not yet renamed
        (os, "replace", 1, 12),  # the store is whole, not yet renamed
    ],
)
def test_an_interrupted_build_continues_where_it_was(folder, tmp_path, monkeypatch, where, name, calls, kept):
    prepare(folder, tmp_path / "calm.lmdb")
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    with monkeypatch.context() as patch:
        interrupt(patch, where, name, calls)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    assert not (tmp_path / "x.lmdb").exists()
    with pytest.raises(StoreError, match=r"x\.lmdb: is not finished; run the same sr-prepare command again"):
        Store(tmp_path / "x.lmdb")
    report = prepare(folder, tmp_path / "x.lmdb")
    assert (report.written, report.kept) == (12 - kept, kept)
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm.lmdb", "images", "x.lmdb"]
    assert stamps(tmp_path / "x.lmdb").keys() == stamps(tmp_path / "calm.lmdb").keys()


@pytest.mark.parametrize("act", [add, remove, change])
def test_a_folder_may_change_while_its_store_is_unfinished(folder, tmp_path, monkeypatch, act):
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    with monkeypatch.context() as patch:
        interrupt(patch, StoreBuilder, "_finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    act(folder)
    prepare(folder, tmp_path / "x.lmdb")
    prepare(folder, tmp_path / "calm.lmdb")
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")


def test_an_unfinished_store_continues_under_its_own_plan_only(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, StoreBuilder, "_finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    match = r"x\.lmdb\.partial: was started with scales=\[2, 3\] arithmetic=float; run that command again"
    with pytest.raises(FileExistsError, match=match):
        prepare(folder, tmp_path / "x.lmdb", scales=[4], skip_bad=True)
    assert prepare(folder, tmp_path / "x.lmdb").kept == 12


BUILD = """
import sys
from sr_train.data.store import builder as build
build._COMMIT_BYTES, build._MAP_START = 30_000, 1 << 16

def progress(n):
    print(n, flush=True)
    sys.stdin.read(1)

builder = build.StoreBuilder(sys.argv[1], sys.argv[2], scales=[2, 3])
builder.estimate()
builder.build(progress)
"""


@pytest.mark.kill
def test_a_build_killed_many_times_makes_the_same_store(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(80):
        write_image(folder / f"{k:04d}.png", picture(k, 50, 60))
    prepare(folder, tmp_path / "calm.lmdb")
    chance = random.Random(4)
    command = [sys.executable, "-c", BUILD, str(folder), str(tmp_path / "x.lmdb")]
    kept = []
    for _ in range(5):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdin.write(b"." * chance.randint(6, 14))  # so many images it may write, 70 of the 80 in all
            process.stdin.flush()
            kept.append(int(process.stdout.readline()))
            for _ in range(4):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "x.lmdb").exists()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert kept[0] == 0
    assert kept == sorted(set(kept))  # each got further than the one before
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm.lmdb", "images", "x.lmdb"]
    assert stamps(tmp_path / "x.lmdb").keys() == stamps(tmp_path / "calm.lmdb").keys()


def test_what_a_killed_build_left_of_the_index_is_removed(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, StoreBuilder, "_finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb.partial" / ".index.abc.part").write_bytes(b"half")
    (tmp_path / "x.lmdb.partial" / "offsets").write_bytes(b"of an earlier sr-train")
    prepare(folder, tmp_path / "x.lmdb")
    assert files_below(tmp_path / "x.lmdb") == ["data.mdb", "index"]


def test_an_unfinished_store_that_is_damaged_is_refused_by_name(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, StoreBuilder, "_finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    os.truncate(tmp_path / "x.lmdb.partial" / "data.mdb", 8 * 4096)
    with pytest.raises(StoreError, match=r"x\.lmdb\.partial: damaged \(.*\); delete it and run sr-prepare again"):
        prepare(folder, tmp_path / "x.lmdb")


def test_a_store_that_cannot_be_read_back_does_not_get_its_name(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Index, "pack", lambda index: b"nothing")
        with pytest.raises(StoreError, match=r"x\.lmdb\.partial: its file 'index' cannot be read"):
            prepare(folder, tmp_path / "x.lmdb")
    assert not (tmp_path / "x.lmdb").exists()
    assert prepare(folder, tmp_path / "x.lmdb").kept == 12


def test_a_second_builder_of_one_store_is_refused(folder, tmp_path):
    one, other = (StoreBuilder(folder, tmp_path / "x.lmdb") for _ in range(2))
    said = []

    def meet(_):
        with pytest.raises(FileExistsError, match=r"x\.lmdb\.partial: another sr-prepare is writing it") as error:
            other.build()
        said.append(error)

    one.build(meet)
    assert len(said) == 13
    assert len(Store(tmp_path / "x.lmdb").keys()) == 12


def test_a_full_disk_is_reported_and_written_images_are_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    transact, count = builder._transact, [0]

    def full(environment, write):
        count[0] += 1
        if count[0] == 6:
            raise lmdb.DiskError("No space left on device")
        transact(environment, write)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "_transact", full)
        with pytest.raises(
            OSError, match=r"x\.lmdb\.partial: the disk is full or failing .*images already written are kept"
        ):
            prepare(folder, tmp_path / "x.lmdb")
    assert prepare(folder, tmp_path / "x.lmdb").kept == 4  # the first of the five was the plan


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=50_000))
    with pytest.raises(OSError, match=r"the store needs about 0\.00 GB, but only 0\.00 GB are free"):
        prepare(folder, tmp_path / "x.lmdb")
    assert files_below(tmp_path) == [f"images/{name}" for name in files_below(folder)]


# -- bad files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(folder):
    """The folder with six files that cannot be used: four by their header, two by their pixels."""
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "more" / "folder.png").mkdir()
    write_image(folder / "tiny.png", picture(0, 2, 40))
    (folder / "away.png").symlink_to(folder / "nowhere.png")
    (folder / "cut.png").write_bytes(encode_image(picture(1), ".png")[:-300])
    (folder / "more" / "cut.jpg").write_bytes(encode_image(picture(2), ".jpg")[:-300])
    return folder


def test_all_bad_files_are_named_in_one_message_and_the_good_ones_kept(spoilt, tmp_path):
    with pytest.raises(
        BadFilesError, match="6 bad files; repair or remove what is listed and run the same command again"
    ) as error:
        prepare(spoilt, tmp_path / "x.lmdb")
    reasons = [
        "empty.png: the file is empty",
        "text.jpg: not a readable image",
        "tiny.png: 40x2 pixels are too few to reduce by 3",
        "away.png: cannot be read: No such file",
        "cut.png: corrupt or truncated",
        "more/cut.jpg: corrupt or truncated",
    ]
    assert all(reason in str(error.value) for reason in reasons)
    assert len(error.value.problems) == 6
    assert not (tmp_path / "x.lmdb.partial").exists()
    for name in ("empty.png", "text.jpg", "tiny.png", "away.png"):
        (spoilt / name).unlink()
    with pytest.raises(BadFilesError, match="2 bad files; repair or remove what is listed") as error:
        prepare(spoilt, tmp_path / "x.lmdb")
    assert "cut.png: corrupt or truncated" in str(error.value)
    assert "more/cut.jpg: corrupt or truncated" in str(error.value)
    write_image(spoilt / "cut.png", picture(1))
    (spoilt / "more" / "cut.jpg").unlink()
    report = prepare(spoilt, tmp_path / "x.lmdb")
    assert (report.written, report.kept) == (1, 12)
    prepare(spoilt, tmp_path / "calm.lmdb")
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")


def test_bad_files_can_be_left_out(spoilt, tmp_path):
    report = prepare(spoilt, tmp_path / "x.lmdb", skip_bad=True)
    assert report.written == 12
    assert len(report.skipped) == 6
    store = Store(tmp_path / "x.lmdb")
    assert len(store.keys()) == 12
    assert store.summary["skipped"] == ["away", "cut", "empty", "more/cut", "text", "tiny"]
    assert prepare(spoilt, tmp_path / "x.lmdb", skip_bad=True) is None


def test_a_folder_of_nothing_but_bad_files_makes_no_store(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "text.png").write_text("not an image")
    with pytest.raises(BadFilesError, match=r"none of the images can be used:\n.*text\.png"):
        prepare(tmp_path / "images", tmp_path / "x.lmdb", skip_bad=True)
    (tmp_path / "images" / "text.png").write_bytes(encode_image(picture(1), ".png")[:-300])
    with pytest.raises(BadFilesError, match=r"none of the images can be used:\n.*text\.png"):
        prepare(tmp_path / "images", tmp_path / "x.lmdb", skip_bad=True)
    assert not (tmp_path / "x.lmdb").exists()


@pytest.mark.parametrize(
    ("store", "options", "message"),
    [
        ("x", {}, r"give a name that ends in \.lmdb, e\.g\. store=.*x\.lmdb"),
        ("x.lmdb", {"scales": [1]}, r"scales=\[1\]: give integers of at least 2, each once, e\.g\. scales=\[2,3,4\]"),
        ("x.lmdb", {"scales": [2, 3, 2]}, "each once"),
        ("x.lmdb", {"arithmetic": "exact"}, "arithmetic='exact' is not one of float, uint8, uint8_replicate"),
    ],
)
def test_stores_that_cannot_be_made_are_refused(folder, tmp_path, store, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / store, **options)


@pytest.mark.parametrize(("name", "fits"), [("c" * 78, True), ("c" * 79, False), ("c" * 77 + "\u00e9", False)])
def test_names_of_more_than_480_bytes_are_refused(folder, tmp_path, name, fits):
    path = folder / ("a" * 200) / ("b" * 200) / f"{name}.png"
    path.parent.mkdir(parents=True)
    write_image(path, picture(0))
    if fits:
        prepare(folder, tmp_path / "x.lmdb")
        assert np.array_equal(Store(tmp_path / "x.lmdb").view(1, f"{'a' * 200}/{'b' * 200}/{name}"), picture(0))
    else:
        with pytest.raises(
            BadFilesError, match=r"names too long for a store:\n.*\.png: its path is longer than 480 bytes"
        ):
            StoreBuilder(folder, tmp_path / "x.lmdb")


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    return tmp_path / "x.lmdb"


def rewrite(path, **items):
    """Put values into a store behind its back; its index would no longer fit."""
    (path / "index").unlink(missing_ok=True)
    with (
        lmdb.open(str(path), map_size=1 << 24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in items.items():
            transaction.put(key.encode(), value)


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
    with pytest.raises(StoreError, match=r"x\.lmdb: there is no such store; make it with sr-prepare images=DIR store="):
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
        StoreError, match=r"an LMDB, but not a store of sr-train \(stores of BasicSR contain PNG files, not pixels"
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
        ({"m/1/0003": b"ab"}, r"x\.lmdb: damaged index \(records of 1262 bytes, not a multiple of 36"),
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


# -- the index -------------------------------------------------------------------------------------------------------


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
        size, spans = _read_tree(data)
        assert size == mmap.PAGESIZE
        assert {key: data[at : at + length] for key, (at, length) in spans.items()} == expected


@pytest.mark.parametrize("size", [0, 3, 60, -1, -40])
def test_a_truncated_index_is_refused_with_a_remedy(stored, size):
    whole = (stored / "index").read_bytes()
    (stored / "index").write_bytes(whole[:size])
    message = r"x\.lmdb: its file 'index' cannot be read \(damaged, or written by a newer sr-train\); copy it again, or delete"
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


# -- stores of version 1 ---------------------------------------------------------------------------------------------


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
        interrupt(patch, StoreBuilder, "_finish", 0)
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


# -- many readers ----------------------------------------------------------------------------------------------------


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
