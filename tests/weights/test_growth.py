import pytest
import torch

from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.models.edsr import EDSR
from sr_train.models.edvr import EDVR
from sr_train.models.msrresnet import MSRResNet
from sr_train.models.rrdbnet import RRDBNet
from sr_train.models.srresnet import SRResNet
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.growth import residual_ends
from sr_train.weights.warm_start import match_warm_start, warm_start

EDVRS = {"channels": 8, "groups": 2, "front_blocks": 1}
CASES = [
    (EDVR, {**EDVRS, "back_blocks": 2}, {**EDVRS, "back_blocks": 5}, ["reconstruction"]),
    (EDVR, {**EDVRS, "back_blocks": 2}, {**EDVRS, "back_blocks": 3, "front_blocks": 2},
     ["reconstruction", "feature_extraction"]),
    (EDSR, {"scale": 2, "channels": 4, "blocks": 2, "res_scale": 0.1},
     {"scale": 2, "channels": 4, "blocks": 12, "res_scale": 0.1}, ["body"]),
    (MSRResNet, {"channels": 4, "blocks": 1}, {"channels": 4, "blocks": 2}, ["body"]),
    (SRResNet, {"scale": 2, "channels": 4, "blocks": 1}, {"scale": 2, "channels": 4, "blocks": 3}, ["body"]),
]  # fmt: skip


def made(cls, arguments, seed):
    torch.manual_seed(seed)
    network = cls(**arguments)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.15)
    return network


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("cls", "small", "large", "grow"), CASES)
def test_a_grown_network_has_the_outputs_of_the_small_one_and_its_new_blocks_learn(cls, small, large, grow, train):
    source, network = made(cls, small, 0), made(cls, large, 1)
    decided = warm_start(network, source.state_dict(), [], grow=grow, where="test")
    assert set(decided.copied) == set(source.state_dict())
    assert set(decided.grown) == set(network.state_dict()) - set(source.state_dict())
    assert not decided.initialized
    lr = torch.rand(1, 5, 3, 8, 8) if cls is EDVR else torch.rand(2, 3, 8, 8)
    source.train(train), network.train(train)
    expected, actual = source(lr), network(lr)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
    actual.square().sum().backward()
    ends = residual_ends(network, grow, where="test")
    for name, parameter in network.named_parameters():
        if name in decided.grown:
            end = any(f".{e}." in name for e in ends.values())
            assert bool(parameter.any()) != end, name
            assert not end or bool(parameter.grad.any()), name


@pytest.mark.parametrize(
    ("cls", "small", "large", "grow", "message"),
    [
        (*CASES[0][:3], [], r"12 tensors do not match.*\n  reconstruction\.2\.conv1\.weight: not in the source"),
        (*CASES[0][:3], ["recon"], r"'recon' is not a list of blocks.*choose from feature_extraction, reconstruction, frames"),
        (*CASES[0][:2], CASES[0][1], ["reconstruction"], r"already has 2 blocks reconstruction\.\*; there is nothing to grow"),
        (EDVR, CASES[0][2], CASES[0][1], ["reconstruction"], "already has 5 blocks"),
        (EDVR, CASES[0][1], {**CASES[0][2], "channels": 16}, ["reconstruction"],
         r"conv_first\.weight: \[8, 3, 3, 3\] in the source, \[16, 3, 3, 3\] in the network"),
        (EDVR, {**EDVRS, "back_blocks": 0}, CASES[0][1], ["reconstruction"],
         r"the source has no blocks reconstruction\.0, reconstruction\.1"),
        (RRDBNet, {"channels": 4, "growth": 2, "blocks": 1}, {"channels": 4, "growth": 2, "blocks": 2}, ["body"],
         "RRDBNet has none"),
    ],
)  # fmt: skip
def test_wrong_growth_is_refused(cls, small, large, grow, message):
    with torch.device("meta"):
        source, network = cls(**small), cls(**large)
    with pytest.raises(WeightsError, match=message):
        warm_start(network, source.state_dict(), [], grow=grow, where="test")


def test_grown_blocks_may_be_newly_initialized():
    source, network = made(EDSR, CASES[2][1], 0), made(EDSR, CASES[2][2], 1)
    decided = match_warm_start(network.state_dict(), source.state_dict(), ["body.1?.*"], grow=["body"], where="test")
    assert {k.split(".")[1] for k in decided.grown} == {str(i) for i in range(2, 10)}
    assert {k.split(".")[1] for k in decided.initialized} == {"10", "11"}


SMALL = (
    "data=toy", "sets=[]", "model=edsr_baseline", "model.channels=8", "data.workers=0", "data.batch=2", "data.lr_patch=12",
    "trainer.accelerator=cpu", "trainer.precision=32", "trainer.max_steps=1", "logger=csv", "validate.pictures=0", "name=run",
    "task.rate=1e-9", "task.ema=null",
)  # fmt: skip
STAGES = "stages={a: {model.blocks: 2}, b: {model.blocks: 5, init.stage: a, init.grow: [body]}}"


def test_a_stage_grows_from_another_and_its_table_lists_the_grown_tensors(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, STAGES)
    assert done.returncode == 0, done.stderr
    assert "grown     12 tensors  body.2 to body.4, as identity" in done.stdout
    small, large = (load_weights(tmp_path / f"runs/run/{s}/weights.safetensors").state for s in "ab")
    assert all((large[k] - v).abs().max() < 1e-6 for k, v in small.items())
    assert all(large[f"body.{i}.conv2.weight"].abs().max() < 1e-6 for i in (2, 3, 4))


def test_a_wrong_growth_fails_before_training(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, STAGES, "b.model.channels=16")
    assert done.returncode == 1
    assert "[8, 3, 3, 3] in the source, [16, 3, 3, 3] in the network" in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))
    with pytest.raises(ConfigError, match=r"stage main: init\.grow needs init\.stage or init\.weights"):
        plan([*SMALL, "init.grow=[body]"])


# -- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tsa", "had", "frames"), [(False, 1, 5), (False, 3, 5), (True, 5, 7), (True, 1, 3)])
def test_a_network_with_more_frames_has_the_outputs_of_the_smaller_one_and_all_frames_learn(tsa, had, frames):
    options = {**EDVRS, "back_blocks": 1, "tsa": tsa}
    source, network = made(EDVR, {**options, "frames": had}, 0), made(EDVR, {**options, "frames": frames}, 1)
    decided = warm_start(network, source.state_dict(), [], grow=["frames"], where="test")
    assert set(decided.copied) == set(network.state_dict())
    clip = torch.rand(2, frames, 3, 8, 8)
    margin = (frames - had) // 2
    actual = network(clip)
    torch.testing.assert_close(actual, source(clip[:, margin : margin + had]), atol=1e-6, rtol=1e-6)
    actual.square().sum().backward()
    for name in network.joins_frames:
        weight = network.get_submodule(name).weight
        assert not weight[:, : margin * 8].any()
        assert (weight.grad.flatten(2).abs().sum((0, 2)) > 0).all(), name


def test_blocks_and_frames_grow_together():
    source = made(EDVR, {**EDVRS, "back_blocks": 1, "frames": 3}, 0)
    network = made(EDVR, {**EDVRS, "back_blocks": 3, "frames": 5}, 1)
    warm_start(network, source.state_dict(), [], grow=["frames", "reconstruction"], where="test")
    clip = torch.rand(1, 5, 3, 8, 8)
    torch.testing.assert_close(network(clip), source(clip[:, 1:4]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("small", "large", "message"),
    [
        ({"frames": 5}, {"frames": 5}, "the source already takes 5 frames; the network takes 5"),
        ({"frames": 7}, {"frames": 5}, "the source already takes 7 frames; the network takes 5"),
        ({"frames": 3, "tsa": False}, {"frames": 5}, r"frames: fusion\.feat_fusion\.weight is not in the source"),
        ({"frames": 3, "channels": 16}, {"frames": 5}, r"fusion\.feat_fusion\.weight is \[16, 48, 1, 1\] in the source; "
         r"expected \[8, frames \* 8, \.\.\.\] with an odd number of frames"),
    ],
)  # fmt: skip
def test_frames_that_cannot_be_grown_are_refused(small, large, message):
    with torch.device("meta"):
        source, network = EDVR(**{**EDVRS, **small}), EDVR(**{**EDVRS, **large})
    with pytest.raises(WeightsError, match=message):
        warm_start(network, source.state_dict(), [], grow=["frames"], where="test")


def test_networks_of_images_have_no_frames_to_grow():
    network = made(EDSR, CASES[2][1], 0)
    with pytest.raises(WeightsError, match="EDSR has no window that frames can be added to"):
        warm_start(network, network.state_dict(), [], grow=["frames"], where="test")
