"""scripts/zoo.py: the recipes of all entries compose and build, and the page contains what the files' headers contain."""

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from sr_train.config.build import build
from sr_train.config.plan import plan
from sr_train.weights.file import Weights, save_weights

SCRIPT = Path(__file__).parents[1] / "scripts" / "zoo.py"


@pytest.fixture(scope="module")
def zoo():
    spec = importlib.util.spec_from_file_location("zoo_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipes_build_their_entries_and_do_not_train_on_what_they_are_scored_on(zoo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SR_CONF", str(zoo.CONF))
    configs = {}
    for name, entry in zoo.ENTRIES.items():
        if entry.experiment not in configs:
            typed = zoo.recipe(entry, "here/vgg16.pth", 1.0)
            configs[entry.experiment] = {s.name: s.config for s in plan(typed).stages}
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
    extractor = configs["zoo_rrdbnet"]["gan"]["loss"]["perceptual"]["extractor"]
    assert (extractor["network"], extractor["weights"]) == ("vgg16", "here/vgg16.pth")


def test_command_has_the_shorter_stages_and_no_path_of_the_features_on_the_page(zoo, monkeypatch: pytest.MonkeyPatch):
    stages = [SimpleNamespace(name=n, config={"trainer": {"max_steps": k}}) for n, k in (("psnr", 1000), ("gan", 120))]
    monkeypatch.setattr(zoo, "plan", lambda _: SimpleNamespace(stages=stages))
    typed = zoo.recipe(zoo.ENTRIES["4x_zoo_rrdbnet_gan"], "here/vgg16.pth", 0.01)
    assert typed[-2:] == ["psnr.trainer.max_steps=10", "gan.trainer.max_steps=2"]
    assert "gan.loss.perceptual.extractor.weights=FILE" in zoo.shown(typed)
    assert "here" not in " ".join(zoo.shown(typed))


def test_page_contains_what_the_headers_contain(zoo, tmp_path: Path):
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


def test_only_a_file_of_this_command_and_recipe_is_finished(zoo, tmp_path: Path):
    options = SimpleNamespace(out=tmp_path, features=None, steps_scale=1.0)
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1}
    about = {"command": ["sr-train", "experiment=zoo_edsr"], "recipe": zoo.recipe_hash(zoo.ENTRIES["2x_zoo_edsr"])}
    for changed, wanted in ({}, True), ({"recipe": "another"}, False), ({"command": ["sr-train"]}, False):
        save_weights(
            tmp_path / "2x_zoo_edsr.safetensors", Weights(model, build(model).state_dict(), {"zoo": about | changed})
        )
        assert zoo.finished("2x_zoo_edsr", options) is wanted
    assert not zoo.finished("3x_zoo_edsr", options)
