"""Keys whose values follow from other keys: typed, they are refused with the key to type."""

import re
from pathlib import Path

import pytest
import yaml

from sr_train.config.derived import _DERIVED, check_derived
from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.console import ConfigError

FREE = {  # values made of others that a user may well give
    "paths.data": "a default",
    "curve.periods": "a default",
    "data.val": "sets of this data alone",
    "data.train.hr": "a default",
    "data.train.lr": "a default",
    "logger.wandb.name": "a name on a server",
    "logger.wandb.save_dir": "files of another program",
}


def _interpolated(node, path=""):
    """Keys of a YAML whose values are made of others, with what they are made of."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _interpolated(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _interpolated(value, path)
    elif isinstance(node, str) and "${" in node:
        yield path, node


def _conf():
    for path in sorted(conf_folder().rglob("*.yaml")):
        relative = path.relative_to(conf_folder())
        if relative.parts[0] in (
            "evaluate.yaml",
            "upscale.yaml",
            "interp.yaml",
            "prepare.yaml",
            "convert.yaml",
            "sets",
        ):
            continue
        group = "" if len(relative.parts) == 1 or relative.parts[0] == "experiment" else relative.parts[0]
        node = {"discriminator": "task.discriminator"}.get(group, group)
        yield from _interpolated(yaml.safe_load(Path(path).read_text()), node)


def test_every_interpolation_of_the_configs_is_derived_or_free():
    found = dict(_conf())
    assert len(found) > 15
    for key, made_of in found.items():
        assert (key in FREE) != (key in _DERIVED), key
        if key in _DERIVED:
            assert _DERIVED[key][0] == made_of


TYPED = {
    "data.accumulate=2": "is derived from trainer.accumulate_grad_batches (1); give trainer.accumulate_grad_batches=2",
    "data.scale=4": "is derived from scale (2); give scale=4",
    "data.scales=[2,4]": "is derived from scales (null); give scales=[2,4]",
    "data.seed=3": "is derived from seed (0); give seed=3",
    "data.stage_name=foo": "is derived from stage (x2); give stages={NAME: ...}, which sets the name of the stage",
    "model.scale=3": "is derived from scale (2); give scale=3",
    "folder=X": "is derived from paths.runs, name, stage (runs/quickstart_edsr/x2); give paths.runs=DIR or name=NAME",
    "task.optimizer.lr=0.01": "is derived from task.rate (0.003); give task.rate=0.01",
    "task.optimizer.params=3": "is set by sr-train; give task.trainable=[GLOB] or task.rate_scale={GLOB: FACTOR}; "
    "GLOB matches parameter names",
    "task.protocols=[y]": "is derived from validate.protocols ([y,rgb]); give validate.protocols=[y]",
    "task.model=3": "is set by sr-train; give model=NAME and model.KEY=VALUE",
    "logger.tensorboard.folder=Y": "is derived from folder (X); give paths.runs=DIR or name=NAME",
    "trainer.plugins=[]": "is set by sr-train; give trainer.precision, trainer.strategy or checkpoint.KEY=VALUE",
}


def test_a_derived_key_is_refused_with_the_key_to_type():
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=quickstart_edsr", *(f"x2.{typed}" for typed in TYPED)])
    lines = caught.value.problems
    for typed, message in TYPED.items():
        assert f"stage x2: {typed}: {message}" in lines, lines
    assert not [line for line in lines if line.startswith("stage x4")]


def test_a_derived_key_is_refused_in_a_mapping_and_in_an_experiment_file(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine\ndata: {accumulate: 2}\nstages:\n  a: {scale: 2}\n  b: {scale: 2, task.optimizer.lr: 1}\n"
    )
    monkeypatch.setenv("SR_CONF", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=mine", "validate={protocols: [y]}", "task.protocols=[rgb]"])
    text = str(caught.value)
    for key in (
        "stage a: data.accumulate=2: is derived from",
        "stage b: data.accumulate=2: is derived from",
        "stage b: task.optimizer.lr=1: is derived from",
        "stage a: task.protocols=[rgb]: is derived from validate.protocols ([y]); give validate.protocols=[rgb]",
    ):
        assert re.search(re.escape(key), text), text


def test_a_value_equal_to_its_source_and_a_free_key_are_accepted():
    composed = plan(
        ["experiment=quickstart_edsr", "x4.model.scale=4", "trainer.accumulate_grad_batches=2", "data.accumulate=2",
         "paths.runs=r", "name=a/b", "data.val.mine={hr: toy}", "curve.periods=[2000]", "validate.protocols=[y]"]
    )  # fmt: skip
    assert composed.stages[1].config["data"]["val"]["mine"] == {"hr": "toy"}
    assert composed.stages[1].config["task"]["protocols"] == ["y"]


def test_a_missing_derived_key_is_no_problem():
    assert not check_derived({"scale": 2, "data": {"workers": 2}, "loss": {"perceptual": None}}, "stage a")
    assert check_derived({"scale": 2, "data": {"scale": None}}, "stage a") == [
        "stage a: data.scale=null: is derived from scale (2); give scale=null"
    ]


def test_a_data_file_of_an_earlier_version_that_names_the_stage_is_refused(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "_target_: sr_train.data.module.SRData\ntrain: [{hr: toy}]\nval: ${sets}\nscale: ${scale}\nscales: ${scales}\n"
        "lr_patch: 8\nbatch: 2\naccumulate: ${trainer.accumulate_grad_batches}\nseed: ${seed}\nstage: ${stage}\n"
    )
    monkeypatch.setenv("SR_CONF", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"stage x2: data\.stage=x2: is now the folder for local copies.*stage_name: "
    ):
        plan(["experiment=quickstart_edsr", "data=mine"])
