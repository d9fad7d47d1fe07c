"""``data.stage=DIR``: stores are copied once to a local disk, checked, and used again; the batches are the same."""

import errno
import multiprocessing
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
from stores import picture, pixels, prepare

from sr_train.data.images import write_image
from sr_train.data.module import SRData
from sr_train.data.store import local_copy, reader
from sr_train.data.store.format import StoreError
from sr_train.data.store.local_copy import local_folder, use_copies
from sr_train.data.store.reader import Store
from sr_train.files import lock_file


@pytest.fixture
def store(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png", picture(number))
    prepare(tmp_path / "images", tmp_path / "x.lmdb")
    return tmp_path / "x.lmdb"


@pytest.fixture
def local(tmp_path):
    return tmp_path / "local" / "disk"


def copies(local):
    return sorted(local.glob("*.lmdb"))


def staged(store, local):
    opened = Store(store)
    use_copies([opened], local)
    return opened


def test_training_reads_the_copy_and_draws_the_same(store, local, tmp_path, capsys):
    given = {"train": [{"hr": str(store), "lr": str(store)}, {"hr": str(tmp_path / "images")}], "scale": 2, "lr_patch": 6,
             "workers": 0, "stage_name": "x2", "seed": 3}  # fmt: skip
    plain, copied = SRData(**given), SRData(**given, stage=str(local))
    copied.prepare_data()
    copied.setup("fit")
    for source in (copied.sources[0].hr, copied.sources[0].lr):
        assert source.store.path == copies(local)[0]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    shutil.rmtree(store)
    for position in range(12):
        a, b = (next(iter(data.loader(_At(position)))) for data in (plain, copied))
        assert a["key"] == b["key"]
        for name in ("lr", "hr"):
            assert np.array_equal(np.asarray(a[name]), np.asarray(b[name]))
    printed = capsys.readouterr().out
    assert printed.count(f"{store}: is read from its copy {copies(local)[0]}") == 1
    assert printed.count(f"{tmp_path / 'images'}: is not a store, so data.stage does not copy it") == 1


class _At:
    def __init__(self, position):
        self.position = position

    def __iter__(self):
        return iter([[self.position]])


def test_a_copy_is_used_again(store, local, monkeypatch):
    assert staged(store, local).path == copies(local)[0]
    monkeypatch.setattr(local_copy, "_copy", lambda *_: pytest.fail("it is copied again"))
    again = staged(store, local)
    assert pixels(again).keys() == pixels(Store(store)).keys()
    assert all(np.array_equal(v, pixels(Store(store))[k]) for k, v in pixels(again).items())
    use_copies([again], local)  # as in prepare_data and setup of one process
    assert len(copies(local)) == 1


def test_a_changed_source_is_copied_anew(store, local, tmp_path):
    staged(store, local)
    shutil.rmtree(store)
    write_image(tmp_path / "images" / "0.png", picture(9))
    prepare(tmp_path / "images", store)
    changed = staged(store, local)
    assert len(copies(local)) == 2
    assert np.array_equal(changed.read(1, "0"), picture(9))


@pytest.mark.parametrize("damage", ["truncated", "no index"])
def test_a_damaged_copy_is_made_again(store, local, damage):
    copy = staged(store, local).path
    if damage == "truncated":
        os.truncate(copy / "data.mdb", 8192)
    else:
        (copy / "index").unlink()
    assert staged(store, local).path == copy
    assert Store(copy).digest == Store(store).digest
    assert (copy / "index").read_bytes() == (store / "index").read_bytes()


def test_what_a_killed_process_left_is_removed(store, local):
    copy = staged(store, local).path
    shutil.rmtree(copy)
    left = local / f".{copy.name}.abc.partial"
    left.mkdir()
    (left / "data.mdb").write_bytes(b"half")
    staged(store, local)
    assert not left.exists()
    assert copies(local) == [copy]


def test_an_error_while_copying_leaves_nothing(store, local, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local_copy, "write_all", fails)
    with pytest.raises(OSError, match="No space left on device") as caught:
        staged(store, local)
    assert str(local) in caught.value.filename
    assert [p.suffix for p in local.iterdir()] == [".lock"]


def test_a_store_that_changes_while_it_is_copied_is_refused(store, local, monkeypatch):
    opened = Store(store)
    monkeypatch.setattr(opened, "digest", "0" * 16)
    with pytest.raises(StoreError, match=r"x\.lmdb: was changed while it was copied to .*; run the same command again"):
        use_copies([opened], local)
    assert copies(local) == []


def test_missing_space_is_an_error_with_both_sizes(store, local, monkeypatch):
    monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda path: namedtuple("U", "free")(5_000))
    needed = sum((store / name).stat().st_size for name in ("data.mdb", "index"))
    with pytest.raises(
        ValueError, match=rf"need {needed / 1e6:.1f} MB, but 0\.0 MB are free; give another folder, or data\.stage=null"
    ):
        staged(store, local)


def _stage(store, local, barrier, sizes):
    real = local_copy._copy

    def counted(*arguments):
        sizes.put(1)
        real(*arguments)

    local_copy._copy = counted
    barrier.wait(30)
    opened = staged(store, local)
    sizes.put(len(pixels(opened)))


def test_of_two_processes_one_copies(store, local):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_stage, args=(store, local, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    got = sorted(queue.get(timeout=30) for _ in range(3))
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert got == [1, 9, 9]  # copied once; both read three images of three scales
    assert queue.empty()


def test_a_process_that_waits_says_so(store, local, monkeypatch, capsys):
    opened = Store(store)
    local.mkdir(parents=True)
    lock = os.open(local / f".x-{opened.digest}.lmdb.lock", os.O_RDWR | os.O_CREAT)
    assert lock_file(lock)
    monkeypatch.setattr(local_copy.time, "sleep", lambda seconds: os.close(lock))  # the other process ends
    use_copies([opened], local)
    assert f"{store}: waiting until another process of this node has copied it to {local}" in capsys.readouterr().out


def test_variables_are_expanded_and_must_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert local_folder("$TMPDIR/a") == local_folder("${TMPDIR}/a") == tmp_path / "a"
    monkeypatch.delenv("TMPDIR")
    with pytest.raises(ValueError, match=r"data\.stage=\$TMPDIR/a: the environment variable TMPDIR is not set"):
        local_folder("$TMPDIR/a")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        SRData(train=[{"hr": "toy:coffee"}], scale=2, lr_patch=8, stage=str(tmp_path / "file"))


def test_a_store_on_a_network_gives_the_same_pixels_and_repeats_reads(store, monkeypatch):
    plain = Store(store)
    monkeypatch.setattr(reader, "on_network", lambda path: True)
    remote, real, calls = Store(store), os.pread, []

    def stale(*arguments):
        calls.append(arguments)
        if len(calls) % 2:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(*arguments)

    monkeypatch.setattr(os, "pread", stale)
    for key in plain.keys():  # noqa: SIM118
        assert np.array_equal(remote.read(1, key), plain.read(1, key))
        assert np.array_equal(remote.view(2, key), plain.view(2, key))
        crop = remote.crop(1, key, 7, 5, 20, 30)
        assert np.array_equal(crop, plain.crop(1, key, 7, 5, 20, 30))
        assert not crop.flags.writeable
    assert len(calls) == 2 * 9


def test_a_run_copies_its_store_and_ends_as_without(invoke, store, local, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL", str(local))
    small = ("experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
             "data.lr_patch=8", "trainer.accelerator=cpu", "logger=csv", "sets=[]", "curve=constant", "trainer.max_steps=4",
             f"data.train=[{{hr: {store}, lr: {store}}}]")  # fmt: skip
    for name, more in (("plain", ()), ("copied", ("data.stage=$LOCAL",))):
        checked = invoke("sr-train", *small, *more, f"name={name}", "check=true")
        assert checked.returncode == 0, checked.stderr
        assert not local.exists(), "check=true copies"
        done = invoke("sr-train", *small, *more, f"name={name}")
        assert done.returncode == 0, done.stderr
    assert "is read from its copy" in done.stdout
    a, b = ((tmp_path / "runs" / n / "x2" / "weights.safetensors").read_bytes() for n in ("plain", "copied"))
    assert a[-1000:] == b[-1000:]
    longer = invoke("sr-train", *small, "name=copied", "trainer.max_steps=5", "data.stage=null")
    assert longer.returncode == 0, longer.stderr
