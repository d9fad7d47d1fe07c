"""Before an earlier stage is trained on, every later stage that has begun is compared with the command; nothing is changed."""

import hashlib
from pathlib import Path

import pytest
import torch
from helpers import equal
from safetensors.torch import load_file, save_file

from sr_train.runs.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

B = (
    "experiment=quickstart", "name=a", "model.channels=8", "model.growth=4", "model.blocks=1", "data.lr_patch=8",
    "data.batch=2", "trainer.max_steps=4", "checkpoint.every=2", "validate.every=1000", "record.every=1", "sets=[]",
    "logger=csv", "optimizer=adam", "task.rate=1e-4", "gan.loss=gan", "gan.discriminator=vgg",
    "gan.task.discriminator.size=32", "gan.task.discriminator.channels=4", "data.workers=0",
    "trainer.accelerator=cpu", "trainer.precision=32", "curve=constant",
)  # fmt: skip
GAN = Path("runs") / "a" / "gan"


def _digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def finished(invoke, tmp_path):
    """A finished run of two stages, and a function that tries a command on it."""
    assert invoke("sr-train", *B).returncode == 0

    def attempt(*arguments):
        before = _digests(tmp_path / "runs")
        done = invoke("sr-train", *B, *arguments)
        return done, _digests(tmp_path / "runs") == before

    return attempt


def test_a_stage_is_not_extended_under_a_later_one(finished, invoke, tmp_path):
    done, unchanged = finished("trainer.max_steps=6")
    assert (done.returncode, unchanged) == (1, True)
    assert (
        "runs/a/gan: stage gan was started from the weights of stage psnr, which is finished at step 4. This command would "
        "train psnr on to step 6, after which gan could not continue; nothing was changed.\nname=OTHER trains all stages"
    ) in done.stderr
    # The choices that the message names:
    done, _ = finished("trainer.max_steps=6", "stage=psnr")
    assert done.returncode == 0, done.stderr
    assert "stage gan: was trained from stage psnr as it is now; its weights are kept" in done.stdout
    done, unchanged = finished("trainer.max_steps=6", "stage=gan")
    assert (done.returncode, unchanged) == (1, True)  # psnr has other weights now
    other = invoke("sr-train", *B, "name=b", "stage=gan", "gan.init.weights=runs/a/psnr")
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "runs" / "b" / "gan" / "weights.safetensors").exists()
    assert (tmp_path / GAN / "weights.safetensors").exists()


def test_a_later_stage_that_does_not_fit_is_refused_before_an_earlier_one_is_trained(finished):
    for options in (["gan.task.discriminator.channels=8"], ["model.channels=16"]):
        done, unchanged = finished("trainer.max_steps=6", *options, "resume=force")
        assert (done.returncode, unchanged) == (1, True)
        assert (
            "runs/a/gan/checkpoints/step_00000004.ckpt: does not fit this command; nothing was changed" in done.stderr
        )
        assert "delete" not in done.stderr


def test_the_later_stage_alone_may_be_extended(finished):
    done, _ = finished("gan.trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    assert "stage psnr: already finished" in done.stdout


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("task.optimizer.betas=[0.5,0.9]", "betas", [0.5, 0.9]),
        ("task.optimizer.eps=1e-4", "eps", 1e-4),
        ("task.optimizer.weight_decay=0.1", "weight_decay", 0.1),
        ("task.optimizer.amsgrad=false", None, None),
    ],
)
def test_changed_options_of_the_optimizer_are_used_and_moments_kept(invoke, tmp_path, option, name, value):
    call = (*B, "stage=psnr")
    assert invoke("sr-train", *call).returncode == 0
    assert invoke("sr-train", *call, "name=same", "trainer.max_steps=6").returncode == 0
    before = read_checkpoint(tmp_path / "runs" / "a" / "psnr" / "checkpoints" / "step_00000004.ckpt").content
    done = invoke("sr-train", *call, "trainer.max_steps=6", option, "resume=force")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "a" / "psnr"
    after = read_checkpoint(folder / "checkpoints" / "step_00000006.ckpt").content
    events = folder / "events.csv"
    weights = [load_file(tmp_path / "runs" / n / "psnr" / "weights.safetensors") for n in ("a", "same")]
    if name is None:  # the default typed: no change, and bit for bit an undisturbed run
        assert "task.optimizer" not in (events.read_text() if events.exists() else "")
        assert equal(*weights)
        return
    assert not equal(*weights)
    groups = after["optimizer_states"][0]["param_groups"]
    assert all(list(g[name]) == value if isinstance(value, list) else g[name] == value for g in groups)
    assert events.read_text().splitlines()[-1].startswith(f"5,task.optimizer: {name} ")
    steps = [{int(s["step"]) for s in c["optimizer_states"][0]["state"].values()} for c in (before, after)]
    assert steps == [{4}, {6}]  # the moments and their count go on


def test_adamw_takes_over_adams_moments(invoke, tmp_path):
    call = (*B, "stage=psnr")
    assert invoke("sr-train", *call).returncode == 0
    done = invoke("sr-train", *call, "trainer.max_steps=6", "task.optimizer=adamw", "resume=force")
    assert done.returncode == 0, done.stderr
    after = read_checkpoint(tmp_path / "runs" / "a" / "psnr" / "checkpoints" / "step_00000006.ckpt").content
    (group,) = after["optimizer_states"][0]["param_groups"]
    assert (group["weight_decay"], group["decoupled_weight_decay"]) == (1e-2, True)
    assert {int(s["step"]) for s in after["optimizer_states"][0]["state"].values()} == {6}


@pytest.fixture
def features(tmp_path):
    """A function that writes the first convolution of an AlexNet to a file, and the arguments that train with it."""

    def write(name, seed=0, value=None):
        torch.manual_seed(seed)
        state = {"features.0.weight": torch.randn(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}
        if value is not None:
            state["features.0.bias"][3] = value
        save_file(state, tmp_path / name)
        extractor = f"gan.loss.perceptual.extractor.weights={name}"
        network = ("gan.loss.perceptual.extractor.network=alexnet", "gan.loss.perceptual.layers={conv1: 1.0}")
        return ("gan.loss=esrgan", *network, extractor)

    return write


def test_a_feature_network_may_move_but_not_change(invoke, features, tmp_path):
    first = features("a.safetensors")
    done = invoke("sr-train", *B, *first)
    assert done.returncode == 0, done.stderr
    assert "stage gan: loss 0.01 pixel (L1Loss) + 1 perceptual (l1 of conv1 1) + 0.005 adversarial" in done.stdout
    moved = invoke("sr-train", *B, *features("moved.safetensors"), "gan.trainer.max_steps=5")
    assert moved.returncode == 0, moved.stderr
    before = _digests(tmp_path / "runs")
    other = invoke("sr-train", *B, *features("a.safetensors", seed=1), "gan.trainer.max_steps=6")
    assert other.returncode == 1
    assert "fingerprint.features[0]: " in other.stderr
    assert _digests(tmp_path / "runs") == before
    damaged = invoke("sr-train", *B, *features("nan.safetensors", value=float("nan")), "name=c")
    assert "nan.safetensors: features.0.bias (conv1) contains NaN or infinity" in damaged.stderr
    assert not (tmp_path / "runs" / "c").exists()
