"""Key formats of MMagic and KAIR: their names are written out here from their code, and their EDSR in torch's functions."""

import pytest
import torch
import torch.nn.functional as F

from sr_train.models.edvr import EDVR
from sr_train.models.msrresnet import MSRResNet
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)


def load(path, state):
    torch.save({"state_dict": {f"generator.{k}": v for k, v in state.items()}, "meta": {}}, path)
    weights = load_weights(path)
    return weights, build_network(weights, where=str(path))


def convolutions(shapes):
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (outputs, inputs) in shapes.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    return state


@pytest.mark.parametrize(("scale", "ups"), [(2, [4]), (3, [9]), (4, [4, 4])])
def test_mmagics_edsr_has_the_same_output_on_our_range(tmp_path, scale, ups):
    f = 6
    up = {f"upsample.{i}.upsample_conv": (n * f, f) for i, n in enumerate(ups)}
    w = convolutions({
        "conv_first": (f, 3), "body.0.conv1": (f, f), "body.0.conv2": (f, f), "conv_after_body": (f, f), **up,
        "conv_last": (3, f)})  # fmt: skip
    weights, network = load(tmp_path / "edsr.pth", w)
    assert weights.origin["layout"] == "MMagic's EDSR"
    assert "range 0 to 1" in weights.origin["assumed"]

    def conv(x, name):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    lr = torch.rand(1, 3, 7, 9)
    x = conv(lr - MEAN, "conv_first")  # std is 1
    y = conv(x + conv(F.relu(conv(x, "body.0.conv1")), "body.0.conv2"), "conv_after_body") + x
    for name, n in zip(up, ups, strict=True):
        y = F.pixel_shuffle(conv(y, name), 3 if n == 9 else 2)
    with torch.no_grad():
        torch.testing.assert_close(network(lr), conv(y, "conv_last") + MEAN, atol=2e-5, rtol=1e-4)


def test_mmagics_msrresnet_is_refused_with_the_reason(tmp_path):
    names = ("conv_first", "trunk_net.0.conv1", "trunk_net.0.conv2", "upsample1.upsample_conv", "conv_hr", "conv_last")
    with pytest.raises(WeightsError, match=r"msr\.pth: is MMagic's MSRResNet, which has no activation after its pixel"):
        load(tmp_path / "msr.pth", convolutions(dict.fromkeys(names, (4, 4))))


def mmagic_edvr(name):
    """MMagic's name of a tensor of BasicSR's EDVR: ConvModules add ".conv"."""
    stem, _, kind = name.rpartition(".")
    last = stem.rpartition(".")[2]
    plain = ("temporal_attn1", "temporal_attn2", "spatial_attn5", "spatial_attn_add2", "fusion")
    if stem.startswith(("conv_l2", "conv_l3")):
        return f"feat_l{stem[6]}_conv{stem[8]}.conv.{kind}"
    if stem.startswith("pcd_align.") and "dcn" not in stem:
        return f"{stem.replace('pcd_align', 'pcd_alignment')}.conv.{kind}"
    if stem.startswith("fusion") and last not in plain:
        return f"{stem}.conv.{kind}"
    if stem in ("upconv1", "upconv2"):
        return f"upsample{stem[-1]}.upsample_conv.{kind}"
    return name.replace("pcd_align", "pcd_alignment")


@pytest.mark.parametrize("tsa", [True, False])
def test_mmagics_edvr_has_the_same_output(tmp_path, tsa):
    torch.manual_seed(0)
    ours = EDVR(channels=4, groups=1, frames=7, front_blocks=1, back_blocks=2, tsa=tsa).eval()
    state = {k: v + 0.05 * torch.randn_like(v) for k, v in ours.state_dict().items()}
    ours.load_state_dict(state)
    weights, network = load(tmp_path / "edvr.pth", {mmagic_edvr(k): v for k, v in state.items()})
    assert weights.origin["layout"] == "MMagic's EDVR"
    lr = torch.rand(1, 7, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(lr), ours(lr))
    names = list(map(mmagic_edvr, state))
    assert "pcd_alignment.dcn_pack.l1.conv_offset.weight" in names
    assert ("fusion.spatial_attn_l2.conv.bias" in names) == tsa
    assert "feat_l3_conv2.conv.weight" in names


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_kairs_msrresnet1_has_the_same_output(tmp_path, scale):
    torch.manual_seed(0)
    ours = MSRResNet(scale=scale, channels=4, blocks=2).eval()
    state = {k.replace("body.", "recon_trunk.").replace("conv_hr", "HRconv"): v for k, v in ours.state_dict().items()}
    torch.save(state, tmp_path / "5000_E.pth")
    weights = load_weights(tmp_path / "5000_E.pth")
    assert weights.origin["layout"] == "MSRResNet of 2019"
    lr = torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        assert torch.equal(build_network(weights, where="test")(lr), ours(lr))
    torch.save({**state, "wings.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"more\.pth: 1 tensor does not match .*wings\.weight: unknown"):
        build_network(load_weights(tmp_path / "more.pth"), where=str(tmp_path / "more.pth"))
