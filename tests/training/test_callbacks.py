"""A user's own callbacks, and the numbers of steps that they and the error messages give."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from sr_train.runs.metrics import read_rows
from sr_train.training.callbacks import Explosion

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
    "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32", "validate.pictures=0", "logger=csv",
)  # fmt: skip
FOLDER = Path("runs") / "quickstart_edsr" / "x2"


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The tests' own callbacks can be imported, as a user's in the current folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "nets"))


def test_numbers_that_a_callback_logs_have_the_right_step(invoke, tmp_path):
    done = invoke(
        "sr-train", *SMALL, "sets=[]", "trainer.max_steps=8", "record.every=2", "trainer.accumulate_grad_batches=2",
        "callbacks.logs={_target_: own_callbacks.Logs}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / FOLDER / "metrics.csv")
    assert [(step, float(v)) for step, name, v in rows if name == "own/steps"] == [(2, 2), (4, 4), (6, 6), (8, 8)]
    assert [step for step, name, _ in rows if name == "train/loss"] == [2, 4, 6, 8]


def test_the_error_of_bad_steps_and_the_events_have_the_same_step_numbers(invoke, tmp_path):
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


def test_a_full_disk_at_the_start_is_reported_with_the_file(invoke, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sr_train.runs.lock.os.pwrite", full)
    done = invoke("sr-train", *SMALL, "trainer.max_steps=2")
    assert done.returncode == 1
    assert "runs/.quickstart_edsr.lock: the disk is full; free some space and run the same command again" in done.stderr


def test_an_exploding_loss_is_reported_once_and_also_at_the_last_step(invoke):
    mine = (*SMALL, "curve=constant", "task.rate=0.3", "sets=[]")
    done = invoke("sr-train", *mine, "trainer.max_steps=7", "record.every=100")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in the first step") == 1, done.stderr
    assert "step 7: the loss is" in done.stderr
    assert "with a task.rate below 0.3 or with trainer.gradient_clip_val=1" in done.stderr
    more = invoke("sr-train", *mine, "trainer.max_steps=9", "record.every=2")
    assert more.returncode == 0, more.stderr
    assert "in the first step" not in more.stderr


def losses(*values, factor=1.0):
    """The steps at which an explosion is reported, for a run with these losses."""
    explosion = Explosion()
    told = []
    for step, value in enumerate(values, 1):
        explosion.see(torch.tensor(value * factor))
        said = explosion.warning(step, value * factor, 1e-4)
        told += [step] if said else []
    return told


def test_usual_losses_are_not_reported_as_explosions():
    assert losses(0.35, 29.9, 5.8e5, 5.4e5) == [3]
    assert losses(0.35, 29.9, 5.8e5, factor=12288.0) == [3]  # summed
    assert losses(1e-7, 0.09, 0.2) == []  # a flat patch, then one of an untrained network by MSE
    assert losses(1.1, 0.3, 19.0, 40.0) == []  # a discriminator that wins for a while
    assert losses(0.02, 0.3, 0.9) == []  # warm start, then a task.rate that is too high for a few steps
    assert losses(float("nan"), 0.4, 100.0) == [3]
