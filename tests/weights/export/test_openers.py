"""Facts about other programs are compared with them: each is given every network, scale and unusual size."""

import importlib
import importlib.util
import sys
import types

import pytest
import torch
from exports import BASICSR, NETWORKS, SEVERAL, weights_of

from sr_train.config.plan import plan
from sr_train.inference.images import super_resolve
from sr_train.weights.export.openers import opened_by, openers, without_basicsr, without_spandrel
from sr_train.weights.export.pth import basicsr_options
from sr_train.weights.file import Weights, save_weights
from sr_train.weights.network import build_model, build_network
from sr_train.weights.open import full_arguments

UNUSUAL = [
    {"channels": 3}, {"channels": 1}, {"channels": 64, "blocks": 1}, {"blocks": 0}, {"growth": 16}, {"growth": 64},
    {"growth": 16, "channels": 16}, {"unshuffle": False}, {"blocks": 3},
]  # fmt: skip


def cases():
    for name, model in NETWORKS.items():
        yield pytest.param(model, id=name)
    for scale in (1, 2, 3, 4, 8):
        for odd in UNUSUAL:
            model = {**NETWORKS["rrdbnet_x4"], "scale": scale, **odd}
            yield pytest.param(model, id=f"rrdbnet_x{scale}_{'_'.join(f'{k}_{v}' for k, v in odd.items())}")
    for scale in (2, 3, 4):
        for name in (f"edsr_x{scale}", f"msrresnet_x{scale}", f"srresnet_x{scale}"):
            yield pytest.param({**NETWORKS[name], "channels": 64, "blocks": 1}, id=f"{name}_64")
            yield pytest.param({**NETWORKS[name], "blocks": 0}, id=f"{name}_blocks_0")


def built(model):
    torch.manual_seed(0)
    network = build_model(model, where="test").eval()
    for value in network.parameters():
        if value.dim() == 4:
            torch.nn.init.normal_(value, 0, 0.7 / value[0].numel() ** 0.5)
    return network


@pytest.mark.parametrize("model", cases())
def test_spandrel_opens_what_we_say_and_nothing_else(model, tmp_path):
    spandrel = pytest.importorskip("spandrel")
    network = built(model)
    model = full_arguments(model)
    save_weights(tmp_path / "net.safetensors", Weights(model, network.state_dict()))
    torch.save({"params": network.state_dict(), "params_ema": network.state_dict()}, tmp_path / "net.pth")
    for file in ("net.safetensors", "net.pth"):
        try:
            opened = spandrel.ModelLoader().load_from_file(tmp_path / file)
        except (spandrel.UnsupportedModelError, RuntimeError):
            opened = None  # refused; every other error is not expected
        same = opened is not None
        if opened is not None:
            for height, width in ((16, 24), (20, 12), (36, 28)):  # it pads folded networks to multiples of 4
                x = torch.rand(3, height, width)
                with torch.no_grad():
                    theirs = opened(x[None])[0].clamp(0, 1)
                ours = super_resolve(network, x)
                same &= theirs.shape == ours.shape and bool((theirs - ours).abs().max() < 1e-5)
        assert same == (without_spandrel(model) == ""), f"{file}: {without_spandrel(model)}"


@pytest.fixture(scope="module")
def basicsr():
    """BasicSR's networks by name; its package itself needs an old torchvision."""
    spec = importlib.util.find_spec("basicsr")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("could not import 'basicsr'")
    root = spec.submodule_search_locations[0]
    stubs = {name: types.ModuleType(name) for name in ("basicsr", "basicsr.archs", "basicsr.utils", "basicsr.ops")}
    for name, module in stubs.items():
        module.__dict__["__path__"] = [f"{root}/{'/'.join(name.split('.')[1:])}"]
    stubs["basicsr.utils"].__dict__["get_root_logger"] = lambda: None
    stubs["basicsr.ops.dcn"] = types.ModuleType("basicsr.ops.dcn")
    stubs["basicsr.ops.dcn"].__dict__.update(ModulatedDeformConvPack=_pack(), modulated_deform_conv=None)
    if importlib.util.find_spec("distutils") is None:
        stubs["distutils"] = types.ModuleType("distutils")
        stubs["distutils.version"] = types.ModuleType("distutils.version")
        stubs["distutils.version"].__dict__["LooseVersion"] = lambda text: tuple(
            map(int, text.split("+")[0].split(".")[:2])
        )
    kept = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        files = {"RRDBNet": "rrdbnet", "EDSR": "edsr", "MSRResNet": "srresnet", "EDVR": "edvr"}
        yield {n: getattr(importlib.import_module(f"basicsr.archs.{f}_arch"), n) for n, f in files.items()}
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "basicsr" or n in stubs]:
            del sys.modules[name]
        sys.modules.update({k: v for k, v in kept.items() if v is not None})


def _pack():
    """Stand-in for the CUDA operator's module: the layers of BasicSR's DCNv2Pack, which torchvision computes."""

    class Pack(torch.nn.Module):
        def __init__(self, inputs, outputs, size, stride=1, padding=0, dilation=1, groups=1, deformable_groups=1):
            super().__init__()
            pairs = {"stride": stride, "padding": padding, "dilation": dilation}
            for name, value in pairs.items():
                setattr(self, name, (value, value))
            self.groups, self.deformable_groups = groups, deformable_groups
            self.weight = torch.nn.Parameter(torch.zeros(outputs, inputs, size, size))
            self.bias = torch.nn.Parameter(torch.zeros(outputs))
            self.conv_offset = torch.nn.Conv2d(inputs, deformable_groups * 3 * size * size, size, stride, padding)

    return Pack


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in SEVERAL])
def test_basicsr_opens_what_we_say(name, basicsr):
    weights = weights_of(name)
    options = basicsr_options(weights.model)
    assert bool(options) == (name in BASICSR) == (without_basicsr(weights.model) == "")
    kind = options.pop("type", str(weights.model["_target_"]).rpartition(".")[2])
    if kind not in basicsr:
        return
    if not options:  # no arguments of BasicSR's network give our output
        if kind == "RRDBNet":
            theirs = basicsr[kind](3, 3, scale=weights.scale, num_feat=12, num_block=2)
            assert {k: v.shape for k, v in theirs.state_dict().items()} != {
                k: v.shape for k, v in weights.state.items()
            }
        return
    channels = (3, 3) if kind != "EDVR" else ()
    theirs = basicsr[kind](*channels, **options).eval()
    theirs.load_state_dict(weights.state)
    ours = build_network(weights, where=name)
    size = (1, 3, 24, 32) if kind != "EDVR" else (1, 3, 3, 32, 48)
    x = torch.rand(size)
    with torch.no_grad():
        expected = ours(x)
        assert expected.std() > 0.02
        torch.testing.assert_close(theirs(x), expected, atol=2e-5, rtol=1e-5)


def test_the_programs_are_listed_with_reasons():
    assert opened_by(full_arguments(NETWORKS["rrdbnet_x4"])) == "spandrel yes; ONNX yes; BasicSR yes; ncnn yes"
    assert opened_by(full_arguments(NETWORKS["rrdbnet_x3"])) == (
        "spandrel no, because it takes an RRDBNet x3 for x2; ONNX yes; BasicSR no, because its RRDBNet has no x3; ncnn yes"
    )
    assert "growth is 16 and it assumes 32 (train with model.growth=32)" in opened_by(NETWORKS["rrdbnet_growth_16"])
    assert opened_by(NETWORKS["edvr"]).endswith("ncnn no, because its images have no axis of frames")
    own = openers({"_target_": "mine.Net", "scale": 2})
    assert [(o.program, bool(o.reason)) for o in own] == [("spandrel", True), ("BasicSR", True)]


@pytest.mark.parametrize("recipe", ["esrgan_x4", "rrdbnet_x4"])
def test_the_rrdbnets_of_the_recipes_travel(recipe):
    for stage in plan([f"experiment={recipe}"]).stages:
        assert without_spandrel(full_arguments(stage.config["model"])) == ""
