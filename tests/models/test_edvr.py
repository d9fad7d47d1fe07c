import re

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from sr_train.models.deform import DeformableConv
from sr_train.models.edvr import EDVR
from sr_train.tasks.compiling import recompute_activations

M, L = {"channels": 64}, {"channels": 128, "back_blocks": 40}
BLUR, LARGE = {"predeblur": True}, {"hr_in": True, "scale": 1}
PARAMETERS = [  # BasicSR's counts; the second stage's are the authors' of 2019
    (M, 3_300_131), ({**M, "tsa": False}, 2_996_259), ({**M, "frames": 7}, 3_316_515),
    ({**M, **BLUR}, 3_968_995), ({**M, **BLUR, **LARGE}, 4_042_851),
    (L, 20_633_827), ({**L, "tsa": False}, 19_419_875), ({**L, "frames": 7}, 20_699_363),
    ({**L, **BLUR}, 23_306_851), ({**L, **BLUR, **LARGE}, 23_602_019),
    ({**L, **LARGE, "back_blocks": 20}, 15_025_635),
]  # fmt: skip
SMALL = {"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1}


def small(**options):
    """A small network whose every term shows in the output: offsets of a few pixels, weights larger than the initial ones."""
    torch.manual_seed(0)
    network = EDVR(**{**SMALL, **options})
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, 0, 0.4 if "conv_offset" in name else 0.12)
    return network.eval()


@pytest.mark.parametrize(("options", "count"), PARAMETERS)
def test_parameters_are_the_authors_to_the_unit(options, count):
    with torch.device("meta"):
        network = EDVR(**options)
        side = 2 * network.multiple_of
        out = network(torch.empty(2, network.frames, 3, side, side))
    assert sum(p.numel() for p in network.parameters()) == count
    assert out.shape == (2, 3, side * network.scale, side * network.scale)


def basicsrs_names(*, tsa=True, predeblur=False, hr_in=False, front=5, back=10):
    blocks = [f"feature_extraction.{i}" for i in range(front)] + [f"reconstruction.{i}" for i in range(back)]
    names = ["conv_l2_1", "conv_l2_2", "conv_l3_1", "conv_l3_2", "upconv1", "upconv2", "conv_hr", "conv_last"]
    if predeblur:
        strides = ["stride_conv_hr1", "stride_conv_hr2"] if hr_in else []
        names += ["conv_1x1", *(f"predeblur.{n}" for n in ["conv_first", "stride_conv_l2", "stride_conv_l3", *strides])]
        blocks += [f"predeblur.resblock_{n}" for n in ("l3", "l2_1", "l2_2", *(f"l1.{i}" for i in range(5)))]
    else:
        names += [f"conv_first_{i}" for i in (1, 2, 3)] if hr_in else ["conv_first"]
    names += [f"pcd_align.offset_conv{i}.l{j}" for i in (1, 2, 3) for j in (1, 2, 3) if (i, j) != (3, 3)]
    names += [
        "pcd_align.feat_conv.l1",
        "pcd_align.feat_conv.l2",
        "pcd_align.cas_offset_conv1",
        "pcd_align.cas_offset_conv2",
    ]
    for pack in ("dcn_pack.l1", "dcn_pack.l2", "dcn_pack.l3", "cas_dcnpack"):
        names += [f"pcd_align.{pack}", f"pcd_align.{pack}.conv_offset"]
    attention = ["feat_fusion", *(f"temporal_attn{i}" for i in (1, 2)), *(f"spatial_attn{i}" for i in range(1, 6))]
    attention += ["spatial_attn_l1", "spatial_attn_l2", "spatial_attn_l3", "spatial_attn_add1", "spatial_attn_add2"]
    names += [f"fusion.{n}" for n in attention] if tsa else ["fusion"]
    return [*names, *(f"{b}.conv{i}" for b in blocks for i in (1, 2))]


@pytest.mark.parametrize("options", [{}, {"tsa": False}, BLUR, {**BLUR, **LARGE}, {**LARGE, "back_blocks": 20}])
def test_state_dict_keys_are_basicsrs(options):
    with torch.device("meta"):
        keys = EDVR(**options).state_dict().keys()
    given = {k: v for k, v in options.items() if k in ("tsa", "predeblur", "hr_in")}
    names = basicsrs_names(**given, back=options.get("back_blocks", 10))
    assert set(keys) == {f"{n}.{p}" for n in names for p in ("weight", "bias")}


def written_out(w, lr, *, groups, tsa=True, predeblur=False, hr_in=False):
    """Section 3 on a state dict, frame by frame, with torchvision's deformable convolution."""

    def conv(x, name, stride=1):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, w[f"{name}.weight"].shape[-1] // 2)

    def lrelu(x):
        return torch.maximum(x, 0.1 * x)

    def up(x, factor=2):
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    def block(x, name):
        return x + conv(F.relu(conv(x, f"{name}.conv1")), f"{name}.conv2")

    def blocks(x, name):
        for i in range(sum(k.startswith(f"{name}.") for k in w) // 4):
            x = block(x, f"{name}.{i}")
        return x

    def deformed(x, offset, name):
        o = conv(offset, f"{name}.conv_offset")
        o, mask = o[:, : 18 * groups], torch.sigmoid(o[:, 18 * groups :])
        return deform_conv2d(x, o, w[f"{name}.weight"], w[f"{name}.bias"], padding=1, mask=mask)

    def deblurred(x):
        l1 = lrelu(conv(x, "predeblur.conv_first"))
        for name in ("stride_conv_hr1", "stride_conv_hr2") if hr_in else ():
            l1 = lrelu(conv(l1, f"predeblur.{name}", 2))
        l2 = lrelu(conv(l1, "predeblur.stride_conv_l2", 2))
        l3 = lrelu(conv(l2, "predeblur.stride_conv_l3", 2))
        l2 = block(l2, "predeblur.resblock_l2_1") + up(block(l3, "predeblur.resblock_l3"))
        l2 = up(block(l2, "predeblur.resblock_l2_2"))
        l1 = block(block(l1, "predeblur.resblock_l1.0"), "predeblur.resblock_l1.1") + l2
        for i in (2, 3, 4):
            l1 = block(l1, f"predeblur.resblock_l1.{i}")
        return conv(l1, "conv_1x1")

    def pyramid(frame):
        if predeblur:
            x = deblurred(frame)
        elif hr_in:
            x = lrelu(conv(lrelu(conv(lrelu(conv(frame, "conv_first_1")), "conv_first_2", 2)), "conv_first_3", 2))
        else:
            x = lrelu(conv(frame, "conv_first"))
        l1 = blocks(x, "feature_extraction")
        l2 = lrelu(conv(lrelu(conv(l1, "conv_l2_1", 2)), "conv_l2_2"))
        return l1, l2, lrelu(conv(lrelu(conv(l2, "conv_l3_1", 2)), "conv_l3_2"))

    def align(own, ref):
        o3 = lrelu(conv(torch.cat((own[2], ref[2]), 1), "pcd_align.offset_conv1.l3"))
        o3 = lrelu(conv(o3, "pcd_align.offset_conv2.l3"))
        f = lrelu(deformed(own[2], o3, "pcd_align.dcn_pack.l3"))
        o = o3
        for i, level in ((1, "l2"), (0, "l1")):
            coarse = up(o) * 2
            o = lrelu(conv(torch.cat((own[i], ref[i]), 1), f"pcd_align.offset_conv1.{level}"))
            o = lrelu(conv(torch.cat((o, coarse), 1), f"pcd_align.offset_conv2.{level}"))
            o = lrelu(conv(o, f"pcd_align.offset_conv3.{level}"))
            d = deformed(own[i], o, f"pcd_align.dcn_pack.{level}")
            f = conv(torch.cat((d, up(f)), 1), f"pcd_align.feat_conv.{level}")
            f = lrelu(f) if level == "l2" else f
        o = lrelu(
            conv(lrelu(conv(torch.cat((f, ref[0]), 1), "pcd_align.cas_offset_conv1")), "pcd_align.cas_offset_conv2")
        )
        return lrelu(deformed(f, o, "pcd_align.cas_dcnpack"))

    def pool(x):
        return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), 1)

    def attend(frames, center):
        ref = conv(frames[center], "fusion.temporal_attn1")
        likeness = [torch.sigmoid((conv(f, "fusion.temporal_attn2") * ref).sum(1, keepdim=True)) for f in frames]
        x = torch.cat([f * p for f, p in zip(frames, likeness, strict=True)], 1)
        feat = lrelu(conv(x, "fusion.feat_fusion"))
        a = lrelu(conv(pool(lrelu(conv(x, "fusion.spatial_attn1"))), "fusion.spatial_attn2"))
        level = lrelu(conv(pool(lrelu(conv(a, "fusion.spatial_attn_l1"))), "fusion.spatial_attn_l2"))
        a = lrelu(conv(a, "fusion.spatial_attn3")) + up(lrelu(conv(level, "fusion.spatial_attn_l3")))
        a = conv(up(lrelu(conv(a, "fusion.spatial_attn4"))), "fusion.spatial_attn5")
        add = conv(lrelu(conv(a, "fusion.spatial_attn_add1")), "fusion.spatial_attn_add2")
        return feat * torch.sigmoid(a) * 2 + add

    center = lr.shape[1] // 2
    levels = [pyramid(lr[:, t]) for t in range(lr.shape[1])]
    aligned = [align(own, levels[center]) for own in levels]
    x = attend(aligned, center) if tsa else conv(torch.cat(aligned, 1), "fusion")
    x = blocks(x, "reconstruction")
    for name in ("upconv1", "upconv2"):
        x = lrelu(F.pixel_shuffle(conv(x, name), 2))
    x = conv(lrelu(conv(x, "conv_hr")), "conv_last")
    return x + (lr[:, center] if hr_in else up(lr[:, center], 4))


@pytest.mark.parametrize(
    "options", [{}, {"frames": 7}, {"tsa": False, "frames": 3}, BLUR, {**BLUR, **LARGE}, LARGE], ids=str
)
def test_forward_equals_the_paper_written_out(options):
    network = small(**options)
    side = 2 * network.multiple_of
    lr = torch.rand(2, network.frames, 3, side, side + network.multiple_of)
    given = {k: v for k, v in options.items() if k in ("tsa", "predeblur", "hr_in")}
    with torch.no_grad():
        actual, expected = network(lr), written_out(network.state_dict(), lr, groups=2, **given)
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {**BLUR, **LARGE}])
def test_features_of_frames_may_be_kept_from_window_to_window(options):
    network = small(**options)
    video = torch.rand(6, 3, 32, 48)
    with torch.no_grad():
        kept = network.features(video)
        one_by_one = [network.features(frame[None]) for frame in video]
        for first in (0, 1):
            window = slice(first, first + 5)
            whole = network(video[None, window])
            parts = {k: x[None, window] for k, x in kept.items()}
            assert torch.equal(network.fuse(parts, video[None, first + 2]), whole)
            # For single frames torch may choose another kernel for the same convolution.
            parts = {k: torch.cat([x[k] for x in one_by_one[window]])[None] for k in kept}
            torch.testing.assert_close(network.fuse(parts, video[None, first + 2]), whole, atol=1e-5, rtol=1e-5)


def test_recomputed_blocks_give_the_same_gradients():
    network, other = small().train(), small().train()
    assert recompute_activations(other) == 1 + 1 + 4
    lr = torch.rand(1, 5, 3, 8, 8)
    for each in (network, other):
        each(lr).square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_channels_last_and_bf16_give_float32_near_the_plain_result():
    network = small()
    lr = torch.rand(1, 5, 3, 16, 16)
    with torch.no_grad():
        plain = network(lr)
        last = network.to(memory_format=torch.channels_last)(lr)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(lr)
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)
    assert half.dtype == torch.float32
    assert (half - plain).abs().mean() < 0.02 * plain.std()


@pytest.mark.filterwarnings("ignore")  # tracers warn of sizes that become constants
@pytest.mark.slow
def test_edvr_can_be_traced_and_exported():
    network, lr = small(frames=3), torch.rand(1, 3, 3, 8, 12)
    with torch.no_grad():
        expected = network(lr)
        traced = torch.jit.trace(network, lr)
        torch.testing.assert_close(traced(lr), expected, atol=1e-5, rtol=1e-5)
        for size in ((1, 3, 20, 28), (2, 3, 36, 68), (3, 3, 8, 4)):  # above and below powers of two, other batches
            other = torch.rand(size[0], lr.shape[1], *size[1:])
            torch.testing.assert_close(traced(other), network(other), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.export.export(network, (lr,)).module()(lr), expected, atol=1e-5, rtol=1e-5)


def test_all_parameters_get_gradients_in_the_first_step_except_those_of_zero_offsets():
    torch.manual_seed(0)
    network = EDVR(**SMALL)
    network(torch.rand(1, 5, 3, 16, 16)).square().mean().backward()
    idle = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()}
    assert all(".offset_conv" in n or "cas_offset_conv" in n for n in idle)


def test_mean_offsets_are_reported_by_level_and_explosions_with_remedies():
    network = small().train()
    assert (network.numbers(), network.alarm()) == ({}, None)
    packs = dict(network.pcd_align.deformable())
    assert list(packs) == ["l1", "l2", "l3", "cascade"]
    for i, conv in enumerate(packs.values()):
        assert isinstance(conv, DeformableConv)
        torch.nn.init.zeros_(conv.conv_offset.weight)
        torch.nn.init.constant_(conv.conv_offset.bias, -0.5 * (i + 1))
    network(torch.rand(1, 5, 3, 16, 24))
    assert {k: float(v) for k, v in network.numbers().items()} == {
        "offset_l1": 0.5, "offset_l2": 1.0, "offset_l3": 1.5, "offset_cascade": 2.0
    }  # fmt: skip
    assert network.alarm() is None  # 1.5 px at l3, in maps of 4x6
    torch.nn.init.constant_(packs["l3"].conv_offset.bias, 2.1)
    network(torch.rand(1, 5, 3, 16, 24))
    assert re.search(r"2\.1 px on average at level l3.*shorter side is 4;.*rate_scale", str(network.alarm()))
    packs["l3"].mean_offset = torch.tensor(float("nan"))
    assert network.alarm() is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 2}, r"scale=2 is not supported; EDVR supports 4, or 1 with model\.hr_in=true"),
        ({"hr_in": True}, "scale=4 is not supported"),
        ({"frames": 4}, "frames=4 must be odd"),
        ({"channels": 0}, "channels=0"),
        ({"channels": 20}, "channels=20 must be a multiple of the 8 deformable groups"),
        ({"deform": "gpu"}, "deform='gpu': expected auto"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EDVR(**options)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 5, 3, 16, 18), "multiples of 4, but got 18x16"),
        ({**BLUR, **LARGE}, (1, 5, 3, 24, 32), "multiples of 16, but got 32x24"),
        ({}, (1, 7, 3, 16, 16), r"takes \[B, 5, 3, h, w\], but got \[1, 7, 3, 16, 16\]"),
        ({}, (1, 3, 16, 16), "takes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        small(**options)(torch.zeros(shape))
