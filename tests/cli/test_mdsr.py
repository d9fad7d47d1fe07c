"""An MDSR from sr-train to the user's image: every command takes the branch that was asked for."""

import json

import numpy as np
import pytest
import torch

from sr_train.data.images import read_image
from sr_train.inference.images import super_resolve
from sr_train.models.edsr import EDSR
from sr_train.runs.metrics import read_rows
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.network import build_network, one_scale

pytestmark = pytest.mark.slow

SMALL = (
    "experiment=quickstart_mdsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=4", "data.lr_patch=8",
    "trainer.accelerator=cpu", "trainer.precision=32", "task.ema=null", "validate.crop=48",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train_in):
    """The folder of a run of 12 steps with two validations."""
    folder = tmp_path_factory.mktemp("mdsr")
    train_in(folder, *SMALL, "trainer.max_steps=12", "validate.every=6", "record.every=1", "checkpoint.every=5")
    return folder / "runs" / "quickstart_mdsr" / "main"


@pytest.fixture
def image(photographs):
    return photographs / "0000.png"


def test_loss_psnr_and_pictures_are_logged_by_scale(trained):
    rows = read_rows(trained / "metrics.csv")
    by_step = {t: {n: float(v) for s, n, v in rows if s == t} for t in range(1, 13)}
    scales = []
    for numbers in by_step.values():  # a row has the loss of its own step's scale alone
        (name,) = [n for n in numbers if n.startswith("train/loss_x")]
        assert numbers[name] == numbers["train/loss"]
        scales.append(int(name[-1]))
    assert set(scales) == {2, 3, 4}
    for step in (6, 12):
        values = [by_step[step][f"toy_x{s}/y/psnr"] for s in (2, 3, 4)]
        assert by_step[step]["toy_mean/y/psnr"] == pytest.approx(sum(values) / 3)
    for scale in (2, 3, 4):
        assert len(list((trained / "images" / f"toy_x{scale}-chelsea").glob("step_*.png"))) == 2
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained)).Reload().Tags()
    for scale in (2, 3, 4):
        assert {f"train/loss_x{scale}", f"toy_x{scale}/y/psnr"} <= set(events["scalars"])
        assert f"lr_bicubic_sr_hr/toy_x{scale}-chelsea" in events["images"]


def test_best_is_chosen_by_the_mean_over_scales_by_default(trained, invoke, tmp_path):
    best = load_weights(trained / "best.safetensors")
    means = {t: float(v) for t, n, v in read_rows(trained / "metrics.csv") if n == "toy_mean/y/psnr"}
    assert best.origin["step"] == max(means, key=lambda t: means[t])
    assert best.scores["toy_mean/y/psnr"] == max(means.values())
    done = invoke(
        "sr-train", *SMALL, "trainer.max_steps=2", "validate.every=1", "validate.best=toy_x3/rgb/ssim", "name=b"
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "runs/b/main/metrics.csv")
    ssim = {t: float(v) for t, n, v in rows if n == "toy_x3/rgb/ssim"}
    assert load_weights(tmp_path / "runs/b/main/best.safetensors").origin["step"] == max(ssim, key=lambda t: ssim[t])
    wrong = invoke("sr-train", *SMALL, "trainer.max_steps=1", "validate.best=toy/y/psnr", "name=c")
    assert wrong.returncode == 2
    assert "choose from toy_mean/y/psnr, toy_mean/y/ssim, " in wrong.stderr
    assert "toy_x4/rgb/ssim" in wrong.stderr


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_sr_eval_scores_the_chosen_scale_as_training_did(trained, invoke, tmp_path, scale):
    done = invoke(
        "sr-eval", f"weights={trained}", "sets=[toy]", f"scale={scale}", "out=s", "device=cpu", "protocols=[y]"
    )
    assert done.returncode == 0, done.stderr
    scored = json.loads((tmp_path / "s" / "metrics.json").read_text())["toy"]["y"]["psnr"]
    assert scored == pytest.approx(
        load_weights(trained / "weights.safetensors").scores[f"toy_x{scale}/y/psnr"], abs=1e-4
    )


@pytest.mark.parametrize("ensemble", [False, True])
def test_sr_upscale_and_the_exported_file_use_the_chosen_scale(trained, invoke, image, tmp_path, ensemble):
    network = build_network(load_weights(trained / "weights.safetensors"), where="")
    lr = torch.from_numpy(read_image(image)).permute(2, 0, 1)
    more = ("format=png", "device=cpu", f"ensemble={str(ensemble).lower()}")
    for scale in (2, 3, 4):
        exported = tmp_path / f"x{scale}.safetensors"
        done = invoke("sr-convert", f"weights={trained}", f"scale={scale}", f"out={exported}")
        assert done.returncode == 0, done.stderr
        assert f"MDSR x{scale}," in done.stdout
        for name, given in (("whole", (f"weights={trained}", f"scale={scale}")), ("part", (f"weights={exported}",))):
            done = invoke("sr-upscale", *given, f"input={image}", f"output={name}{scale}", *more)
            assert done.returncode == 0, done.stderr
        outputs = [read_image(tmp_path / f"{n}{scale}" / image.name) for n in ("whole", "part")]
        expected = super_resolve(network.at(scale), lr, ensemble=ensemble)
        pixels = torch.floor(expected.permute(1, 2, 0).double() * 255 + 0.5).numpy()
        np.testing.assert_array_equal(outputs[0], outputs[1])
        assert np.abs(outputs[0] - pixels).max() <= 1
        assert (outputs[0] != pixels).mean() < 1e-3


def test_an_exported_branch_is_an_ordinary_file(trained, invoke, tmp_path):
    assert invoke("sr-convert", f"weights={trained}", "scale=3", "out=a/x3.safetensors").returncode == 0
    whole, part = load_weights(trained / "weights.safetensors"), load_weights(tmp_path / "a" / "x3.safetensors")
    assert (part.scale, part.model["scales"]) == (3, [3])
    assert len(part.state) < len(whole.state)
    assert part.scores["toy/y/psnr"] == whole.scores["toy_x3/y/psnr"]
    assert not any("_x" in name or "mean" in name for name in part.scores)
    assert part.origin["scale_of"] == [2, 3, 4]
    assert all(torch.equal(part.state[k], whole.state[k]) for k in part.state)
    done = invoke("sr-eval", "weights=a/x3.safetensors", "sets=[toy]", "device=cpu")
    assert "a/x3.safetensors (x3)" in done.stdout
    again = invoke("sr-convert", f"weights={trained}", "scale=3", "out=a/x3.safetensors")
    assert again.returncode == 1
    assert "overwrite=true" in again.stderr
    assert invoke("sr-convert", f"weights={trained}", "out=a/x3.safetensors", "overwrite=true").returncode == 0
    assert load_weights(tmp_path / "a" / "x3.safetensors").scales == (2, 3, 4)
    refused = invoke("sr-convert", f"weights={trained}", "out=x3.pth")
    assert refused.returncode == 1
    assert "x3.pth: not written, because BasicSR would not open it: it has no MDSR" in refused.stderr
    assert not (tmp_path / "x3.pth").exists()


@pytest.mark.parametrize("command", ["sr-eval", "sr-upscale", "sr-convert"])
def test_a_missing_or_wrong_choice_lists_the_scales(trained, invoke, image, command):
    rest = {"sr-eval": ("sets=[toy]",), "sr-upscale": (f"input={image}", "output=out"),
            "sr-convert": ("out=x.safetensors",)}[command]  # fmt: skip
    wrong = invoke(command, f"weights={trained}", "scale=5", *rest)
    assert wrong.returncode == 1
    assert f"scale=5, but {trained} is a network for x2, x3, x4" in wrong.stderr
    missing = invoke(command, f"weights={trained}", *rest)
    if command != "sr-convert":  # which keeps them all
        assert missing.returncode == 1
        assert "is a network for x2, x3, x4: give scale=2 or scale=3 or scale=4" in missing.stderr


def test_sr_eval_compares_a_branch_with_a_network_of_its_scale(trained, invoke, tmp_path):
    model = {"scale": 3, "channels": 4, "blocks": 1, "res_scale": 1.0}
    save_weights(
        tmp_path / "edsr.safetensors",
        Weights({"_target_": "sr_train.models.edsr.EDSR", **model}, EDSR(**model).state_dict()),
    )
    done = invoke("sr-eval", f"weights=[bicubic,edsr.safetensors,{trained}]", "scale=3", "sets=[toy]", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert "bicubic x3" in done.stdout


def test_two_mdsrs_are_mixed_at_all_scales_and_shown_at_one(trained, invoke, photographs, tmp_path):
    more = ("trainer.max_steps=1", f"init.weights={trained}", "name=second")
    assert invoke("sr-train", *SMALL, *more).returncode == 0
    given = (f"weights=[{trained},runs/second/main]", "alpha=[0,0.5]", "out=mixed", "device=cpu")
    missing = invoke("sr-interp", *given, f"images={photographs}")
    assert missing.returncode == 1
    assert "give scale=2 or scale=3 or scale=4" in missing.stderr
    assert not (tmp_path / "mixed").exists()
    done = invoke("sr-interp", *given, f"images={photographs}", "scale=3", "rows=1", "crop=32")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    parts = [
        load_weights(p) for p in (trained / "weights.safetensors", tmp_path / "runs/second/main/weights.safetensors")
    ]
    mixed = load_weights(tmp_path / "mixed" / "alpha_0.50.safetensors")
    assert mixed.scales == (2, 3, 4)
    for name, value in mixed.state.items():
        torch.testing.assert_close(value, (parts[0].state[name] + parts[1].state[name]) / 2)
    assert (tmp_path / "mixed" / "interp.png").exists()
    alone = invoke("sr-interp", *given, "scale=3")
    assert alone.returncode == 1
    assert "sr-convert" in alone.stderr


def test_an_mdsr_can_start_from_the_body_of_an_edsr(invoke, tmp_path):
    model = {"scale": 2, "channels": 8, "blocks": 1, "res_scale": 1.0}
    state = EDSR(**model).state_dict()
    save_weights(tmp_path / "edsr.safetensors", Weights({"_target_": "sr_train.models.edsr.EDSR", **model}, state))
    start = (*SMALL, "trainer.max_steps=1", "task.rate=1e-30", "init.weights=edsr.safetensors")
    refused = invoke("sr-train", *start)
    assert refused.returncode == 1
    assert "init.skip" in refused.stderr
    done = invoke("sr-train", *start, "init.skip=['pre_process.*','upsample.*','conv_last.*']")
    assert done.returncode == 0, done.stderr
    assert "copied     8 tensors" in done.stdout
    weights = load_weights(tmp_path / "runs/quickstart_mdsr/main/weights.safetensors").state
    shared = [k for k in state if k.startswith(("conv_first", "body", "conv_after_body"))]
    assert len(shared) == 8
    assert all(torch.equal(weights[k], state[k]) for k in shared)


def test_check_and_profile_work_and_change_nothing_of_the_run(invoke, tmp_path):
    run = (*SMALL, "trainer.max_steps=10", "logger=csv", "validate.pictures=0")
    done = invoke("sr-train", *run, "check=true")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()
    for text in (
        "MDSR x2, x3, x4",
        "x2: ",
        "x3: ",
        "x4: ",
        "G multiply-adds",
        "toy_x2/chelsea",
        "toy_x4/chelsea",
        "check passed",
    ):
        assert text in done.stdout, text
    assert invoke("sr-train", *run, "name=plain").returncode == 0
    done = invoke("sr-train", *run, "name=profiled", "profile=true", "profile_steps=3")
    assert done.returncode == 0, done.stderr
    a, b = (load_weights(tmp_path / "runs" / n / "main" / "weights.safetensors").state for n in ("plain", "profiled"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "runs/profiled/main/profile/profile.csv").exists()


def test_resume_is_bit_for_bit_and_refuses_other_scales(invoke, tmp_path):
    run = (*SMALL[:-2], "curve=constant", "logger=csv", "validate.pictures=0", "record.every=1", "validate.every=3")
    assert invoke("sr-train", *run, "trainer.max_steps=11", "name=whole").returncode == 0
    assert invoke("sr-train", *run, "trainer.max_steps=4", "name=parts").returncode == 0
    done = invoke("sr-train", *run, "trainer.max_steps=11", "name=parts")
    assert "from step 4" in done.stdout
    folders = [tmp_path / "runs" / n / "main" for n in ("whole", "parts")]
    a, b = (load_weights(f / "weights.safetensors").state for f in folders)
    assert all(torch.equal(a[k], b[k]) for k in a)
    losses = [[r for r in read_rows(f / "metrics.csv") if r[1].startswith("train/")] for f in folders]
    assert losses[0] == losses[1]
    other = invoke(
        "sr-train", *run, "trainer.max_steps=12", "name=parts", "data.scale_weights=[1,1,2]", "scales=[4,3,2]"
    )
    assert other.returncode == 1
    assert "scales[0]: 2 -> 4" in other.stderr
    assert "data.scale_weights" in other.stderr
    forced = invoke(
        "sr-train", *run, "trainer.max_steps=12", "name=parts", "data.scale_weights=[1,1,2]", "resume=force"
    )
    assert forced.returncode == 0, forced.stderr


def test_a_run_in_progress_is_scored_from_its_newest_checkpoint(trained, invoke, tmp_path):
    run = (*SMALL, "trainer.max_steps=4", "sets=[]", "logger=none")
    assert invoke("sr-train", *run).returncode == 0
    (tmp_path / "runs/quickstart_mdsr/main/weights.safetensors").unlink()
    done = invoke("sr-eval", "weights=runs/quickstart_mdsr/main", "scale=4", "sets=[toy]", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert ".ckpt (x4)" in done.stdout


def test_a_header_with_invalid_scales_is_refused(tmp_path, trained):
    weights = load_weights(trained / "weights.safetensors")
    for scales in ([], [2, 99], "2", [True]):
        with pytest.raises(ValueError, match=r"model\.scales=.* is not a list of integers from 1 to 16"):
            save_weights(tmp_path / "x.safetensors", Weights({**weights.model, "scales": scales}, weights.state))
    with pytest.raises(ValueError, match="is a network for x2, x3, x4, not for x8"):
        one_scale(weights, 8, where="x")
