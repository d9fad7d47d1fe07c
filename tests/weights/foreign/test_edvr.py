"""The authors' names of 2019 are taken from their code here, not from our map."""

import pytest
import torch
import torch.nn.functional as F

from sr_train.models.edvr import EDVR
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network

C, T, GROUPS = 8, 3, 2


def of_2019(*, tsa=True, predeblur=False, hr_in=False, front=1, back=2):
    """Random tensors by the authors' names."""
    convs = {}

    def conv(name, outputs=C, inputs=C, size=3):
        convs[name] = (outputs, inputs, size, size)

    def block(name):
        conv(f"{name}.conv1")
        conv(f"{name}.conv2")

    if predeblur:
        for name in ("conv_first_1", "conv_first_2", "conv_first_3") if hr_in else ("conv_first",):
            conv(f"pre_deblur.{name}", inputs=3 if name in ("conv_first_1", "conv_first") else C)
        conv("pre_deblur.deblur_L2_conv")
        conv("pre_deblur.deblur_L3_conv")
        for name in ("RB_L3_1", "RB_L2_1", "RB_L2_2", *(f"RB_L1_{i}" for i in range(1, 6))):
            block(f"pre_deblur.{name}")
        conv("conv_1x1", size=1)
    else:
        for name in ("conv_first_1", "conv_first_2", "conv_first_3") if hr_in else ("conv_first",):
            conv(name, inputs=3 if name in ("conv_first_1", "conv_first") else C)
    for i in range(front):
        block(f"feature_extraction.{i}")
    for level in (2, 3):
        conv(f"fea_L{level}_conv1")
        conv(f"fea_L{level}_conv2")
    for level in (3, 2, 1):
        conv(f"pcd_align.L{level}_offset_conv1", inputs=2 * C)
        conv(f"pcd_align.L{level}_offset_conv2", inputs=C if level == 3 else 2 * C)
        conv(f"pcd_align.L{level}_dcnpack")
        conv(f"pcd_align.L{level}_dcnpack.conv_offset_mask", outputs=27 * GROUPS)
        if level < 3:
            conv(f"pcd_align.L{level}_offset_conv3")
            conv(f"pcd_align.L{level}_fea_conv", inputs=2 * C)
    conv("pcd_align.cas_offset_conv1", inputs=2 * C)
    conv("pcd_align.cas_offset_conv2")
    conv("pcd_align.cas_dcnpack")
    conv("pcd_align.cas_dcnpack.conv_offset_mask", outputs=27 * GROUPS)
    if tsa:
        for name, inputs, size in (
            ("tAtt_1", 1, 3), ("tAtt_2", 1, 3), ("fea_fusion", T, 1), ("sAtt_1", T, 1), ("sAtt_2", 2, 1), ("sAtt_3", 1, 3),
            ("sAtt_4", 1, 1), ("sAtt_5", 1, 3), ("sAtt_L1", 1, 1), ("sAtt_L2", 2, 3), ("sAtt_L3", 1, 3), ("sAtt_add_1", 1, 1),
            ("sAtt_add_2", 1, 1),
        ):  # fmt: skip
            conv(f"tsa_fusion.{name}", inputs=inputs * C, size=size)
    else:
        conv("tsa_fusion", inputs=T * C, size=1)
    for i in range(back):
        block(f"recon_trunk.{i}")
    conv("upconv1", outputs=4 * C)
    conv("upconv2", outputs=256)
    conv("HRconv", 64, 64)
    conv("conv_last", 3, 64)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in convs.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.15
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.15
    return state


def load(path, state):
    torch.save(state, path)
    weights = load_weights(path)
    return weights, build_network(weights, where=str(path))


VARIANTS = [{}, {"tsa": False}, {"predeblur": True}, {"predeblur": True, "hr_in": True}, {"hr_in": True, "back": 3}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_network_is_read_from_the_names_of_2019(tmp_path, options):
    state = of_2019(**options)
    weights, network = load(tmp_path / "net.pth", state)
    assert weights.origin["layout"] == "EDVR's of 2019"
    assert weights.model == {
        "_target_": "sr_train.models.edvr.EDVR", "scale": 1 if options.get("hr_in") else 4, "channels": C, "frames": T,
        "groups": GROUPS, "front_blocks": 1, "back_blocks": options.get("back", 2), "tsa": options.get("tsa", True),
        "predeblur": options.get("predeblur", False), "hr_in": options.get("hr_in", False),
    }  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == sum(v.numel() for v in state.values())
    assert len({v.data_ptr() for v in weights.state.values()}) == len(state)  # no tensor was used twice


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_basicsrs_names_give_the_same_network(tmp_path, options):
    weights, network = load(tmp_path / "old.pth", of_2019(**options))
    again, other = load(tmp_path / "new.pth", {"params": weights.state})
    assert again.origin["layout"] == "BasicSR's EDVR"
    assert again.model == weights.model
    lr = torch.rand(1, T, 3, 16, 32)
    with torch.no_grad():
        assert torch.equal(network(lr), other(lr))


def fused_2019(w, aligned):
    """The authors' TSA, written with their names: tAtt_2 embeds the center frame, tAtt_1 every frame."""

    def conv(x, name):
        weight = w[f"tsa_fusion.{name}.weight"]
        return F.conv2d(x, weight, w[f"tsa_fusion.{name}.bias"], padding=weight.shape[-1] // 2)

    def lrelu(x):
        return F.leaky_relu(x, 0.1)

    def pools(x):
        return torch.cat([F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)], 1)

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    reference = conv(aligned[:, T // 2], "tAtt_2")
    weighed = []
    for i in range(T):
        likeness = torch.sigmoid((conv(aligned[:, i], "tAtt_1") * reference).sum(1, keepdim=True))
        weighed.append(aligned[:, i] * likeness)
    x = torch.cat(weighed, 1)
    fea = lrelu(conv(x, "fea_fusion"))
    att = lrelu(conv(pools(lrelu(conv(x, "sAtt_1"))), "sAtt_2"))
    level = lrelu(conv(pools(lrelu(conv(att, "sAtt_L1"))), "sAtt_L2"))
    att = lrelu(conv(att, "sAtt_3")) + up(lrelu(conv(level, "sAtt_L3")))
    att = conv(up(lrelu(conv(att, "sAtt_4"))), "sAtt_5")
    add = conv(lrelu(conv(att, "sAtt_add_1")), "sAtt_add_2")
    return fea * torch.sigmoid(att) * 2 + add


def test_the_swapped_attentions_give_the_authors_output(tmp_path):
    state = of_2019()
    _, network = load(tmp_path / "net.pth", state)
    assert isinstance(network, EDVR)
    aligned = torch.randn(2, T, C, 8, 12)
    expected = fused_2019(state, aligned)
    torch.testing.assert_close(network.fusion(aligned), expected, atol=1e-5, rtol=1e-5)
    one, two = (f"tsa_fusion.tAtt_{i}" for i in (1, 2))
    swapped = {k.replace(one, "X").replace(two, one).replace("X", two): v for k, v in state.items()}
    _, wrong = load(tmp_path / "swapped.pth", swapped)  # shapes are equal: it loads
    assert (wrong.fusion(aligned) - expected).abs().max() > 0.01


def test_unknown_names_are_listed(tmp_path):
    torch.save({**of_2019(), "tsa_fusion.tAtt_3.weight": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"EDVR's of 2019 has no tsa_fusion\.tAtt_3\.weight \(1 of 97 names"):
        load_weights(tmp_path / "net.pth")
    state = of_2019()
    state["recon_trunk.1.conv2.bias"] = torch.zeros(C + 1)
    with pytest.raises(
        WeightsError, match=r"1 tensor does not match.*reconstruction\.1\.conv2\.bias: \[9\], expected \[8\]"
    ):
        load(tmp_path / "net.pth", state)
