"""Between logging steps no process waits for its device or for the others, but for the reduction of gradients."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from safetensors.torch import load_file

from sr_train.config.plan import plan
from sr_train.models.rrdbnet import RRDBNet
from sr_train.runs.metrics import read_rows
from sr_train.training.trainer import _nothing, build_trainer
from sr_train.weights.file import Weights, save_weights

pytestmark = pytest.mark.slow

NETS = Path(__file__).parents[1] / "nets"
STEPS = (
    "trainer.max_steps=11", "record.every=5", "validate.every=100", "checkpoint.every=100", "sets=[]", "trainer.precision=32",
    "trainer.accelerator=cpu", "data.workers=0", "data.batch=4", "logger=csv", "validate.pictures=0",
)  # fmt: skip
TWO = ("trainer.devices=2", "trainer.strategy=ddp")
QUIET = ("4", "7", "8", "9")  #: steps without a log; ddp arranges its messages in the first three
TASKS = {
    "pixel": ("experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.lr_patch=12"),
    "multiscale": ("experiment=quickstart_mdsr", "model.blocks=1", "model.channels=8", "data.lr_patch=12"),
    "gan": (
        "experiment=esrgan_x4", "stage=gan", "init.weights=start.safetensors", "data=toy", "model.blocks=1", "model.channels=8",
        "model.growth=4", "loss.perceptual=null", "data.lr_patch=8", "task.discriminator.size=32",
        "task.discriminator.channels=4",
    ),
    "video": (
        "experiment=edvr_m_x4", "stage=align", "data=toy_clips", "model.channels=8", "model.groups=2", "model.front_blocks=1",
        "model.back_blocks=1", "data.lr_patch=12", "data.train=[{hr: CLIPS}]", "curve.periods=[11]",
        "curve.weights=[1]",
    ),
}  # fmt: skip
REDUCER = (
    "_engine_run_backward"  #: called last: ddp reduces gradients, and exchanges which parameters of MDSR were used
)
#: Other waits that are allowed with several processes, by a function or file in the call. To tighten the test, remove a line.
ALLOWED = {
    "adversarial.py": "the mean of D's logits over all images is a part of the loss, as its gradient is of the backward pass",
    "batchnorm.py": "BatchNorm's statistics over all images are a part of the forward and backward pass",
    "_sync_buffers": "ddp broadcasts the buffers of process 0 before a forward pass",
    "agreement.py": "an exchange between the hosts, in the background; its result is read one step later",
}


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The counter and the tests' own losses can be imported by all processes, with one thread each."""
    monkeypatch.syspath_prepend(str(NETS))
    monkeypatch.setenv("PYTHONPATH", str(NETS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def start(folder):
    """Write a generator to start a GAN from."""
    torch.manual_seed(0)
    model = {"scale": 4, "channels": 8, "growth": 4, "blocks": 1}
    weights = Weights({"_target_": "sr_train.models.rrdbnet.RRDBNet", **model}, RRDBNet(**model).state_dict())
    save_weights(folder / "start.safetensors", weights)


def allowed(place):
    """True for a wait that cannot be avoided with several processes."""
    return REDUCER in place.partition(" < ")[0] or any(name in place for name in ALLOWED)


@pytest.mark.parametrize(
    ("task", "processes"), [*((task, 1) for task in TASKS), ("gan", 2)]
)  # a GAN's step has all kinds
def test_nothing_waits_between_logging_steps(invoke, command, tmp_path, task, processes, short_clip):
    start(tmp_path)
    more = TWO if processes == 2 else ()
    typed = [argument.replace("CLIPS", str(short_clip)) for argument in TASKS[task]]
    counter = "callbacks.waits={_target_: waits.Waits}"
    done = (command if more else invoke)("sr-train", *typed, *STEPS, *more, counter, "name=run")
    assert done.returncode == 0, done.stderr
    for rank in range(processes):
        found = json.loads((tmp_path / f"waits_{rank}.json").read_text())
        assert any("_log" in place for place in found["5"]), "the counter sees what a logging step reads"
        waits = {
            f"step {step}: {count} x {place}"
            for step in QUIET
            for place, count in found.get(step, {}).items()
            if processes == 1 or not allowed(place)
        }
        assert not waits, "\n".join(sorted(waits))


def test_lightnings_message_before_every_batch_is_off(tmp_path):
    """If Lightning renames it, this fails: the loop then waits for it again."""
    config = plan(["experiment=quickstart", *STEPS, f"paths.runs={tmp_path}"]).stages[0].config
    loop = build_trainer({**config, "logger": {}}, [], tmp_path).fit_loop.epoch_loop
    assert "_broadcast_sigterm_tensor" in _TrainingEpochLoop.advance.__code__.co_names
    assert callable(vars(_TrainingEpochLoop)["_broadcast_sigterm_tensor"])
    assert loop._broadcast_sigterm_tensor is _nothing


def test_a_loss_that_is_infinite_in_one_process_refuses_the_step_in_both(command, tmp_path):
    """Its gradient is finite: without a message from the other process, the first one would take the step."""
    bad = ("loss={_target_: infinite.Infinite, step: 4}", "record.every=1", "callbacks.states={_target_: waits.States}")
    done = command("sr-train", *TASKS["pixel"], *STEPS, *TWO, *bad, "name=run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "run" / "x2"
    states = [torch.load(tmp_path / f"states_{rank}.pt", weights_only=True) for rank in (0, 1)]
    for step in range(1, 12):
        first, second = (s[step] for s in states)
        assert all(torch.equal(first[k], second[k]) for k in first), step
        same = step > 1 and all(torch.equal(first[k], states[0][step - 1][k]) for k in first)
        assert same == (step == 4)
    refused = [(step, float(v)) for step, name, v in read_rows(folder / "metrics.csv") if name == "train/refused"]
    assert [v for _, v in refused] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    events = sorted(line.rpartition(",")[0] for line in (folder / "events.csv").read_text().splitlines())
    assert events == ["4,refused: loss not finite"], "one row for both processes"
    assert all(torch.isfinite(v).all() for v in load_file(folder / "weights.safetensors").values())
