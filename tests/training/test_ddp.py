"""Two processes (gloo, plain ddp) train the network that one process trains on the same global batch."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from sr_train.models.rrdbnet import RRDBNet
from sr_train.runs.checkpoints import list_checkpoints, read_checkpoint
from sr_train.weights.file import Weights, save_weights

pytestmark = pytest.mark.slow

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "task.rate=1e-4", "curve=constant", "trainer.max_steps=20",
    "trainer.precision=32", "trainer.accelerator=cpu",
    "data.workers=0", "data.batch=8", "data.lr_patch=16", "validate.every=20", "record.every=10",
    "checkpoint.every=10", "logger=csv",
)  # fmt: skip


def relative_l2(a, b):
    difference = sum(float(((a[k] - b[k]).double() ** 2).sum()) for k in a)
    return (difference / sum(float((a[k].double() ** 2).sum()) for k in a)) ** 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


def test_two_processes_equal_one(command, invoke, folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = invoke("sr-train", *SMALL, "name=one", cwd=folder)
    assert one.returncode == 0, one.stderr
    two = command("sr-train", *SMALL, "name=two", "trainer.devices=2", "trainer.strategy=ddp", cwd=folder)
    assert two.returncode == 0, two.stderr
    weights = {n: load_file(folder / "runs" / n / "x2" / "weights.safetensors") for n in ("one", "two")}
    start = relative_l2(weights["one"], {k: torch.zeros_like(v) for k, v in weights["one"].items()})
    assert start == pytest.approx(1)
    assert relative_l2(weights["one"], weights["two"]) < 1e-5
    rows = [(folder / "runs" / n / "x2" / "metrics.csv").read_text() for n in ("one", "two")]
    names = [[line.rsplit(",", 1)[0] for line in text.splitlines()] for text in rows]
    assert names[0] == names[1]


SRRESNET = (
    "experiment=srresnet_x4", "data=toy", "sets=[toy]", "model.channels=8", "model.blocks=2", "task.rate=1e-3",
    "curve=constant", "trainer.precision=32", "trainer.accelerator=cpu", "data.workers=0", "data.batch=8", "data.lr_patch=12",
    "validate.every=100", "validate.pictures=0", "checkpoint.every=4", "logger=csv",
)  # fmt: skip


def test_batchnorm_on_one_two_and_one_process_is_that_of_one(command, invoke, folder, monkeypatch):
    """One and two threads differ by 1.1e-4 here, two processes with local statistics by 1.3e-2."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = ("trainer.devices=2", "trainer.strategy=ddp")
    runs = [("bn1", invoke, 12, ()), ("bn2", command, 12, two)]
    runs += [("bn3", invoke, 4, ()), ("bn3", command, 8, two), ("bn3", invoke, 12, ())]  # a run may change the number
    for name, run, last, more in runs:
        done = run("sr-train", *SRRESNET, f"name={name}", f"trainer.max_steps={last}", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert ("stage psnr: BatchNorm: statistics over all 2 devices\n" in done.stdout) == (more == two)
        assert done.stdout.count("BatchNorm") == (more == two), "only process 0 prints it"
    one, two, mixed = (load_file(folder / "runs" / f"bn{n}" / "psnr" / "weights.safetensors") for n in (1, 2, 3))
    assert {int(v) for k, v in two.items() if "num_batches" in k} == {12}
    assert relative_l2(one, two) < 3e-4
    assert relative_l2(one, mixed) < 3e-4


def test_a_batch_that_two_devices_cannot_share_is_refused(invoke, folder):
    done = invoke(
        "sr-train", *SMALL, "name=odd", "data.batch=7", "trainer.devices=2", "trainer.strategy=ddp", cwd=folder
    )
    assert done.returncode != 0
    assert "data.batch=7 cannot be divided by 2 x " in done.stderr


GAN = (
    "experiment=esrgan_x4", "stage=gan", "init.weights=start.safetensors", "data=toy", "sets=[toy]", "model.blocks=1",
    "model.channels=16", "model.growth=8", "loss.perceptual=null", "trainer.max_steps=10", "trainer.precision=32",
    "trainer.accelerator=cpu", "data.workers=0", "data.batch=8", "data.lr_patch=8", "validate.pictures=0", "logger=csv",
    "task.discriminator.size=32", "trainer.gradient_clip_val=1",
)  # fmt: skip
ALONE = (
    "task.discriminator_steps=2", "task.discriminator_first=3", "task.discriminator_clip=0.5",
    "task.penalty={_target_: sr_train.losses.penalties.WGANGP, weight: 10, every: 2}",
)  # fmt: skip
PLAIN = """
from torch import nn

class Discriminator(nn.Sequential):
    # Without BatchNorm, which makes rounding large, and without biases: a relativistic loss does not depend on the last one,
    # nor on one whose units are all on one side of zero, and Adam makes whole steps of the rounding that is left as their
    # gradient.

    def __init__(self, *, size: int = 32):
        last = nn.Linear(size * size // 2, 1, bias=False)
        super().__init__(nn.Conv2d(3, 8, 4, 4, bias=False), nn.LeakyReLU(0.2), nn.Flatten(), last)
"""


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        (("task.discriminator._target_=plain.Discriminator", *ALONE), 1e-5),
        (("task.discriminator.channels=4", "init.weights=start.safetensors"), 2e-5),
    ],
    ids=["without BatchNorm, with updates of the discriminator alone", "with BatchNorm"],
)
def test_a_gan_on_two_processes_equals_one(command, invoke, folder, monkeypatch, options, bound):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    (folder / "plain.py").write_text(PLAIN)
    torch.manual_seed(0)
    model = {"scale": 4, "channels": 16, "growth": 8, "blocks": 1}
    start = Weights({"_target_": "sr_train.models.rrdbnet.RRDBNet", **model}, RRDBNet(**model).state_dict())
    save_weights(folder / "start.safetensors", start)
    names, two = [f"gan{processes}-{bound}" for processes in (1, 2)], ("trainer.devices=2", "trainer.strategy=ddp")
    for run, name, more in zip((invoke, command), names, ((), two), strict=True):
        done = run("sr-train", *GAN, *options, f"name={name}", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    states = [
        read_checkpoint(list_checkpoints(folder / "runs" / n / "gan" / "checkpoints")[0][1]).content["state_dict"]
        for n in names
    ]
    for network in ("model.", "ema.module.", "discriminator."):
        one, two = ({k: v for k, v in s.items() if k.startswith(network)} for s in states)
        assert relative_l2(one, two) < bound, network
    assert relative_l2({k: v for k, v in start.state.items()}, {k: states[0][f"model.{k}"] for k in start.state}) > 1e-4


MDSR = (
    "experiment=quickstart_mdsr", "model.blocks=2", "model.channels=16", "task.rate=1e-4", "curve=constant",
    "trainer.max_steps=8", "trainer.precision=32", "trainer.accelerator=cpu", "data.workers=0", "data.batch=8",
    "data.lr_patch=12", "sets=[]", "record.every=4", "checkpoint.every=4", "logger=csv",
)  # fmt: skip


def test_an_mdsr_on_two_processes_equals_one(command, invoke, folder, monkeypatch):
    """Both train the same scale at a step, whose other branches have no gradient, with accumulation as well."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accumulate_grad_batches=2")
    for run, name, more in ((invoke, "mdsr1", ()), (command, "mdsr2", two)):
        done = run("sr-train", *MDSR, f"name={name}", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    checkpoints = [
        read_checkpoint(list_checkpoints(folder / "runs" / n / "main" / "checkpoints")[-1][1]).content
        for n in ("mdsr1", "mdsr2")
    ]
    one, two = (c["state_dict"] for c in checkpoints)
    for network in ("model.", "ema.module."):
        assert relative_l2(*({k: v for k, v in s.items() if k.startswith(network)} for s in (one, two))) < 1e-5
    counts = [{k: int(s["step"]) for k, s in c["optimizer_states"][0]["state"].items()} for c in checkpoints]
    assert counts[0] == counts[1]
    assert set(counts[0].values()) != {8}, "Adam counts a branch's own steps"
    rows = [(folder / "runs" / n / "main" / "metrics.csv").read_text() for n in ("mdsr1", "mdsr2")]
    names = [[line.rsplit(",", 1)[0] for line in text.splitlines()] for text in rows]
    assert names[0] == names[1]


EDVR = (
    "experiment=edvr_m_x4", "data=toy_clips", "model.channels=8",
    "model.groups=2", "model.front_blocks=1", "model.back_blocks=1", "data.train=[{hr: 'toy_clips:coffee'}]",
    "align.curve.periods=[4]", "align.curve.weights=[1]", "tsa.curve.periods=[3]",
    "full.curve.periods=[4]", "full.curve.weights=[1]", "align.trainer.max_steps=4", "tsa.trainer.max_steps=3",
    "full.trainer.max_steps=4", "trainer.precision=32", "trainer.accelerator=cpu", "data.workers=0", "data.batch=4",
    "data.lr_patch=16", "validate.every=100", "validate.pictures=0", "logger=csv",
)  # fmt: skip


def test_an_edvr_on_two_processes_equals_one_in_its_three_stages(command, invoke, folder, monkeypatch, short_clip):
    """In the second one, only the fusion has gradients."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for run, name, more in ((invoke, "edvr1", ()), (command, "edvr2", ("trainer.devices=2", "trainer.strategy=ddp"))):
        done = run("sr-train", *EDVR, f"sets={{short: {{hr: {short_clip}}}}}", f"name={name}", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    for stage in ("align", "tsa", "full"):
        one, two = (load_file(folder / "runs" / n / stage / "weights.safetensors") for n in ("edvr1", "edvr2"))
        assert relative_l2(one, two) < 1e-5, stage


def test_jobs_of_a_sweep_run_on_two_processes_each(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny = (
        "model.blocks=1",
        "model.channels=4",
        "trainer.max_steps=2",
        "sets=[]",
        "trainer.devices=2",
        "trainer.strategy=ddp",
    )
    program = [sys.executable, "-m", "sr_train", "train", "-m"]
    done = subprocess.run(
        [*program, *SMALL, *tiny, "name=sw", "seed=1,2"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for name in ("seed-1", "seed-2"):
        assert (folder / "runs" / "sw" / name / "x2" / "weights.safetensors").exists()
    assert not (folder / "multirun.yaml").exists()
