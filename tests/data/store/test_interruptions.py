"""A build that is interrupted, killed or short of space continues where it was."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import lmdb
import pytest
from stores import Kill, add, assert_same_store, change, files_below, interrupt, picture, prepare, remove, stamps

from sr_train.data.images import write_image
from sr_train.data.store import builder, partial
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import StoreError
from sr_train.data.store.index_file import Index
from sr_train.data.store.partial import Partial
from sr_train.data.store.reader import Store


@pytest.mark.parametrize(
    ("where", "name", "calls", "kept"),
    [
        (Partial, "commit", 0, 0),
        (Partial, "commit", 1, 1),
        (Partial, "commit", 7, 7),
        (Partial, "finish", 0, 12),
        (partial, "write_bytes", 0, 12),
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
        interrupt(patch, Partial, "finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    act(folder)
    prepare(folder, tmp_path / "x.lmdb")
    prepare(folder, tmp_path / "calm.lmdb")
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")


def test_an_unfinished_store_continues_under_its_own_plan_only(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, Partial, "finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    match = r"x\.lmdb\.partial: was started with scales=\[2, 3\] arithmetic=float; run that command again"
    with pytest.raises(FileExistsError, match=match):
        prepare(folder, tmp_path / "x.lmdb", scales=[4], skip_bad=True)
    assert prepare(folder, tmp_path / "x.lmdb").kept == 12


BUILD = """
import sys
from sr_train.data.store import builder as build, partial
build._COMMIT_BYTES, partial._MAP_START = 30_000, 1 << 16

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
        interrupt(patch, Partial, "finish", 0)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb.partial" / ".index.abc.part").write_bytes(b"half")
    (tmp_path / "x.lmdb.partial" / "offsets").write_bytes(b"of an earlier sr-train")
    prepare(folder, tmp_path / "x.lmdb")
    assert files_below(tmp_path / "x.lmdb") == ["data.mdb", "index"]


def test_an_unfinished_store_that_is_damaged_is_refused_by_name(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, Partial, "finish", 0)
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
    transact, count = partial._transact, [0]

    def full(environment, write):
        count[0] += 1
        if count[0] == 6:
            raise lmdb.DiskError("No space left on device")
        transact(environment, write)

    with monkeypatch.context() as patch:
        patch.setattr(partial, "_transact", full)
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
