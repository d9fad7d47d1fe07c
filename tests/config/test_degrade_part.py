"""The group degrade: its way to the data, names in data.train, and what is refused."""

import pytest

from sr_train.config.degrade_part import check_degrade
from sr_train.config.plan import plan
from sr_train.console import ConfigError


def data_of(*arguments):
    return plan(["data=toy", "scale=4", *arguments]).stages[0].config["data"]


def test_an_option_and_its_keys_reach_the_data_of_a_stage():
    typed = ["gan.degrade=blind", "gan.degrade.operators.jpeg_1=null", "gan.data.usm=true"]
    net, gan = (stage.config["data"] for stage in plan(["experiment=quickstart", *typed]).stages)
    assert (net["degrade"], net["usm"]) == ({}, False)  # what is without a choice
    assert gan["usm"] is True
    assert gan["degrade"]["_target_"].startswith("sr_train.data.degradation.")
    assert gan["degrade"]["operators"]["jpeg_1"] is None
    assert gan["degrade"]["operators"]["blur_1"]


def test_another_option_drops_the_keys_of_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine\ndefaults:\n  - override /degrade: blind\n  - override /data: toy\n"
        "degrade: {margin: 12}\nscale: 4\n"
    )
    monkeypatch.setenv("SR_CONF", str(tmp_path))
    assert plan(["experiment=mine"]).stages[0].config["degrade"]["margin"] == 12
    other = plan(["experiment=mine", "degrade=bicubic"])
    assert other.stages[0].config["degrade"] == other.stages[0].config["data"]["degrade"] == {}
    assert (
        "degrade=bicubic instead of blind; these settings of the recipe are not used: degrade.margin=12"
        in other.notes[0]
    )


def test_a_source_may_name_an_option():
    train = data_of("data.train=[{hr: toy, degrade: blind}, {hr: toy, degrade: bicubic}, {hr: toy, degrade: null}]")[
        "train"
    ]
    assert train[0]["degrade"]["_target_"].startswith("sr_train.data.degradation.")
    assert train[1]["degrade"] is train[2]["degrade"] is None


def test_a_class_of_the_users_is_chosen_by_its_path():
    mine = {"_target_": "fractions.Fraction", "numerator": 3}
    assert data_of("degrade={_target_: fractions.Fraction, numerator: 3}")["degrade"] == mine


def test_all_wrong_choices_are_refused_together():
    for typed, message in (
        (["degrade=blnd"], "degrade=blnd: there is no such degrade; did you mean blind"),
        (["degrade=null"], "degrade=null: choose from bicubic, "),
        (["degrade={margin: 3}", "data.train=[{hr: toy, degrade: blnd}]"],
         r"(?s)train\[0\]\.degrade=blnd: there is no such .* did you mean blind.*has no _target_; choose an option"),
        (["data=toy_clips", "model=edvr_m", "degrade=blind"],
         r"ClipData takes no degradation \(LR of video is given or bicubic\); give degrade=bicubic"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            data_of(*typed)


def test_a_wrong_value_is_reported_once():
    with pytest.raises(ConfigError) as caught:
        data_of("degrade=blind", "degrade.margin=x")
    assert caught.value.problems == ['stage main: degrade.margin="x": expected an integer']


def test_a_data_set_whose_yaml_lacks_the_key_is_named():
    config = {"degrade": {"_target_": "pkg.Blind"}, "data": {"_target_": "pkg.Data"}}
    assert check_degrade(config, "stage main", ["degrade", "train"]) == [
        "stage main: degrade (Blind) does not reach the data: add degrade: ${degrade} to the YAML file of data"
    ]
    assert check_degrade(config, "stage main", ["train"]) == [
        "stage main: degrade (Blind): Data takes no degradation (its class needs an argument degrade); give degrade=bicubic"
    ]
    assert check_degrade({**config, "degrade": {}}, "stage main", ["train"]) == []


def test_switching_off_an_operator_that_does_not_exist_is_refused():
    typed = ["data=toy", "degrade=blind"]
    assert plan([*typed, "degrade.operators.jpeg_1=null"]).stages[0].config["degrade"]["operators"]["jpeg_1"] is None
    with pytest.raises(ConfigError, match=r"there is no operator jpg_1; did you mean degrade\.operators\.jpeg_1"):
        plan([*typed, "degrade.operators.jpg_1=null"])
