"""Gray images from training to upscaled files: channels=1 is all that a user types."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sr_train.config.plan import plan
from sr_train.console import message_of
from sr_train.data.images import read_image, to_channels, write_image
from sr_train.data.toy import toy_files
from sr_train.inference.network import open_network
from sr_train.models.edsr import EDSR
from sr_train.training.preflight import preflight
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.mixing import check_mix

SMALL = (
    "model.blocks=1", "model.channels=4", "data.workers=0", "data.batch=2", "data.lr_patch=8", "trainer.accelerator=cpu",
    "trainer.precision=32", "logger=csv", "validate.crop=32", "validate.pictures=1", "checkpoint.every=2",
)  # fmt: skip


@pytest.fixture
def gray(tmp_path):
    """A folder with two gray images of 8 and one of 16 bits."""
    folder = tmp_path / "gray"
    folder.mkdir()
    for i, path in enumerate(toy_files("astronaut,coffee").values()):
        write_image(folder / f"{i}.png", to_channels(read_image(path)[60:140, 100:196], 1))
    write_image(folder / "deep.png", read_image(folder / "0.png").astype(np.uint16) * 257)
    return folder


def _sources(folder):
    return (f"data.train=[{{hr: {folder}}}]", f"data.val={{mine: {{hr: {folder}}}}}")


def test_a_run_on_gray_images_trains_scores_upscales_and_resumes(invoke, gray, tmp_path):
    run = (
        "sr-train",
        "model=edsr_baseline",
        "data=base",
        *_sources(gray),
        "scale=2",
        "channels=1",
        "name=infrared",
        *SMALL,
    )
    whole = invoke(*run, "trainer.max_steps=4", "name=whole")
    assert whole.returncode == 0, whole.stderr
    assert invoke(*run, "trainer.max_steps=2").returncode == 0
    (tmp_path / "runs" / "infrared" / "main" / "weights.safetensors").unlink()
    rest = invoke(*run, "trainer.max_steps=4")
    assert rest.returncode == 0, rest.stderr
    stage = tmp_path / "runs" / "infrared" / "main"
    weights = load_weights(stage / "weights.safetensors")
    other = load_weights(tmp_path / "runs" / "whole" / "main" / "weights.safetensors")
    assert all(torch.equal(weights.state[k], v) for k, v in other.state.items())
    assert weights.channels == 1
    assert list(weights.state["conv_first.weight"].shape) == [4, 1, 3, 3]
    with safe_open(stage / "weights.safetensors", "pt") as file:
        assert file.metadata()["channels"] == "1"
    assert len(list((stage / "images").rglob("*.png"))) == 2  # one image at steps 2 and 4

    changed = invoke(*run, "trainer.max_steps=6", "channels=3")
    assert changed.returncode == 1
    assert "channels: 1 -> 3" in changed.stderr

    scored = invoke(
        "sr-eval", f"weights=[{stage},bicubic]", f"hr={gray}", "out=scores", "protocols=[y,rgb]", "save=true"
    )
    assert scored.returncode == 0, scored.stderr
    assert "1 channel" in scored.stdout
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    found = next(iter(scores.values())) if "gray" not in json.dumps(list(scores)) else scores
    assert "gray" in json.dumps(found)
    assert weights.scores["mine/y/psnr"] == pytest.approx(weights.scores["mine/rgb/psnr"])
    saved = list((tmp_path / "scores" / "images").rglob("*.png"))
    assert {read_image(p).shape[2] for p in saved} == {1}

    done = invoke("sr-upscale", f"weights={stage}", f"input={gray}", "output=large", "compare=true")
    assert done.returncode == 0, done.stderr
    deep, eight = read_image(tmp_path / "large" / "deep.png"), read_image(tmp_path / "large" / "0.png")
    assert (deep.dtype, deep.shape) == (np.uint16, (160, 192, 1))
    assert (eight.dtype, eight.shape) == (np.uint8, (160, 192, 1))
    assert np.abs(deep / 257 - eight).max() <= 0.51  # of the same image: only the rounding differs
    assert len(np.unique(deep % 257)) > 100  # all 16 bits are used


def test_a_gray_network_upscales_color_as_its_luma(invoke, tmp_path):
    torch.manual_seed(0)
    network = EDSR(scale=2, channels=4, blocks=1, res_scale=1.0, image_channels=1)
    model = {
        "_target_": "sr_train.models.edsr.EDSR",
        "scale": 2,
        "channels": 4,
        "blocks": 1,
        "res_scale": 1.0,
        "image_channels": 1,
    }
    save_weights(tmp_path / "net.safetensors", Weights(model, network.state_dict()))
    color = read_image(toy_files("coffee")["coffee"])[:24, :20]
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "color.png", np.dstack([color, np.full((24, 20), 99, np.uint8)]))
    write_image(tmp_path / "in" / "luma.png", to_channels(color, 1))
    done = invoke("sr-upscale", "weights=net.safetensors", "input=in", "output=large")
    assert done.returncode == 0, done.stderr
    found = [read_image(tmp_path / "large" / f"{name}.png") for name in ("color", "luma")]
    assert found[0].shape == (48, 40, 1)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize(
    "kind", ["experiment=quickstart stage=gan loss=esrgan", "experiment=quickstart_mdsr", "experiment=quickstart_video"]
)
def test_gray_runs_of_all_tasks(invoke, kind, tiny_vgg):
    options = {
        "experiment=quickstart_mdsr": ("model.blocks=1", "model.channels=4", "data.lr_patch=8"),
        "experiment=quickstart_video": ("model.channels=8", "data.lr_patch=16", "model.front_blocks=1", "model.back_blocks=1"),
    }.get(kind, ("gan.init.stage=null", "model.blocks=1", "model.channels=4", f"loss.perceptual.extractor.weights={tiny_vgg}",
                 "loss.perceptual.layers={conv1_2: 1}"))  # fmt: skip
    done = invoke(
        "sr-train", *kind.split(), *options, "channels=1", "data.workers=0", "data.batch=2", "trainer.accelerator=cpu",
        "trainer.precision=32", "trainer.max_steps=1", "logger=csv", "sets=[]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_rgb_weights_start_a_gray_run(invoke, gray, tmp_path):
    run = ("sr-train", "model=edsr_baseline", "data=base", *_sources(gray), "scale=2", *SMALL, "trainer.max_steps=1")
    assert invoke(*run, "name=color").returncode == 0
    done = invoke(*run, "name=gray", "channels=1", "init.weights=runs/color/main")
    assert done.returncode == 0, done.stderr
    assert (
        "conv_first.bias, conv_first.weight, conv_last.bias, conv_last.weight: converted from RGB to gray"
        in done.stdout
    )


REFUSED = {
    "channels=2": "channels=2: image files have 1 (gray), 3 (RGB) or 4 channels",
    "channels=4": "channels=4: y: scores gray or RGB images only; give validate.protocols=[rgb]",
    "channels=4 validate.protocols=[rgb] loss=esrgan task=gan": "channels=4: a perceptual loss needs gray or RGB images",
    "model.image_channels=1": "model.image_channels=1: is derived from channels (3); give channels=1",
    "data.channels=1": "data.channels=1: is derived from channels (3); give channels=1",
    "channels=1 model={_target_:own.networks.Plain,scale:2}":
        "channels=1, but Plain takes images of 3 channels: add image_channels: ${channels} to its YAML file",
    "channels=one": "channels=\"one\": expected an integer",
}  # fmt: skip


@pytest.mark.parametrize("typed", REFUSED)
def test_wrong_channels_are_refused_before_training(typed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "nets"))
    with pytest.raises(Exception, match="channels") as found:
        preflight(
            plan(["model=edsr_baseline", "data=toy", "sets=[toy]", "scale=2", f"paths.runs={tmp_path}", *typed.split()])
        )
    assert REFUSED[typed] in message_of(found.value)


def _saved(path, channels):
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
    model |= {} if channels is None else {"image_channels": channels}
    network = EDSR(**{k: v for k, v in model.items() if k != "_target_"})
    weights = Weights(model, network.state_dict())
    save_weights(path, weights)
    return weights


def test_networks_of_different_channels_are_neither_mixed_nor_compared(invoke, gray, tmp_path):
    a, b, c = (_saved(tmp_path / f"{n}.safetensors", n) for n in (None, 1, 3))
    with pytest.raises(ValueError, match="b: takes images of 1 channels, a those of 3"):
        check_mix({"a": a, "b": b}, [0.5, 0.5])
    check_mix({"a": a, "c": Weights(c.model, a.state)}, [0.5, 0.5])  # a file of an earlier version is for RGB
    done = invoke("sr-eval", "weights=[None.safetensors,1.safetensors]", f"hr={gray}")
    assert done.returncode == 1
    assert (
        "networks for one number of channels can be compared; these have None.safetensors: 3, 1.safetensors: 1"
        in done.stderr
    )
    typed = invoke("sr-eval", "weights=1.safetensors", "channels=3", f"hr={gray}")
    assert "channels=3, but weights: networks for one number" in typed.stderr


def test_the_header_is_checked(tmp_path):
    weights = _saved(tmp_path / "a.safetensors", 1)
    weights.model["image_channels"] = 0
    with pytest.raises(ValueError, match=r"model\.image_channels=0 is not an integer of at least 1"):
        save_weights(tmp_path / "b.safetensors", weights)


def test_the_opened_network_states_its_channels(tmp_path):
    _saved(tmp_path / "a.safetensors", 1)
    config = {"scale": None, "tile": None, "overlap": "auto", "ensemble": False, "device": "cpu", "allow": []}
    network = open_network(config, str(tmp_path / "a.safetensors"))
    assert network.channels == 1
    assert "x2, 1 channel)" in network.name
    assert open_network({**config, "scale": 2}, "bicubic").channels == 3
