"""A run that a callback stops: finished by EarlyStopping, left open by all others."""

import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer
from safetensors.torch import load_file

from sr_train.config.plan import plan
from sr_train.console import UsageError
from sr_train.runs.checkpoints import list_checkpoints
from sr_train.training import user_callbacks
from sr_train.training.checkpointing import Checkpoints
from sr_train.training.outline import score_names
from sr_train.training.stopping import Stop, still_finished
from sr_train.training.user_callbacks import name_of, own_callbacks
from sr_train.weights.file import load_weights

SMALL = (
    "experiment=quickstart_edsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2", "data.lr_patch=8",
    "trainer.accelerator=cpu", "trainer.precision=32", "validate.pictures=0", "logger=csv", "curve=constant",
    "checkpoint.every=4", "sets=[]",
)  # fmt: skip
ONE = (*SMALL, "stage=x2")
TINY = ("sets.tiny={hr: photographs}", "validate.metrics=[psnr]", "validate.protocols=[rgb]")
SCORE = "tiny/rgb/psnr"
EARLY = "lightning.pytorch.callbacks.EarlyStopping"
BEYOND_5_DB = f"callbacks.early={{_target_: {EARLY}, monitor: {SCORE}, mode: max, stopping_threshold: 5}}"
STOPS = "callbacks.mine={_target_: own_callbacks.Stops}"
RUN = Path("runs") / "quickstart_edsr"


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "nets"))
    yield
    sys.modules.pop("own_callbacks", None)


def steps_of(folder):
    return [step for step, _ in list_checkpoints(folder / "checkpoints")]


def test_early_stopping_finishes_each_stage_at_its_score(invoke, tmp_path, photographs):
    done = invoke("sr-train", *SMALL, *TINY, BEYOND_5_DB, "trainer.max_steps=8", "validate.every=3")
    assert done.returncode == 0, done.stderr
    for stage in ("x2", "x4"):
        assert f"stage {stage}: finished by EarlyStopping at step 3" in done.stdout
        weights = load_weights(tmp_path / RUN / stage / "weights.safetensors")
        assert weights.origin["step"] == 3
        assert weights.scores[SCORE] > 5
        assert steps_of(tmp_path / RUN / stage) == [3]


def test_a_stage_finished_by_early_stopping_stays_finished_until_it_is_extended(invoke, tmp_path, photographs):
    folder, more = tmp_path / RUN / "x2", ("validate.every=2", *TINY)
    assert invoke("sr-train", *ONE, BEYOND_5_DB, *more, "trainer.max_steps=8").returncode == 0
    first = load_file(folder / "weights.safetensors")
    again = invoke("sr-train", *ONE, BEYOND_5_DB, *more, "trainer.max_steps=8", STOPS)
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
    assert "; by EarlyStopping at step 2)" in again.stdout
    (folder / "weights.safetensors").unlink()  # killed before they were written
    again = invoke("sr-train", *ONE, BEYOND_5_DB, *more, "trainer.max_steps=8")
    assert again.returncode == 0, again.stderr
    assert steps_of(folder) == [2]
    assert all(torch.equal(v, first[k]) for k, v in load_file(folder / "weights.safetensors").items())
    raised = invoke("sr-train", *ONE, BEYOND_5_DB, *more, "trainer.max_steps=12")
    assert "from step 2 (step_00000002.ckpt) to step 12" in raised.stdout, raised.stderr
    assert "finished by EarlyStopping at step 4" in raised.stdout


def test_another_callback_leaves_the_stage_open_and_the_same_command_continues_it_exactly(invoke, tmp_path):
    accumulate = ("trainer.accumulate_grad_batches=2", "trainer.max_steps=5")
    stopped = invoke("sr-train", *ONE, *accumulate, STOPS)  # after three micro-batches: within the second step
    assert stopped.returncode == 75, stopped.stderr
    assert "stopped by Stops at step 2; continue with: sr-train experiment=quickstart_edsr" in stopped.stderr
    folder = tmp_path / RUN / "x2"
    assert steps_of(folder) == [2]
    assert not (folder / "weights.safetensors").exists()
    later = STOPS.replace("}", ", batches: 99}")
    assert invoke("sr-train", *ONE, *accumulate, later).returncode == 0
    assert invoke("sr-train", *ONE, *accumulate, "name=whole").returncode == 0
    whole = load_file(tmp_path / "runs" / "whole" / "x2" / "weights.safetensors")
    assert all(torch.equal(v, whole[k]) for k, v in load_file(folder / "weights.safetensors").items())


def test_a_time_limit_counts_one_process_and_leaves_the_stage_open(invoke, tmp_path, monkeypatch):
    key = "trainer.max_time=00:00:00:05"
    seconds = iter(range(1000))
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": next(seconds) + self._offset)
    stopped = invoke("sr-train", *ONE, key, "trainer.max_steps=9", "checkpoint.every=20")
    assert stopped.returncode == 75, stopped.stderr
    assert f"stopped by {key} at step " in stopped.stderr
    reached = steps_of(tmp_path / RUN / "x2")[0]
    assert 0 < reached < 9
    seconds = iter([0] * 3 + [9] * 1000)
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": next(seconds) + self._offset)
    again = invoke("sr-train", *ONE, key, "trainer.max_steps=9", "checkpoint.every=20")
    assert again.returncode == 75, again.stderr
    assert steps_of(tmp_path / RUN / "x2")[0] == reached + 3


def test_a_sweep_continues_after_a_job_that_is_left_open(invoke, tmp_path):
    swept = invoke("sr-train", "-m", *ONE, "trainer.max_steps=5", f"+{STOPS}", "task.rate=1e-3,2e-3")
    assert swept.returncode == 75, swept.stderr
    assert swept.stderr.count("stopped by Stops at step 3") == 2
    assert len(list(tmp_path.rglob("step_00000003.ckpt"))) == 2


def test_a_callback_is_called_for_validation_and_reads_its_scores(invoke, photographs):
    done = invoke(
        "sr-train",
        *ONE,
        *TINY,
        "callbacks.sees={_target_: own_callbacks.Sees}",
        "trainer.max_steps=4",
        "validate.every=2",
    )
    assert done.returncode == 0, done.stderr
    import own_callbacks  # pyright: ignore[reportMissingImports]

    (s1, e1, end1), (s2, e2, end2) = own_callbacks.Sees.seen[:3], own_callbacks.Sees.seen[3:]
    assert [x[:2] for x in (s1, e1, end1)] == [(2, "start"), (2, "epoch_end"), (2, "end")]
    assert s1[2] is None
    assert e1[2] == end1[2] == s2[2] != e2[2] == end2[2]
    assert end1[2] > 5


CONFIG = (*ONE, "trainer.max_steps=4", "sets=[toy]")


def built(*arguments):
    config = plan([*CONFIG, *arguments]).stages[0].config
    return own_callbacks(config, score_names(config, {}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["callbacks.e={_target_: %s, monitor: val_loss}"], r"callbacks\.e: monitor=val_loss is not measured; choose from toy"),
        (["callbacks.e={_target_: %s, monitor: toy/y/psnr, mode: max}", "sets=[]"], r"there is no validation.*give sets="),
        (["callbacks.e={_target_: %s, monitor: toy/y/psnr, mode: max, check_on_train_epoch_end: true}"], "one endless epoch"),
        (["callbacks.t={_target_: lightning.pytorch.callbacks.Timer, interval: epoch}"], "one endless epoch"),
        (["trainer.max_time=soon"], r"trainer\.max_time=soon: expected DD:HH:MM:SS"),
        (["trainer.max_time=00:00:00:00"], r"trainer\.max_time=00:00:00:00: expected DD:HH:MM:SS above zero"),
        (["trainer.max_time=00:01:00:00", "callbacks.t={_target_: lightning.pytorch.callbacks.Timer}"], "a Timer already"),
    ],
)  # fmt: skip
def test_callbacks_that_could_never_stop_the_run_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        built(*(a.replace("%s", EARLY) for a in arguments))


def test_early_stopping_may_monitor_numbers_of_other_callbacks_and_a_wrong_mode_is_reported():
    other = "callbacks.logs={_target_: own_callbacks.Logs}"
    assert len(built(f"callbacks.e={{_target_: {EARLY}, monitor: own/steps}}", other)) == 2
    with pytest.warns(UserWarning, match="mode=min, but higher is better for toy/y/psnr"):
        built(f"callbacks.e={{_target_: {EARLY}, monitor: toy/y/psnr}}")


def test_the_preflight_refuses_such_callbacks_with_code_2(invoke):
    refused = invoke("sr-train", *CONFIG, f"callbacks.e={{_target_: {EARLY}, monitor: val_loss}}", "check=true")
    assert refused.returncode == 2
    assert "monitor=val_loss is not measured" in refused.stderr


def test_the_callback_that_stopped_a_run_is_reported_by_the_name_that_the_user_knows():
    config = plan(list(CONFIG)).stages[0].config
    assert name_of(Timer({"seconds": 1}), config) == "Timer"
    assert name_of(None, config) == "PixelTask"


def test_a_new_patience_is_used_and_restarts_in_an_extended_stage():
    early = EarlyStopping("toy/y/psnr", mode="max", patience=7)
    stop = Stop(Checkpoints(folder="unused", every=1, keep=2, last=9), own=[early], specs=[{"patience": 7}])
    state = {**early.state_dict(), "patience": 3, "wait_count": 2}
    trainer = SimpleNamespace(max_steps=20, should_stop=False)
    checkpoint = {"callbacks": {early.state_key: dict(state)}}
    stop.on_load_checkpoint(trainer, L.LightningModule(), checkpoint)  # pyright: ignore[reportArgumentType]
    assert checkpoint["callbacks"][early.state_key] == {**state, "patience": 7}
    finished = {"by": "EarlyStopping", "step": 6, "max_steps": 20, "callback": {"patience": 3}}
    checkpoint = {"callbacks": {early.state_key: {**state, "stopping_reason": 1}}, "finished": finished}
    stop.on_load_checkpoint(trainer, L.LightningModule(), checkpoint)  # pyright: ignore[reportArgumentType]
    assert checkpoint["callbacks"][early.state_key] == {**state, "patience": 7, "wait_count": 0}
    assert not trainer.should_stop


def test_a_stage_stays_finished_with_the_same_callback_and_steps():
    finished = {"by": "EarlyStopping", "step": 6, "max_steps": 20, "callback": {"patience": 3}}
    assert still_finished(finished, 20, [{"patience": 3}, {"other": 1}])
    assert still_finished(finished, 10, [{"patience": 3}])
    assert not still_finished(finished, 21, [{"patience": 3}])
    assert not still_finished(finished, 20, [{"patience": 4}])
    assert not still_finished(finished, 20, [])


def test_the_stages_of_a_run_share_one_clock(monkeypatch):
    config = plan([*ONE, "trainer.max_time=00:00:01:00"]).stages[0].config
    user_callbacks.start_clock()
    now = user_callbacks.time.monotonic()
    monkeypatch.setattr(user_callbacks.time, "monotonic", lambda: now + 45)  # the first stage took so long
    (timer,) = own_callbacks(config, [])
    assert timer.time_remaining() == pytest.approx(15, abs=1)
    monkeypatch.setattr(user_callbacks.time, "monotonic", lambda: now + 90)
    (timer,) = own_callbacks(config, [])
    assert timer.time_remaining() <= 0
