import json

import pytest
import torch

from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.models.edsr import EDSR
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.warm_start import match_warm_start, warm_start

SMALL = (
    "experiment=edsr_baseline_x4", "data=toy", "sets=[toy]", "model.blocks=1", "model.channels=8", "data.workers=0",
    "data.batch=4",
    "data.lr_patch=12", "trainer.accelerator=cpu", "trainer.precision=32", "trainer.max_steps=6", "checkpoint.every=2",
    "logger=csv", "validate.pictures=0",
)  # fmt: skip


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return EDSR(scale=2, channels=4, blocks=1), EDSR(scale=4, channels=4, blocks=1)


def test_all_tensors_except_skipped_ones_are_copied(networks):
    source, network = networks
    before = {k: v.clone() for k, v in network.state_dict().items()}
    decided = warm_start(network, source.state_dict(), ["upsample.*"], where="test")
    for name, value in network.state_dict().items():
        expected = before[name] if name.startswith("upsample.") else source.state_dict()[name]
        assert torch.equal(value, expected), name
    assert decided.initialized == [f"upsample.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")]
    assert decided.unused == ["upsample.0.weight", "upsample.0.bias"]
    assert len(decided.copied) == 10


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ([], r"2 tensors do not match; list the tensors to re-initialize.*\n  upsample\.2\.weight: not in the source"),
        (["upsample.*", "tail.*"], r"skip 'tail\.\*' matches nothing"),
        (["upsample.2.weight"], r"1 tensor does not match.*\n  upsample\.2\.bias: not in the source"),
    ],
)
def test_all_other_differences_are_errors(networks, skip, message):
    source, network = networks
    with pytest.raises(WeightsError, match=message):
        match_warm_start(network.state_dict(), source.state_dict(), skip, where="test")


def test_another_width_is_an_error_by_shape(networks):
    wide = EDSR(scale=2, channels=5, blocks=1)
    with pytest.raises(
        WeightsError, match=r"conv_first\.weight: \[4, 3, 3, 3\] in the source, \[5, 3, 3, 3\] in the network"
    ):
        warm_start(wide, networks[0].state_dict(), [], where="test")
    with pytest.raises(WeightsError, match=r"init\.skip matches all tensors"):
        warm_start(wide, networks[0].state_dict(), ["*"], where="test")


def test_a_stage_that_starts_from_the_one_before_gives_the_same_when_run_alone(invoke, tmp_path):
    whole = invoke("sr-train", *SMALL, "name=whole")
    assert whole.returncode == 0, whole.stderr
    assert "stage x4 starts from stage x2:" in whole.stdout
    alone = invoke("sr-train", *SMALL, "name=alone", "stage=x4")
    assert alone.returncode == 1
    assert "starts from stage x2, which is not finished" in alone.stderr
    assert invoke("sr-train", *SMALL, "name=alone", "stage=x2").returncode == 0
    alone = invoke("sr-train", *SMALL, "name=alone", "stage=x4")
    assert alone.returncode == 0, alone.stderr
    file = invoke("sr-train", *SMALL, "name=file", "stage=x4", "init.weights=runs/whole/x2")
    assert file.returncode == 0, file.stderr
    states = [
        load_weights(tmp_path / "runs" / n / "x4" / "weights.safetensors").state for n in ("whole", "alone", "file")
    ]
    assert all(torch.equal(states[0][k], s[k]) for s in states[1:] for k in s)
    again = invoke("sr-train", *SMALL, "name=whole")
    assert again.stdout.count("already finished") == 2


def test_a_source_that_changed_makes_another_run_of_the_stage(invoke):
    assert invoke("sr-train", *SMALL).returncode == 0
    longer = invoke("sr-train", *SMALL, "x2.trainer.max_steps=8", "x4.trainer.max_steps=9")
    assert longer.returncode == 1
    assert "stage x4 was started from the weights of stage x2, which is finished at step" in longer.stderr
    assert invoke("sr-train", *SMALL, "x2.trainer.max_steps=8", "stage=x2").returncode == 0
    longer = invoke("sr-train", *SMALL, "x2.trainer.max_steps=8", "x4.trainer.max_steps=9", "stage=x4")
    assert longer.returncode == 1
    assert "fingerprint.weights[0]" in longer.stderr


def test_a_bad_warm_start_fails_before_the_first_stage_is_trained(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, "x4.model.channels=16")
    assert done.returncode == 1
    assert "stage x4 from stage x2" in done.stderr
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("scale=3", r"scale=3: would set this key in 2 stages, but each stage needs its own value; give x4\.scale=3"),
        ("init.skip=[]", "would set this key in 2 stages"),
        ("x2.init.stage=x4", "init.stage=x4 is not an earlier stage"),
        ("x4.init.stage=x3", "init.stage=x3 is not an earlier stage; earlier stages: x2"),
        ("x2.init.skip=[a]", "init.skip needs init.stage or init.weights"),
        ("x4.init.stge=x2", r"did you mean x4\.init\.stage"),
    ],
)
def test_wrong_inits_are_refused(typed, message):
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=edsr_baseline_x4", typed])


def test_a_given_file_replaces_the_recipes_stage():
    stage = plan(["experiment=edsr_baseline_x4", "stage=x4", "init.weights=FILE"]).stages[-1]
    assert (stage.config["init"]["stage"], stage.config["init"]["weights"]) == (None, "FILE")
    assert json.dumps(stage.config["init"]["skip"]) == '["upsample.*"]'
