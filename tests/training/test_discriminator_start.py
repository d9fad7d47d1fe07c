"""A discriminator is exported, and a GAN stage starts from a file, BasicSR's file or an earlier stage."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_train.config.compose import ConfigError
from sr_train.config.plan import plan
from sr_train.models.discriminators import VGGStyleDiscriminator
from sr_train.models.rrdbnet import RRDBNet
from sr_train.weights.discriminator import FILE, Discriminator, load_discriminator, save_discriminator
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.foreign.base import WeightsError

CLASS = "sr_train.models.discriminators.VGGStyleDiscriminator"
MODEL = {"_target_": CLASS, "size": 32, "channels": 4, "image_channels": 3}
TINY = (
    "experiment=quickstart", "model.channels=8", "model.growth=4", "model.blocks=1", "data.lr_patch=8", "data.batch=4",
    "trainer.max_steps=2", "trainer.accelerator=cpu", "sets=[]", "data.workers=0", "logger=csv", "trainer.precision=32",
    "optimizer=adam", "task.rate=1e-4", "gan.loss=gan", "gan.discriminator=vgg",
    "gan.task.discriminator.size=32", "gan.task.discriminator.channels=4", "curve=constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VGGStyleDiscriminator(size=32, channels=4)


@pytest.fixture
def files(tmp_path, network, monkeypatch):
    """A folder with a discriminator as our file and as BasicSR's, and a generator."""
    monkeypatch.chdir(tmp_path)
    save_discriminator(tmp_path / "d.safetensors", Discriminator(MODEL, network.state_dict(), {"run": "a"}))
    torch.save({"params": network.state_dict()}, tmp_path / "net_d.pth")
    arguments = {"scale": 4, "channels": 8, "growth": 4, "blocks": 1}
    model = {"_target_": "sr_train.models.rrdbnet.RRDBNet", **arguments}
    save_weights(tmp_path / "g.safetensors", Weights(model, RRDBNet(**arguments).state_dict()))
    return tmp_path


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_file_is_read_as_written_and_converted_to_basicsrs_and_back(files, network, invoke):
    found, _ = load_discriminator("d.safetensors")
    assert (found.model, found.origin) == (MODEL, {"run": "a"})
    assert equal(found.state, network.state_dict())
    done = invoke("sr-convert", "weights=d.safetensors", "out=out/net_d.pth")
    assert done.returncode == 0, done.stderr
    assert "VGGStyleDiscriminator" in done.stdout
    theirs = torch.load(files / "out" / "net_d.pth", weights_only=True)["params"]
    assert equal(theirs, network.state_dict())
    assert invoke("sr-convert", "weights=out/net_d.pth", "out=back.safetensors").returncode == 0
    assert equal(load_discriminator("back.safetensors")[0].state, network.state_dict())
    assert "already exists" in invoke("sr-convert", "weights=d.safetensors", "out=back.safetensors").stderr
    assert "a discriminator is written as" in invoke("sr-convert", "weights=d.safetensors", "out=d.onnx").stderr


def test_hostile_and_wrong_files_are_refused(files, network):
    state = network.state_dict()
    with pytest.raises(WeightsError, match=r"d\.safetensors: contains a discriminator, not a network that upscales"):
        load_weights("d.safetensors")
    with pytest.raises(WeightsError, match=r"g\.safetensors: contains a network that upscales, not a discriminator"):
        load_discriminator("g.safetensors")
    with pytest.raises(WeightsError, match="there is no such file"):
        load_discriminator("nope.safetensors")
    header = {"format": "sr-train discriminator", "version": "1", "origin": "{}"}
    for model, message in (
        ({"_target_": "os.system"}, "only networks of sr_train.models"),
        ({**MODEL, "size": {"_target_": "os.system"}}, "an object with its own _target_"),
    ):
        save_file(state, "evil.safetensors", {**header, "discriminator": json.dumps(model)})
        with pytest.raises(WeightsError, match=message):
            load_discriminator("evil.safetensors")
    save_file(state, "evil.safetensors", {**header, "discriminator": "{"})
    with pytest.raises(WeightsError, match="damaged header"):
        load_discriminator("evil.safetensors")
    save_file({**state, "conv0_0.bias": state["conv0_0.bias"] * float("nan")}, "evil.safetensors",
              {**header, "discriminator": json.dumps(MODEL)})  # fmt: skip
    with pytest.raises(WeightsError, match=r"NaN or infinity: conv0_0\.bias"):
        load_discriminator("evil.safetensors")
    whole = (files / "d.safetensors").read_bytes()
    (files / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"short\.safetensors"):
        load_discriminator("short.safetensors")


def test_keys_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"stage psnr: init\.discriminator=d: this stage trains one network"):
        plan([*TINY, "psnr.init.discriminator=d"])
    with pytest.raises(ConfigError, match=r"init\.discriminator=psnr: stage psnr has no discriminator"):
        plan([*TINY, "gan.init.discriminator=psnr"])


@pytest.mark.slow
def test_a_stage_starts_from_files_and_exports_its_discriminator(files, network, invoke):
    start = (*TINY, "stage=gan", "gan.init.stage=null", "gan.init.weights=g.safetensors", "checkpoint.every=1")
    frozen = "gan.task.discriminator_rate=1e-30"  # so that only BatchNorm's statistics change
    trained = {}
    for name, given in (("ours", "d.safetensors"), ("theirs", "net_d.pth")):
        done = invoke("sr-train", *start, f"name={name}", frozen, f"gan.init.discriminator={given}")
        assert done.returncode == 0, done.stderr
        assert (
            f"stage gan: discriminator starts from {given}: {len(network.state_dict())} tensors copied" in done.stdout
        )
        assert "newly initialized" not in done.stdout
        trained[name] = load_file(files / "runs" / name / "gan" / FILE)
        weights = [k for k, _ in network.named_parameters()]
        for k in weights:
            torch.testing.assert_close(trained[name][k], network.state_dict()[k], atol=1e-20, rtol=0)
    assert equal(trained["ours"], trained["theirs"])
    with safe_open(files / "runs" / "ours" / "gan" / FILE, framework="pt") as content:
        header = content.metadata()
    assert json.loads(header["discriminator"]) == MODEL
    assert json.loads(header["origin"]) == {"run": "ours", "stage": "gan", "step": 2}

    scratch = invoke("sr-train", *start, "name=scratch")
    assert scratch.returncode == 0, scratch.stderr
    assert "stage gan: discriminator: it starts from scratch" in scratch.stdout
    changed = invoke("sr-train", *start, "name=scratch", "gan.init.discriminator=d.safetensors")
    assert changed.returncode == 1
    assert "fingerprint.weights" in changed.stderr
    other = invoke(
        "sr-train", *start, "name=other", "gan.init.discriminator=d.safetensors", "gan.task.discriminator.channels=8"
    )
    assert other.returncode == 1
    assert "give gan.task.discriminator.channels=4" in other.stderr
    assert not (files / "runs" / "other").exists()


@pytest.mark.slow
def test_a_second_gan_stage_continues_the_first_ones_discriminator(files, invoke, monkeypatch):
    conf = files / "conf" / "experiment"
    conf.mkdir(parents=True)
    (conf / "twice.yaml").write_text("""# @package _global_
# Two GAN stages
defaults:
  - quickstart
stages:
  gan2:
    scale: 4
    init.stage: gan
    init.discriminator: gan
    task: gan
    loss: gan
    task.discriminator.size: 32
    task.discriminator.channels: 4
""")
    typed = ["experiment=twice", *TINY[1:]]
    monkeypatch.setenv("SR_CONF", str(files / "conf"))
    done = invoke("sr-train", *typed, "name=twice", "gan2.task.discriminator_rate=1e-30")
    assert done.returncode == 0, done.stderr
    assert "stage gan2: discriminator starts from stage gan" in done.stdout
    first, second = (load_file(files / "runs" / "twice" / stage / FILE) for stage in ("gan", "gan2"))
    names = [k for k, _ in VGGStyleDiscriminator(size=32, channels=4).named_parameters()]
    for k in names:
        torch.testing.assert_close(first[k], second[k], atol=1e-20, rtol=0)
    again = invoke("sr-train", *typed, "name=twice", "gan2.task.discriminator_rate=1e-30")
    assert "stage gan2: already finished" in again.stdout
