"""A network of the user's own works, or is refused in one line at the start of a command."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.training import network_check
from sr_train.training.dry_run import multiply_adds
from sr_train.training.outline import outline
from sr_train.training.preflight import prepare
from sr_train.weights import file
from sr_train.weights.file import load_weights
from sr_train.weights.network import build_network
from sr_train.weights.open import full_arguments

pytestmark = pytest.mark.slow

SMALL = (
    "data=toy", "sets=[]", "data.workers=0", "data.batch=2", "data.lr_patch=8", "trainer.accelerator=cpu",
    "trainer.precision=32", "trainer.max_steps=2", "checkpoint.every=2", "logger=csv",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    """The package ``own`` can be imported, and ``conf(group, name, text)`` writes a YAML of the user's."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "nets"))
    monkeypatch.setenv("SR_CONF", str(tmp_path / "conf"))

    def conf(group, name, text):
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)

    conf("model", "own", "_target_: own.networks.Plain\nscale: ${scale}\n")
    return conf


def _stage(own, network, more="", *typed):
    own("model", "own", f"_target_: own.{network}\nscale: ${{scale}}\n{more}")
    return plan(["model=own", *SMALL, *typed]).stages[0]


def _refused(stage):
    problems = []
    outline(stage, problems)
    return [str(p) for p in problems]


@pytest.mark.parametrize(
    ("network", "more"),
    [
        ("networks.Plain", ""), ("networks.Twice", ""), ("networks.Defaults", ""), ("networks.NewNorm", ""),
        ("networks.OldNorm", ""), ("networks.Spare", ""), ("Exported", ""),
        ("networks.Mapping", "options: {sizes: [5, 6], deep: {a: null, b: text}}"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_valid_network_passes_the_check(own, network, more):
    stage = _stage(own, network, more)
    assert _refused(stage) == []
    network_check.try_network(stage)
    assert multiply_adds(stage.config["model"]) > 0


@pytest.mark.parametrize(
    ("network", "more", "message"),
    [
        ("networks.OtherSize", "", r"float32 \[1, 3, 8, 8\] for a patch \[1, 3, 8, 8\], expected floats \[1, 3, 16, 16\]"),
        ("networks.Detached", "", r"Detached returns an output without a gradient, so the network cannot be trained"),
        ("networks.Pair", "", r"returns a tuple for a patch .*, expected only the image, a tensor \[1, 3, 16, 16\]"),
        ("networks.RandomBuffer", "", r"RandomBuffer: the output changes when the network is read back from a weights file"),
        ("networks.Infinite", "", r"stage main: Infinite: not written: 1 tensor contains NaN or infinity: mask"),
        ("networks.Complex", "", r"stage main: Complex: .*cannot hold"),
        ("networks.Failing", "", r"Failing fails on a patch \[1, 3, 8, 8\]: IndexError: index 1000000 is out of bounds"),
        ("networks.Unstated", "", r"Unstated needs an attribute multiple_of that is an integer"),
        ("networks.make", "", r"'own.networks.make' is not the name of a network class"),
        (
            "networks.Mapping", "options: {sizes: [5], layer: {_target_: torch.nn.ReLU}}",
            r"model\.options\.layer is an object with its own _target_; a network's arguments are stored",
        ),
    ],
)  # fmt: skip
def test_an_invalid_network_is_refused_in_one_line(own, network, more, message):
    stage = _stage(own, network, more)
    assert _refused(stage) == []
    with pytest.raises(ValueError, match=message) as refused:
        network_check.try_network(stage)
    assert "\n" not in str(refused.value)


def test_a_network_that_cannot_be_copied_trains_without_an_ema(own):
    (problem,) = _refused(_stage(own, "networks.Locked"))
    assert re.search(r"task\.ema=0\.999: Locked cannot be copied .*; task\.ema=null trains without an EMA", problem)
    assert _refused(_stage(own, "networks.Locked", "", "task.ema=null")) == []


def test_every_scale_is_tested(own):
    own("model", "own", "_target_: own.networks.Scales\nscales: ${scales}\nwrong: false\n")
    typed = ["model=own", "task=multiscale", "scale=null", "scales=[2,3]", *SMALL]
    stage = plan(typed).stages[0]
    network_check.try_network(stage)
    stage = plan([*typed, "model.wrong=true"]).stages[0]
    with pytest.raises(
        ValueError, match=r"returns float32 \[1, 3, 16, 16\] .*, expected floats \[1, 3, 24, 24\] \(x3\)"
    ):
        network_check.try_network(stage)


def test_a_network_for_windows_is_tested(own, tiny_video, monkeypatch):
    from tiny_video import TinyVideo

    own("model", "own", "_target_: tiny_video.TinyVideo\nscale: ${scale}\nframes: ${data.frames}\n")
    stage = plan(["model=own", "data=toy_clips", *SMALL[1:], "data.frames=3"]).stages[0]
    shapes, forward = [], TinyVideo.forward
    monkeypatch.setattr(TinyVideo, "forward", lambda self, lr: shapes.append(list(lr.shape)) or forward(self, lr))
    network_check.try_network(stage)
    assert shapes == [[1, 3, 3, 8, 8]] * 2


@pytest.mark.parametrize("large", [False, True])
def test_a_large_network_is_compared_without_copies_of_its_tensors(own, monkeypatch, large):
    """A second one is built, and bytes of all tensors are made, for a small one only."""
    if large:
        monkeypatch.setattr(network_check, "LARGE", 10)
    sizes = []
    pack = file.pack
    monkeypatch.setattr(network_check, "pack", lambda *a, **k: sizes.append(pack(*a, **k)) or sizes[-1])
    network_check.try_network(_stage(own, "networks.Twice"))
    assert (len(sizes[0]) < 1400) == large
    with pytest.raises(ValueError, match="mask"):
        network_check.try_network(_stage(own, "networks.Infinite"))


def test_ddp_finds_parameters_without_a_gradient(own, capsys):
    def strategy_of(stage):
        ready = prepare(stage, [])
        assert ready is not None
        return ready.stage.config["trainer"]["strategy"]

    for network, expected in (("networks.Plain", "auto"), ("networks.Spare", "ddp_find_unused_parameters_true")):
        stage = _stage(own, network, "", "trainer.devices=2")
        assert strategy_of(stage) == expected
    assert "no gradient for spare.weight, spare.bias, so trainer.strategy=ddp_find" in capsys.readouterr().out
    frozen = _stage(own, "networks.Spare", "", "trainer.devices=2", "task.trainable=[body.*,last.*]")
    assert strategy_of(frozen) == "auto"


def test_the_check_does_not_use_the_random_generator_of_the_run(own):
    stage = _stage(own, "networks.Plain")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    network_check.try_network(stage)
    assert torch.equal(torch.rand(1), expected)


def test_a_file_names_the_module_that_defines_a_class(own):
    assert full_arguments({"_target_": "own.Exported", "scale": 2}) == {
        "_target_": "own.networks.Plain", "channels": 4, "scale": 2
    }  # fmt: skip
    assert full_arguments({"_target_": "own.networks.Defaults", "scale": 2}) == {
        "_target_": "own.networks.Defaults", "scale": 2
    }  # fmt: skip


def test_one_module_under_two_names_is_trained_written_once_and_read_back(own, invoke, tmp_path):
    own("model", "own", "_target_: own.networks.Twice\nscale: ${scale}\n")
    done = invoke("sr-train", "model=own", *SMALL)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "runs" / "run" / "main" / "weights.safetensors"
    weights = load_weights(file, allow=["own"])
    network = build_network(weights, where="file", allow=["own"])
    assert network.again is network.body
    assert torch.equal(weights.state["again.weight"], weights.state["body.weight"])
    with safe_open(file, "pt") as opened:
        assert "again.weight" not in opened.keys()  # noqa: SIM118 - not a mapping
        assert set(opened.keys()) == {"body.weight", "body.bias", "last.weight", "last.bias", "whole", "part"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weight_norm_of_either_kind_passes_the_check_and_is_averaged(own, invoke):
    own("model", "own", "_target_: own.networks.NewNorm\nscale: ${scale}\n")
    done = invoke("sr-train", "model=own", *SMALL, "check=true")
    assert done.returncode == 0, done.stderr
    own("model", "own", "_target_: own.networks.OldNorm\nscale: ${scale}\n")
    done = invoke("sr-train", "model=own", *SMALL)
    assert done.returncode == 0, done.stderr


def _callbacks(own, *typed):
    return plan(["model=own", *SMALL, *typed]).stages[0].config["callbacks"]


def test_a_file_of_callbacks_has_its_target_at_the_top_or_names(own):
    early = "_target_: lightning.pytorch.callbacks.EarlyStopping\nmonitor: toy/y/psnr\npatience: 3\n"
    own("callbacks", "early", early)
    own("callbacks", "named", "stats: {_target_: lightning.pytorch.callbacks.DeviceStatsMonitor}\n")
    own("callbacks", "timer", "_target_: lightning.pytorch.callbacks.Timer\n")
    expected = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "toy/y/psnr", "patience": 5}
    assert _callbacks(own, "callbacks=early", "callbacks.patience=5") == {"EarlyStopping": expected}
    both = _callbacks(own, "callbacks=[early,named]", "callbacks.patience=5")
    assert both == {"stats": {"_target_": "lightning.pytorch.callbacks.DeviceStatsMonitor"}, "EarlyStopping": expected}
    with pytest.raises(
        ConfigError, match=r"callbacks=\[early,timer\]: early and timer have _target_ as a top-level key"
    ):
        _callbacks(own, "callbacks=[early,timer]")
    with pytest.raises(ConfigError, match=r"callbacks\.patient: is not an argument of .*EarlyStopping"):
        _callbacks(own, "callbacks=early", "callbacks.patient=5")
    with pytest.raises(ConfigError, match=r"callbacks\.x=3: expected \{_target_: PACKAGE\.CLASS"):
        _callbacks(own, "callbacks.x=3")
