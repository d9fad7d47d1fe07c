"""Damaged training images in mid-run: events with their names, a count, and the same run on any number of processes."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_train.runs.metrics import read_rows
from sr_train.training.callbacks import StepLog

RUN = (
    "sr-train", "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=4", "data.batch=4",
    "data.lr_patch=12", "trainer.accelerator=cpu", "trainer.precision=32", "sets=[]", "logger=csv", "curve=constant",
    "record.every=4", "checkpoint.every=3", "data.train=[{hr: hr}]", "callbacks.damage={_target_: damage.Damage}",
)  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, photographs, monkeypatch):
    """A folder hr of four images; the tests' own callback damages one of them after the start of training."""
    photographs.rename(tmp_path / "hr")
    nets = str(Path(__file__).parents[1] / "nets")
    monkeypatch.syspath_prepend(nets)
    monkeypatch.setenv("PYTHONPATH", nets)
    return tmp_path


def result(place, name):
    folder = place / "runs" / name / "x2"
    events = sorted((folder / "events.csv").read_text().splitlines(), key=lambda line: int(line.partition(",")[0]))
    counts = {step: float(v) for step, key, v in read_rows(folder / "metrics.csv") if key == "train/skipped"}
    return events, counts, load_file(folder / "weights.safetensors")


def test_a_damaged_image_is_skipped_named_and_counted_also_after_a_resume_and_on_two_processes(invoke, command, place):
    done = invoke(*RUN, "data.workers=0", "trainer.max_steps=10", "name=alone")
    assert done.returncode == 0, done.stderr
    events, counts, weights = result(place, "alone")
    assert len(events) > 3
    for line in events:
        step, what, image = line.split(",")
        assert 1 <= int(step) <= 10
        assert what.startswith("skipped: hr/0001.png: corrupt or truncated image")
        assert image == "0001"
    assert counts == {step: sum(int(e.partition(",")[0]) <= step for e in events) for step in (4, 8)}
    assert done.stderr.count("skipped: hr/0001.png") == 1
    assert "Traceback" not in done.stderr

    first = invoke(*RUN, "data.workers=1", "trainer.max_steps=5", "name=resumed")
    second = invoke(*RUN, "data.workers=1", "trainer.max_steps=10", "name=resumed")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    again = result(place, "resumed")
    assert (again[0], again[1]) == (events, counts)
    assert all(torch.equal(weights[k], v) for k, v in again[2].items())

    two = command(
        *RUN, "data.workers=1", "trainer.max_steps=10", "name=two", "trainer.devices=2", "trainer.strategy=ddp"
    )
    assert two.returncode == 0, two.stderr
    both = result(place, "two")
    assert (sorted(both[0]), both[1]) == (sorted(events), counts)


def test_a_run_whose_files_are_gone_ends_with_one_message(command, place):
    gone = "callbacks.damage={_target_: damage.Damage, remove: true}"
    done = command(*RUN[:-1], gone, "data.workers=1", "trainer.max_steps=40", "data.patience=3", "name=gone")
    assert done.returncode == 1
    assert "3 training images drawn in a row cannot be read (data.patience=3)" in done.stderr
    assert re.search(r"  hr/000\d\.png: cannot be read: No such file or directory", done.stderr)
    assert "Traceback" not in done.stderr
    assert "Caught" not in done.stderr


def test_the_count_of_a_checkpoint_of_an_earlier_version_is_zero(tmp_path):
    log = StepLog(every=1, folder=str(tmp_path))
    log.skipped.total = 7
    log.on_load_checkpoint(None, None, {})  # pyright: ignore[reportArgumentType]
    assert log.skipped.total == 0
    log.on_load_checkpoint(None, None, {"skipped": 3})  # pyright: ignore[reportArgumentType]
    assert log.skipped.total == 3
