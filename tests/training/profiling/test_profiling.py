import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_train.config.build import build
from sr_train.config.plan import plan
from sr_train.runs.metrics import read_rows
from sr_train.training.callbacks import StepLog
from sr_train.training.checkpointing import Checkpoints
from sr_train.training.preflight import preflight
from sr_train.training.profiling.profiler import WARM_UP, StepProfiler, loader_alone
from sr_train.training.profiling.report import (
    BACKWARD,
    CALLBACKS,
    CHECKPOINT,
    COMMUNICATION,
    DATA,
    FORWARD,
    LOGGING,
    OPTIMIZER,
    PARTS,
    VALIDATION,
    Profile,
    Rare,
    Setup,
    advise,
    csv,
    spread,
    table,
)
from sr_train.training.profiling.step_timer import StepTimer, part_of
from sr_train.training.stage import build_task
from sr_train.training.step_callback import StepCallback
from sr_train.training.trainer import build_trainer
from sr_train.training.validation import Validate

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=4",
    "data.lr_patch=12", "curve=constant", "trainer.accelerator=cpu", "trainer.precision=32", "logger=csv", "validate.crop=32",
)  # fmt: skip


@pytest.mark.parametrize(
    ("action", "part"),
    [
        ("[_TrainingEpochLoop].train_dataloader_next", DATA),
        ("[Strategy]DDPStrategy.backward", BACKWARD),
        ("[LightningModule]PixelTask.optimizer_step", OPTIMIZER),
        ("[Callback]Validate.on_train_batch_end", VALIDATION),
        ("[Callback]Checkpoints{'every': 0.5}.on_train_batch_end", CHECKPOINT),
        ("[Callback]Record.on_train_batch_start", LOGGING),
        ("[Callback]Somebodys.on_train_batch_end", CALLBACKS),
        ("[Callback]Somebodys.on_before_optimizer_step", None),
        ("[LightningModule]PixelTask.configure_gradient_clipping", None),
        ("save_checkpoint", None),
    ],
)
def test_each_action_of_the_loop_belongs_to_a_part(action, part):
    assert part_of(action) == part


def test_each_moment_is_added_to_the_innermost_part():
    start = time.perf_counter()
    timer = StepTimer(torch.device("cpu"))
    timer.stop("[Callback]StepProfiler.on_train_batch_end")  # begun before there was a timer
    with timer.profile("[LightningModule]T.optimizer_step"):
        time.sleep(0.01)
        with timer.profile("[Strategy]S.training_step"), timer.profile("unknown"):
            time.sleep(0.03)
        with timer.profile("[Strategy]S.backward"):
            time.sleep(0.02)
    taken = timer.take()
    assert sum(taken.values()) == pytest.approx(time.perf_counter() - start, abs=2e-3)
    assert taken[OPTIMIZER] >= 0.01
    assert taken[FORWARD] >= 0.03
    assert taken[BACKWARD] >= 0.02
    assert set(timer.take()) == set(PARTS)


def test_the_cost_of_a_rare_part_is_spread_over_its_interval():
    assert spread([1.0, 1.0, 5.0], [False, False, True], 4, 99.0) == (2.0, Rare(4.0, 4, 1))
    assert spread([1.0, 1.0], [False, False], 10, 5.0) == (1.5, Rare(5.0, 10, 0))
    assert spread([3.0, 5.0], [True, True], 1, 0.0) == (4.0, Rare(4.0, 1, 2))


def _profile(loader=1e4, rare=(), **parts):
    seconds = {**dict.fromkeys(PARTS, 0.0), FORWARD: 0.03, BACKWARD: 0.06}
    seconds |= {k.replace("_", " "): v for k, v in parts.items()}
    return Profile(4, 23, seconds, dict(rare), loader, [sum(seconds.values())] * 20)


SETUP = Setup(pairs=16, workers=2, cores=8)


@pytest.mark.parametrize(
    ("profile", "setup", "said"),
    [
        (_profile(other=0.01), SETUP, "no advice: 90% of a step is the network's own computation"),
        (_profile(data_wait=0.1, loader=80), SETUP._replace(reduced=1), "prepare LR images (sr-prepare"),
        (_profile(data_wait=0.1, loader=80), SETUP._replace(decoded=1), "make a store (sr-prepare)"),
        (_profile(data_wait=0.1, loader=80), SETUP, "more loader processes: data.workers is 2"),
        (_profile(data_wait=0.1, loader=80), SETUP._replace(workers=8), "already uses all 8 cores"),
        (_profile(data_wait=0.1), SETUP, "compete for the same cores"),
        (_profile(data_wait=0.1), SETUP._replace(workers=0), "data.workers=1 or more"),
        (_profile(optimizer=0.03), SETUP, "25% of the time: give task.optimizer.fused=true, or a larger data.batch"),
        (_profile(optimizer=0.03), SETUP._replace(fused=True), "25% of the time: give a larger data.batch"),
        (_profile(optimizer=0.03), SETUP._replace(precision="16-mixed"), "25% of the time: give a larger data.batch"),
        (_profile(other=0.03), SETUP, "neither data nor network"),
        (_profile(communication=0.03), SETUP, "25% of a step is waiting for the gradients of the other processes"),
        (_profile(logging=0.01, rare={LOGGING: Rare(0.02, 2, 9)}), SETUP, "record.every=20 instead of 2"),
        (_profile(checkpoint=0.01, rare={CHECKPOINT: Rare(1.0, 100, 0)}), SETUP, "checkpoint.every=600 instead of 100"),
        (_profile(validation=0.06, rare={VALIDATION: Rare(6.0, 100, 0)}), SETUP, "validate.every=700 instead of 100"),
        (_profile(), SETUP._replace(native_bf16=True), "trainer.precision=bf16-mixed"),
        (_profile(), SETUP._replace(memory=(2, 10)), "80% of the GPU's memory is free: give a larger data.batch, or task"),
    ],
)  # fmt: skip
def test_advice_follows_from_the_numbers(profile, setup, said):
    lines = advise(profile, setup)
    assert len(lines) == 1
    assert said in lines[0]


def test_equal_steps_with_different_times_are_reported():
    assert "other programs use this machine" in advise(_profile()._replace(walls=[0.05, 0.2, 0.19]), SETUP)[0]
    assert "no advice" in advise(_profile()._replace(walls=[0.05, 0.05, 0.9]), SETUP)[0]


def test_the_advised_interval_has_a_small_share():
    lines = advise(_profile(validation=0.06, rare={VALIDATION: Rare(6.0, 100, 0)}), SETUP)
    every = int(lines[0].partition("every=")[2].split()[0])
    assert 6.0 / every / (0.09 + 6.0 / every) <= 0.1


def test_the_table_and_the_csv_file_contain_the_same_numbers():
    profile = _profile(validation=0.01, rare={VALIDATION: Rare(1.0, 100, 0)})
    text = "\n".join(table(profile, SETUP))
    assert "validation          10.00   10.0%  1,000.0 ms every 100 steps (none in these steps: timed after" in text
    assert "training 160 pairs/s; the loader alone 10,000 pairs/s" in text
    rows = [line.split(",") for line in csv(profile).splitlines()]
    assert {len(r) for r in rows} == {6}
    assert next(r for r in rows if r[0] == VALIDATION)[1:] == [
        "0.01",
        repr(profile.share(VALIDATION)),
        "1.0",
        "100",
        "0",
    ]


class Clock(StepCallback):
    """A callback of a user's that takes its time, and a clock that does not depend on what is tested."""

    def __init__(self):
        super().__init__()
        self.at = []

    def on_step_end(self, trainer, task, step):
        self.at.append(time.perf_counter())
        time.sleep(0.02)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.slow
def test_the_parts_sum_to_the_time_of_the_steps(tmp_path, accumulate):
    composed = plan([*SMALL, "trainer.max_steps=20", f"trainer.accumulate_grad_batches={accumulate}",
                     f"paths.runs={tmp_path}"])  # fmt: skip
    ready = preflight(composed)[0]
    stage, data = ready.stage, ready.data
    task = build_task(stage.config, "x2", None)
    folder = str(stage.folder)
    record = StepLog(every=2, folder=folder)
    validate = Validate(images=None, every=1, last=20, best=None, export=lambda *_: None, folder=folder)
    save = Checkpoints(folder=f"{folder}/checkpoints", every=5, keep=2, last=20)
    measure = StepProfiler(folder=folder, steps=10, record=record, validate=validate, checkpoints=save,
                      native_bf16=False, compiled=False)  # fmt: skip
    clock = Clock()
    trainer = build_trainer(stage.config, [record, validate, save, measure, clock], stage.folder)
    before = trainer.profiler
    trainer.fit(task, datamodule=data)
    assert trainer.profiler is before
    assert [step for step, _ in measure.rows] == list(range(WARM_UP + 1, WARM_UP + 11))
    booked = sum(sum(row.values()) for _, row in measure.rows)
    assert booked == pytest.approx(clock.at[WARM_UP + 9] - clock.at[WARM_UP - 1], rel=0.03)
    for _, row in measure.rows:
        assert row[CALLBACKS] >= 0.02
        assert min(row[p] for p in (DATA, FORWARD, BACKWARD, OPTIMIZER, LOGGING)) > 0
    saved = {step: row[CHECKPOINT] for step, row in measure.rows}
    assert saved[5] > saved[6]
    lines = (stage.folder / "profile" / "profile.txt").read_text().splitlines()
    assert "steps (5 in these steps)" in next(x for x in lines if "logging" in x)


def test_a_profiled_run_has_the_same_weights_logs_and_random_numbers(invoke, tmp_path):
    arguments = ("sr-train", *SMALL, "trainer.max_steps=16", "record.every=2", "data.workers=1", "validate.every=16")
    after = []
    for name in ("plain", "measured"):
        extra = ("profile=true", "profile_steps=5") if name == "measured" else ()
        done = invoke(*arguments, f"name={name}", *extra)
        assert done.returncode == 0, done.stderr
        after.append(torch.get_rng_state())
    plain, measured = (tmp_path / "runs" / n / "x2" for n in ("plain", "measured"))
    one, two = load_file(plain / "weights.safetensors"), load_file(measured / "weights.safetensors")
    assert all(torch.equal(one[k], two[k]) for k in one)
    rows = [[r for r in read_rows(f / "metrics.csv") if not r[1].startswith("speed/")] for f in (plain, measured)]
    assert rows[0] == rows[1]
    assert torch.equal(*after)
    assert "profile of steps 4 to 8, 32-true" in done.stdout
    assert "timed after them" in done.stdout
    assert not (plain / "profile").exists()
    assert {p.name for p in (measured / "profile").iterdir()} == {"profile.txt", "profile.csv", "trace.json"}
    events = json.loads((measured / "profile" / "trace.json").read_text())["traceEvents"]
    assert {FORWARD, BACKWARD, OPTIMIZER, DATA} <= {e["name"] for e in events}
    # It may be left out, or asked for, in another sitting; it then measures that sitting's first steps.
    more = invoke(*arguments, "name=plain", "trainer.max_steps=21", "profile=true")
    assert more.returncode == 0, more.stderr
    assert "profile of steps 20 to 21" in more.stdout
    assert not (plain / "profile" / "trace.json").exists()


def test_a_run_too_short_for_a_profile_reports_this_and_succeeds(invoke):
    done = invoke("sr-train", *SMALL, "trainer.max_steps=3", "profile=true")
    assert done.returncode == 0, done.stderr
    assert "no step was measured, because the run ended within the 3" in done.stdout


def test_wrong_options_of_the_profile_are_reported(invoke):
    assert "profile_steps=0: expected" in invoke("sr-train", *SMALL, "profile_steps=0").stderr
    assert "profile=20: expected true or false" in invoke("sr-train", *SMALL, "profile=20").stderr


def test_timing_the_loader_does_not_affect_the_loader_of_the_run():
    composed = plan(list(SMALL))
    data = build(composed.stages[0].config["data"])
    own = iter(data.train_dataloader())
    keys = [next(own)["key"]]
    assert loader_alone(data, 2) > 0
    keys.append(next(own)["key"])
    other = iter(data.train_dataloader())
    assert keys == [next(other)["key"], next(other)["key"]]


def test_two_processes_print_one_table(command, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = command("sr-train", *SMALL, "trainer.max_steps=14", "profile=true", "profile_steps=5",
                   "trainer.devices=2", "trainer.strategy=ddp")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("profile of steps 4 to 8") == 1
    assert (tmp_path / "runs" / "quickstart_edsr" / "x2" / "profile" / "trace.json").exists()


def test_the_wait_for_a_slower_process_is_communication(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "nets"))
    slow = "callbacks.slow={_target_: brakes.SlowRank, seconds: 0.15, rank: 1}"
    done = command(
        "sr-train",
        *SMALL,
        slow,
        "sets=[]",
        "trainer.max_steps=11",
        "trainer.devices=2",
        "profile=true",
        "profile_steps=6",
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/quickstart_edsr/x2/profile"
    rows = [line.split(",") for line in (folder / "profile.csv").read_text().splitlines()[1:]]
    seconds = {part: float(value) for part, value, *_ in rows}
    assert 0.1 < seconds[COMMUNICATION] < 0.25
    assert seconds[BACKWARD] < 0.1
    assert "2 processes exchange gradients for" in (folder / "profile.txt").read_text()
