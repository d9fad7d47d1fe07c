"""A user's own YAML stands in folders of SR_CONF, beside the installed one."""

import pytest

from sr_train.config.folders import conf_folders, groups, options_of
from sr_train.config.plan import plan
from sr_train.console import ConfigError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    folder = tmp_path / 'of "mine", all'  # names that Hydra's grammar would stumble over
    (folder / "experiment").mkdir(parents=True)
    (folder / "loss").mkdir()
    (folder / "loss" / "smooth.yaml").write_text("_target_: torch.nn.SmoothL1Loss\nbeta: 0.5\n")
    text = "# @package _global_\n# Mine\ndefaults:\n  - override /loss: smooth\n\nscale: 3\n"
    (folder / "experiment" / "mine.yaml").write_text(text)
    monkeypatch.setenv("SR_CONF", str(folder))
    return folder


def test_files_of_sr_conf_are_chosen_like_the_installed_ones(mine):
    assert conf_folders()[1:] == [mine]
    assert "smooth" in options_of("loss")
    assert "l1" in options_of("loss")
    (stage,) = plan(["experiment=mine"]).stages
    assert stage.config["loss"] == {"_target_": "torch.nn.SmoothL1Loss", "beta": 0.5}
    assert stage.config["scale"] == 3
    assert plan(["loss=smooth"]).stages[0].config["loss"]["beta"] == 0.5


def test_several_folders_and_new_groups_are_allowed(mine, tmp_path, monkeypatch):
    (tmp_path / "more" / "sets").mkdir(parents=True)
    (tmp_path / "more" / "sets" / "held_out.yaml").write_text("held_out: {hr: DIR}\n")
    (tmp_path / "more" / "teacher").mkdir()
    (tmp_path / "more" / "teacher" / "a.yaml").write_text("x: 1\n")
    monkeypatch.setenv("SR_CONF", f"{mine}:{tmp_path / 'more'}")
    assert plan(["experiment=mine", "sets=[toy,held_out]"]).stages[0].config["sets"].keys() == {"toy", "held_out"}
    assert "teacher" in groups()


def test_a_misspelled_key_in_a_file_of_the_user_is_refused(mine):
    (mine / "loss" / "smooth.yaml").write_text("_target_: torch.nn.SmoothL1Loss\nbata: 0.5\n")
    with pytest.raises(ConfigError, match=r"unknown key 'loss\.bata'; did you mean beta"):
        plan(["experiment=mine"])


def test_sr_train_lists_experiments_and_options_of_the_user(mine, invoke):
    assert "\n  mine                Mine\n" in invoke("sr-train").stdout
    assert "smooth" in invoke("sr-train", "--help").stdout


def test_a_sweep_finds_files_of_the_user(mine, invoke):
    tiny = ["model.blocks=1", "model.channels=4", "data.workers=0", "trainer.max_steps=1", "sets=[]", "data.lr_patch=8"]
    done = invoke("sr-train", "-m", "experiment=mine", "task.rate=1e-3,2e-3", "trainer.accelerator=cpu", *tiny)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights: ") == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("experiment/quickstart.yaml", r"sr-train already has experiment/quickstart\.yaml; rename this file"),
        ("mine.yaml", r"expected a folder of GROUP/NAME\.yaml"),
    ],
)
def test_ambiguous_and_empty_folders_are_refused(tmp_path, monkeypatch, invoke, name, message):
    file = tmp_path / "conf" / name
    file.parent.mkdir(parents=True)
    file.write_text("# Mine\n")
    monkeypatch.setenv("SR_CONF", str(tmp_path / "conf"))
    with pytest.raises(ValueError, match=message):
        plan(["experiment=quickstart"])
    assert invoke("sr-eval", "weights=bicubic", "sets=[toy]", "scale=2").returncode == 1
