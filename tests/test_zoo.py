"""scripts/zoo.py: the recipes of all entries compose and build, and the page contains what the files' headers contain."""

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sr_train.config.build import build
from sr_train.config.plan import Stage, plan
from sr_train.weights.file import Weights, save_weights

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import zoo


def test_recipes_build_their_entries_and_do_not_train_on_what_they_are_scored_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SR_CONF", str(zoo.CONF))
    configs = {
        e: {s.name: s.config for s in plan([f"experiment={e}"]).stages}
        for e in {e.experiment for e in zoo.ENTRIES.values()}
    }
    for name, entry in zoo.ENTRIES.items():
        config = configs[entry.experiment][entry.stage]
        assert name.startswith("x".join(map(str, config["scales"] or [config["scale"]])) + "x_")
        build(config["model"])
        (train,), (held,) = (
            [set(source["hr"].partition(":")[2].split(",")) for source in sources]
            for sources in (config["data"]["train"], config["data"]["val"].values())
        )
        assert train
        assert held
        assert not train & (held | {"motorcycle_left", "motorcycle_right"})


def test_features_and_shorter_stages_are_in_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SR_CONF", str(zoo.CONF))
    stages = [Stage("psnr", {"trainer": {"max_steps": 1000}}), Stage("gan", {"trainer": {"max_steps": 120}})]
    monkeypatch.setattr(zoo, "plan", lambda _: SimpleNamespace(stages=stages))
    typed = zoo.recipe(zoo.ENTRIES["4x_zoo_rrdbnet_gan"], "here/vgg16.pth", 0.01)
    psnr, gan = plan(typed).stages
    assert [psnr.config["trainer"]["max_steps"], gan.config["trainer"]["max_steps"]] == [10, 2]
    assert gan.config["loss"]["perceptual"]["extractor"]["network"] == "vgg16"
    assert "gan.loss.perceptual.extractor.weights=FILE" in zoo.shown(typed)


def test_page_contains_what_the_headers_contain(tmp_path: Path):
    row = {"set": "zoo", "protocol": "y", "images": 5, "ssim": 0.9, "bicubic_psnr": 30.0, "bicubic_ssim": 0.8}
    files = []
    for scale, psnr in ((2, 31.25), (3, 29.5)):
        model = {"_target_": "sr_train.models.edsr.EDSR", "scale": scale, "channels": 4, "blocks": 1}
        about = {"title": f"EDSR x{scale}", "command": ["sr-train", f"experiment=e{scale}"], "stage": "main", "data": "d",
                 "commit": "abc", "seconds": 90, "device": "c", "license": "CC0-1.0",
                 "scores": [{**row, "scale": scale, "psnr": psnr}]}  # fmt: skip
        files.append(tmp_path / f"{scale}x.safetensors")
        save_weights(files[-1], Weights(model, build(model).state_dict(), {"step": 1234, "zoo": about}))
    text = zoo.page(files, missing=["4x_zoo_edvr"])
    for wanted in (
        "sr-train experiment=e3 ",
        "1,234 steps in 1.5 min",
        "| 31.25 | 30.00 | +1.25 |",
        "| -0.50 |",
        "`4x_zoo_edvr`",
    ):
        assert wanted in text
    assert all(hashlib.sha256(f.read_bytes()).hexdigest() in text for f in files)
