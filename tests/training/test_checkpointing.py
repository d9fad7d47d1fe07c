"""Checkpoints leave the training thread: copied at once, written by another thread, complete before anything says so."""

import errno
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from sr_train import files
from sr_train.runs.checkpoints import list_checkpoints
from sr_train.tasks.base import SRTask
from sr_train.training import checkpointing, stage
from sr_train.training.checkpointing import Checkpoints, CheckpointWriter, dump, write_checkpoint
from sr_train.training.snapshot import Snapshot

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
    "data.lr_patch=8", "trainer.accelerator=cpu", "validate.pictures=0", "logger=csv", "sets=[]", "trainer.max_steps=6",
    "checkpoint.every=2",
)  # fmt: skip
RUN = Path("runs") / "quickstart_edsr" / "x2"


def content(value=1.0):
    weight = torch.full((4, 5), value)
    state = OrderedDict(a=weight, b=torch.full((2, 3, 8, 8), value).to(memory_format=torch.channels_last), tied=weight)
    vars(state)["_metadata"] = {"": {"version": 1}}
    return {
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(value)}}}],
        "loops": {"n": [1, (2,)]},
    }


def test_a_snapshot_is_equal_and_does_not_change_with_the_training(tmp_path):
    snapshot, training = Snapshot(), content()
    copied = snapshot.take(training)
    torch.save(training, tmp_path / "a")
    torch.save(copied, tmp_path / "b")
    for tensor in training["state_dict"].values():
        tensor.mul_(2)
    training["loops"]["n"].append(3)
    assert copied["loops"] == {"n": [1, (2,)]}
    assert copied["state_dict"]["a"].eq(1).all()
    assert copied["state_dict"]["b"].stride() == training["state_dict"]["b"].stride()
    assert vars(copied["state_dict"])["_metadata"] == {"": {"version": 1}}
    assert copied["optimizer_states"][0]["state"][0]["step"] == 1
    assert copied["state_dict"]["a"] is copied["state_dict"]["tied"]
    assert (tmp_path / "b").stat().st_size == (tmp_path / "a").stat().st_size


def test_a_snapshot_uses_its_memory_again_and_follows_new_shapes():
    snapshot = Snapshot()
    first = snapshot.take(content(1))["state_dict"]
    second = snapshot.take(content(2))["state_dict"]
    assert first["b"].data_ptr() == second["b"].data_ptr()
    assert second["b"].eq(2).all()
    other = snapshot.take({"state_dict": {"a": torch.zeros(7)}})
    assert other["state_dict"]["a"].shape == (7,)
    assert snapshot.nbytes == 28


@pytest.fixture
def held(monkeypatch):
    """Hold back every write of a checkpoint until ``held.set()``."""
    event, real = threading.Event(), checkpointing.stream

    def stream(*arguments):
        assert event.wait(30)
        real(*arguments)

    monkeypatch.setattr(checkpointing, "stream", stream)
    yield event
    event.set()


def test_the_file_is_written_by_another_thread_and_reported_when_it_is_there(held, tmp_path):
    seen = []
    writer = CheckpointWriter(tmp_path, 2, lambda step: seen.append((step, list_checkpoints(tmp_path)[0][0])))
    training = content()
    writer.start(training, 5)
    training["state_dict"]["a"].zero_()
    assert writer.collect(wait=False) is None
    assert list_checkpoints(tmp_path) == []
    assert seen == []
    held.set()
    assert writer.collect(wait=True) == 5
    assert writer.collect(wait=True) is None
    assert seen == [(5, 5)]
    assert (tmp_path / "last").read_text() == "step_00000005.ckpt\n"
    assert torch.load(tmp_path / "step_00000005.ckpt", weights_only=True)["state_dict"]["a"].eq(1).all()


class Follows:
    """A logger that keeps the steps of its checkpoints."""

    def __init__(self):
        self.steps = []

    def checkpointed(self, step):
        self.steps.append(step)


def trainer_of(monkeypatch, *loggers):
    monkeypatch.setattr(checkpointing, "dump", lambda trainer: content())
    return SimpleNamespace(is_global_zero=True, loggers=loggers, strategy=SimpleNamespace(barrier=lambda name: None))


def test_a_due_checkpoint_waits_for_the_previous_one_and_a_slow_disk_is_reported_once(held, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "_LONG", 0.05)
    logger = Follows()
    trainer: L.Trainer = trainer_of(monkeypatch, logger)  # pyright: ignore[reportAssignmentType]
    callback = Checkpoints(folder=str(tmp_path), every=1, keep=2, last=9)
    callback.save(trainer, 1)
    threading.Timer(0.2, held.set).start()
    start = time.perf_counter()
    with pytest.warns(
        UserWarning, match=r"training waited 0\.\d s because the previous checkpoint.*checkpoint\.every above 1"
    ):
        callback.save(trainer, 2)
    assert time.perf_counter() - start > 0.1
    callback.save(trainer, 3, wait=True)
    assert logger.steps == [1, 2, 3]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3, 2]


def test_ranks_above_0_write_nothing_and_do_not_wait(tmp_path, monkeypatch):
    trainer = trainer_of(monkeypatch)
    trainer.is_global_zero = False
    callback = Checkpoints(folder=str(tmp_path), every=1, keep=2, last=9)
    callback.save(trainer, 1)  # pyright: ignore[reportArgumentType]
    callback.flush(trainer)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_warning_and_the_next_checkpoint_is_written(tmp_path, monkeypatch):
    logger, real = Follows(), os.write
    trainer: L.Trainer = trainer_of(monkeypatch, logger)  # pyright: ignore[reportAssignmentType]
    callback = Checkpoints(folder=str(tmp_path), every=1, keep=2, last=9)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    text = r"step_00000001\.ckpt: NOT WRITTEN \(.*No space left.*\); the run continues; free some disk space"
    with pytest.warns(UserWarning, match=text):
        callback.save(trainer, 1, wait=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "write", real)
    callback.save(trainer, 2, wait=True)
    assert logger.steps == [2]


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_checkpoint_is_written_again_after_a_stale_handle(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0, 0.0))
    real, calls = getattr(os, name), []

    def fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) <= 2:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, fails)
    path = write_checkpoint(tmp_path, 4, 2, content())
    assert path is not None
    assert torch.load(path, weights_only=True)["state_dict"]["a"].eq(1).all()
    assert {p.name for p in tmp_path.iterdir()} == {"step_00000004.ckpt", "last"}


def test_a_file_system_that_fails_for_long_is_a_warning_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.0,))

    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.warns(
        UserWarning, match=r"NOT WRITTEN \(.*Input/output error \(2 attempts\)\); the run continues; check that"
    ):
        assert write_checkpoint(tmp_path, 4, 2, content()) is None


def test_another_error_of_the_thread_ends_the_run_as_it_does_in_the_training_thread(tmp_path):
    def fails(step):
        raise PermissionError(errno.EACCES, "Permission denied", "config.yaml")

    writer = CheckpointWriter(tmp_path, 2, fails)
    writer.start(content(), 1)
    with pytest.raises(PermissionError, match=r"config\.yaml"):
        writer.collect(wait=True)
    assert writer.collect(wait=True) is None


def test_weights_appear_after_the_last_checkpoint_is_complete(invoke, tmp_path, monkeypatch):
    real, real_save, there = checkpointing.stream, stage.save_weights, []

    def slow(*arguments):
        time.sleep(0.3)
        real(*arguments)

    def save(*arguments):
        there.append([step for step, _ in list_checkpoints(tmp_path / RUN / "checkpoints")])
        real_save(*arguments)

    monkeypatch.setattr(checkpointing, "stream", slow)
    monkeypatch.setattr(stage, "save_weights", save)
    done = invoke("sr-train", *SMALL)
    assert done.returncode == 0, done.stderr
    assert there == [[6, 4, 2]]


def test_the_pending_write_is_finished_when_the_loop_fails(invoke, tmp_path, monkeypatch):
    real, real_step = checkpointing.stream, SRTask.optimizer_step

    def slow(*arguments):
        time.sleep(0.3)
        real(*arguments)

    def step(self, *arguments, **options):
        if self.global_step == 2:
            raise ValueError("the loop fails")
        return real_step(self, *arguments, **options)

    monkeypatch.setattr(checkpointing, "stream", slow)
    monkeypatch.setattr(SRTask, "optimizer_step", step)
    done = invoke("sr-train", *SMALL)
    assert done.returncode == 1
    assert "the loop fails" in done.stderr
    assert [step for step, _ in list_checkpoints(tmp_path / RUN / "checkpoints")] == [2]


def test_the_error_of_a_write_reaches_the_user_in_one_line(invoke, tmp_path, monkeypatch):
    def fails(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "some/file")

    monkeypatch.setattr(stage.StageFolder, "checkpoint_written", fails)
    done = invoke("sr-train", *SMALL)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("some/file: Permission denied")
    assert not (tmp_path / RUN / "weights.safetensors").exists()


class Compares(L.Callback):
    """Compare the content with the file that Lightning writes."""

    def on_train_end(self, trainer, pl_module):
        path = Path(trainer.default_root_dir) / "lightning.ckpt"
        trainer.save_checkpoint(path)
        theirs, ours = torch.load(path, weights_only=True), Snapshot().take(dump(trainer))
        Compares.equal = _same(theirs, ours)


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def test_a_checkpoint_has_the_content_of_lightnings(invoke):
    done = invoke("sr-train", *SMALL, f"callbacks.c={{_target_: {Compares.__module__}.Compares}}")
    assert done.returncode == 0, done.stderr
    assert Compares.equal
