"""A user's own callbacks, and the numbers of steps that they and the error messages give."""

import errno
import os
import threading
from pathlib import Path

import pytest

from sr_train.records import read_rows

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
    "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32", "validate.pictures=0", "logger=csv",
)  # fmt: skip
FOLDER = Path("runs") / "quickstart_edsr" / "x2"


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The tests' own callbacks can be imported, as a user's in the current folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "nets"))


def test_what_a_callback_logs_arrives_with_the_rows_under_the_number_of_its_step(invoke, tmp_path):
    done = invoke(
        "sr-train", *SMALL, "sets=[]", "trainer.max_steps=8", "record.every=2", "trainer.accumulate_grad_batches=2",
        "callbacks.logs={_target_: own_callbacks.Logs}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / FOLDER / "metrics.csv")
    assert [(step, float(v)) for step, name, v in rows if name == "own/steps"] == [(2, 2), (4, 4), (6, 6), (8, 8)]
    assert [step for step, name, _ in rows if name == "train/loss"] == [2, 4, 6, 8]


def test_the_error_of_bad_steps_and_the_events_count_alike(invoke, tmp_path):
    done = invoke(
        "sr-train", *SMALL, "sets=[]", "trainer.max_steps=30", "task.rate=1e30", "task.patience=2", "task.ema=null"
    )
    assert done.returncode == 1
    events = (tmp_path / FOLDER / "events.csv").read_text().splitlines()
    last = int(events[-1].partition(",")[0])
    assert f"step {last}: loss or gradient was not finite in 2 steps in a row" in done.stderr


def test_a_run_in_a_thread_trains_without_taking_signals(tmp_path, monkeypatch):
    from sr_train.cli.train import train

    monkeypatch.chdir(tmp_path)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(train([*SMALL, "sets=[]", "trainer.max_steps=2"])))
    thread.start()
    thread.join(120)
    assert codes == [0]
    assert (tmp_path / FOLDER / "weights.safetensors").exists()


def test_a_disk_that_is_full_at_the_start_is_named_by_its_file(invoke, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sr_train.cli.lock.os.pwrite", full)
    done = invoke("sr-train", *SMALL, "trainer.max_steps=2")
    assert done.returncode == 1
    assert "runs/.quickstart_edsr.lock: the disk is full; make room and run the same command again" in done.stderr
