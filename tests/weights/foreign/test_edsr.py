"""EDSR-PyTorch's names and shapes are written out here, and its networks in torch's functions."""

import pytest
import torch
import torch.nn.functional as F

from sr_train.models.edsr import EDSR
from sr_train.models.mdsr import MDSR
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network, one_scale

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def _state(convolutions, value_range=255.0):
    """{name: (outputs, inputs, kernel)} -> random weights and biases, with the fixed mean shifts."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (outputs, inputs, kernel) in convolutions.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * value_range * MEAN
    return state


def _up(prefix, scale, f):
    return {2: {f"{prefix}.0": (4 * f, f, 3)}, 3: {f"{prefix}.0": (9 * f, f, 3)},
            4: {f"{prefix}.0": (4 * f, f, 3), f"{prefix}.2": (4 * f, f, 3)}}[scale]  # fmt: skip


def _body(f, blocks):
    return {f"body.{i}.body.{j}": (f, f, 3) for i in range(blocks) for j in (0, 2)} | {f"body.{blocks}": (f, f, 3)}


def edsr(scale, f=4, blocks=2, **options):
    layers = {"head.0": (f, 3, 3), **_body(f, blocks), **_up("tail.0", scale, f), "tail.1": (3, f, 3)}
    return _state(layers, **options)


def mdsr(scales=(2, 3, 4), f=4, blocks=2, **options):
    layers = {"head.0": (f, 3, 3), **_body(f, blocks), "tail.0": (3, f, 3)}
    for s, scale in enumerate(scales):
        layers |= {f"pre_process.{s}.{j}.body.{c}": (f, f, 5) for j in (0, 1) for c in (0, 2)}
        layers |= _up(f"upsample.{s}", scale, f)
    return _state(layers, **options)


def _theirs(w, lr, scale, pre="", up="tail.0", last="tail.1"):
    """The authors' network on [0, 255], written out."""

    def conv(x, name):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(x, name):
        return x + conv(F.relu(conv(x, f"{name}.body.0")), f"{name}.body.2")

    x = conv(conv(lr * 255, "sub_mean"), "head.0")
    for j in range(2 if pre else 0):
        x = block(x, f"{pre}.{j}")
    skip = x
    for i in range(2):
        x = block(x, f"body.{i}")
    x = skip + conv(x, "body.2")
    for layer, step in {2: [(0, 2)], 3: [(0, 3)], 4: [(0, 2), (2, 2)]}[scale]:
        x = F.pixel_shuffle(conv(x, f"{up}.{layer}"), step)
    return conv(conv(x, last), "add_mean") / 255


def _load(path, state):
    torch.save(state, path)
    weights = load_weights(path)
    return weights, build_network(weights, where=str(path))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_authors_edsr_has_the_same_outputs(tmp_path, scale):
    state = edsr(scale)
    weights, network = _load(tmp_path / "edsr.pt", state)
    assert isinstance(network, EDSR)
    assert weights.model == {
        "_target_": "sr_train.models.edsr.EDSR", "scale": scale, "channels": 4, "blocks": 2, "res_scale": 1.0
    }  # fmt: skip
    assert weights.origin["layout"] == "EDSR-PyTorch's EDSR"
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(network(lr), _theirs(state, lr, scale), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scales", [(2, 3, 4), (4, 2), (3,)])
def test_the_authors_mdsr_has_the_same_outputs_at_every_scale(tmp_path, scales):
    state = mdsr(scales)
    weights, network = _load(tmp_path / "mdsr.pt", {f"module.{k}": v for k, v in state.items()})
    assert isinstance(network, MDSR)
    assert weights.model == {
        "_target_": "sr_train.models.mdsr.MDSR", "scales": list(scales), "channels": 4, "blocks": 2, "shared_tail": True
    }  # fmt: skip
    lr = torch.rand(1, 3, 7, 9)
    for place, scale in enumerate(scales):
        expected = _theirs(state, lr, scale, f"pre_process.{place}", f"upsample.{place}", "tail.0")
        single = build_network(one_scale(weights, scale, where="mdsr.pt"), where="mdsr.pt")
        with torch.no_grad():
            torch.testing.assert_close(network(lr, scale), expected, atol=1e-5, rtol=1e-4)
            assert torch.equal(single(lr), network(lr, scale))


def test_the_full_networks_have_the_papers_residual_scaling_and_the_released_count(tmp_path):
    assert load_weights(_saved(tmp_path / "edsr.pt", edsr(2, f=256, blocks=1))).model["res_scale"] == 0.1
    state = mdsr(f=64, blocks=16)
    assert sum(v.numel() for k, v in state.items() if "_mean" not in k) == 3_227_203
    with torch.device("meta"):
        ours = MDSR(scales=[2, 3, 4], blocks=16, shared_tail=True).state_dict()
    assert load_weights(_saved(tmp_path / "mdsr.pt", state)).state.keys() == ours.keys()


def _saved(path, state):
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (edsr(2, value_range=1.0), r"another range than .*sub_mean\.bias is \[-0\.4488.*--rgb_range 255"),
        (mdsr(value_range=1.0), "another range than"),
        ({**edsr(2), "wings.weight": torch.zeros(1)}, r"EDSR-PyTorch's EDSR has no wings\.weight"),
        ({**mdsr(), "pre_process.3.0.body.0.bias": torch.zeros(4)}, r"MDSR has no pre_process\.3\.0\.body\.0\.bias"),
        ({**mdsr((2, 2))}, r"one upsampler for each scale.*are \[2, 2\]"),
        ({k: v for k, v in mdsr().items() if "pre_process.1" not in k}, r"8 tensors do not match"),
    ],
)
def test_other_networks_are_refused(tmp_path, state, message):
    with pytest.raises(WeightsError, match=message):
        _load(tmp_path / "x.pt", state)


def test_a_file_without_the_fixed_mean_shift_loads(tmp_path):
    state = {k: v for k, v in mdsr().items() if "_mean" not in k}
    assert isinstance(_load(tmp_path / "x.pt", state)[1], MDSR)
