"""Full disks, a run in progress, names that are not UTF-8, and files that can be read in part."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from spoil import (
    EVAL,
    LONGER,
    RUN,
    TRAIN,
    UPSCALE,
    picture,
    unfinished,
)

from sr_train import files
from sr_train.data.store.builder import StoreBuilder
from sr_train.runs.lock import hold


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = [
    (TRAIN, "runs/full/x2/config.yaml"),
    ((*EVAL, "weights=net.safetensors", "out=scores"), "scores/metrics.json"),
    ((*UPSCALE, "input=hr"), "out/0000.png"),
    (("sr-prepare", "images=hr", "store=y.lmdb"), "y.lmdb.partial/index"),
]


@pytest.mark.parametrize(("arguments", "file"), FULL, ids=[a[0] for a, _ in FULL])
def test_a_full_disk_is_reported_in_one_line(invoke, place, monkeypatch, arguments, file):
    monkeypatch.setattr(files, "_write", full)
    done = invoke(*arguments, *(["name=full"] if arguments is TRAIN else []))
    assert done.returncode == 1
    assert f"{file}: the disk is full; free some space and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(place.rglob("*.part"))


def test_a_run_on_a_full_disk_warns_once_and_continues_when_there_is_space(command, place, small_disk):
    run = (
        *TRAIN[:-2],
        "sets=[toy]",
        "logger=[tensorboard,csv]",
        "validate.every=2",
        "trainer.max_steps=4",
        "paths.runs=disk",
    )
    failed = command(*run)
    assert failed.returncode == 1, failed.stderr
    assert "disk/quickstart_edsr/x2" in failed.stderr
    assert "the disk is full; free some space and run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert small_disk("50m").returncode == 0
    done = command(*run)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_upscaling_and_preparing_with_a_remedy(invoke, place, small_disk):
    small_disk("100k")
    done = invoke(*UPSCALE[:-1], "input=hr", "output=disk/out")
    assert done.returncode == 1
    assert "the disk is full; free some space and run the same command again" in done.stderr
    assert not list((place / "disk").rglob("*.part"))
    shutil.rmtree(place / "disk" / "out")
    small_disk("30k")
    done = invoke("sr-prepare", "images=hr", "store=disk/y.lmdb")
    assert done.returncode == 1
    assert "disk: the store needs about" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("limit", [0, 30_720])
def test_a_store_that_may_not_grow_is_reported_and_finished_by_the_same_command(place, limit):
    """LMDB reports a short write as an input/output error. Three images of 80x96 pixels need 24 KB each."""
    resource = pytest.importorskip("resource")
    program = [str(Path(sys.executable).with_name("sr-prepare")), "images=hr", "store=y.lmdb", "workers=1"]
    failed, done = (
        subprocess.run(program, cwd=place, capture_output=True, text=True, preexec_fn=preexec)
        for preexec in (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), None)
    )
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert f"y.lmdb.partial: data.mdb has reached the largest file size that this shell allows, {limit} bytes" in (
        failed.stderr
    )
    assert "(ulimit -f unlimited) and run the same command again; images already written are kept" in failed.stderr
    assert done.returncode == 0, done.stderr
    assert "y.lmdb: 3 images" in done.stdout
    assert (place / "y.lmdb" / "data.mdb").stat().st_size > 61_440
    assert not list(place.glob("*.partial"))


@pytest.mark.parametrize("left", ["100k", "101k", "102k", "103k"])
def test_a_disk_that_fills_up_while_a_store_is_built_is_reported_and_the_build_continues(place, small_disk, left):
    """A tmpfs takes a part of a write: the last bytes that fit."""
    small_disk(left)
    for k in range(4):
        picture(f"more/{k}.png", 80, 96)(place)
    (place / "disk" / "other").write_bytes(bytes(30_000))  # after the check of the free space
    builder = StoreBuilder(place / "more", place / "disk" / "y.lmdb", workers=1)
    with pytest.raises(
        OSError, match=r"y\.lmdb\.partial: the disk is full or failing .*images already written are kept"
    ):
        builder.build()
    small_disk("1m")
    assert builder.build().written == 4
    assert builder.complete()


def test_a_run_is_not_started_twice_at_the_same_time(invoke, place, monkeypatch):
    from sr_train.runs import lock

    monkeypatch.setattr(lock, "hold", lambda folder: hold(folder, 0.3))
    program = "from sr_train.runs.lock import hold\nfrom pathlib import Path\nimport time\n"
    program += "with hold(Path('runs/quickstart_edsr')): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=place, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    done = invoke(*TRAIN)
    holder.kill()
    holder.wait()
    assert done.returncode == 1
    assert f"runs/quickstart_edsr: is being written by process {holder.pid}" in done.stderr
    assert "wait until it ends, stop it, or give another name=" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("sr-prepare", "images=hr", "store=y.lmdb"), (*UPSCALE, "input=hr"), (*TRAIN, "name=n")]
)
def test_names_that_are_not_utf8_are_listed(command, place, arguments):
    try:
        Path(os.fsdecode(os.fsencode(place) + b"/hr/caf\xe9.png")).write_bytes((place / "hr" / "0000.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    done = command(*arguments)
    assert done.returncode == 1, done.stdout
    assert "names that are not UTF-8; rename these files" in done.stderr
    assert "hr/caf\\udce9.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_readable_lines_of_damaged_metrics_are_kept(invoke, place):
    """Half a line, a line of another program and bytes of none: the rows up to the checkpoint stay, the rest is cut."""
    unfinished(place)
    path = place / RUN / "metrics.csv"
    rows = path.read_bytes()
    path.write_bytes(rows + b"\xff\xfe\x00,,\n1;2;3\n9,train/l")
    done = invoke(*LONGER)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert text.startswith(rows.decode())
    assert "1;2;3" not in text
    assert [line for line in text.splitlines() if line.startswith("6,train/loss")]


@pytest.mark.slow
def test_a_typo_is_refused_in_every_place_of_an_experiment_file(tmp_path):
    """A user's own recipe stands in conf/experiment of a checkout; here in a copy of the package."""
    import sr_train
    from sr_train.config.folders import conf_folder

    shutil.copytree(
        Path(sr_train.__file__).parent, tmp_path / "sr_train", ignore=shutil.ignore_patterns("conf", "__pycache__")
    )
    shutil.copytree(conf_folder(), tmp_path / "sr_train" / "conf", ignore=shutil.ignore_patterns("__pycache__"))
    lines = [
        "# @package _global_", "# Mine", "sede: 1", "model: {chanels: 8}", "task: {rate: fast}", "stages:",
        "  x2: {scale: 2, trainer.max_stpes: 3}", "  x4: {scale: 4, init.stage: x3, sets: [set55]}",
    ]  # fmt: skip
    (tmp_path / "sr_train" / "conf" / "experiment" / "mine.yaml").write_text("\n".join(lines))
    program = "import sys; sys.argv = ['sr-train', 'experiment=mine']; from sr_train.cli.train import main; main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for message in ("trainer.max_stpes'; did you mean max_steps", "set55"):
        assert message in done.stderr
    lines[6:] = ["  x2: {scale: 2}", "  x4: {scale: 4, init.stage: x3}"]
    (tmp_path / "sr_train" / "conf" / "experiment" / "mine.yaml").write_text("\n".join(lines))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for message in ("unknown key 'sede'; did you mean seed", "unknown key 'model.chanels'; did you mean channels"):
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
