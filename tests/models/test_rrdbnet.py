import pytest
import torch
import torch.nn.functional as F
from helpers import count

from sr_train.models.rrdbnet import RRDB, RRDBNet

PARAMETERS = {  # (scale, blocks): BasicSR's counts
    (4, 23): 16_697_987,
    (2, 23): 16_703_171,
    (1, 23): 16_723_907,
    (4, 16): 11_662_019,
    (4, 6): 4_467_779,
}


@pytest.mark.parametrize(("size", "expected"), PARAMETERS.items())
def test_parameters_are_basicsrs_to_the_unit(size, expected):
    with torch.device("meta"):
        assert count(RRDBNet(scale=size[0], blocks=size[1])) == expected


def test_parameters_of_the_other_scales_differ_by_whole_convolutions():
    conv = 64 * 64 * 9 + 64
    with torch.device("meta"):
        assert count(RRDB(64, 32)) == 719_424
        four = count(RRDBNet(scale=4, blocks=1))
        assert count(RRDBNet(scale=8, blocks=1)) == four + conv
        assert count(RRDBNet(scale=3, blocks=1)) == four - conv
        assert count(RRDBNet(scale=2, blocks=1, unshuffle=False)) == four - conv
        assert count(RRDBNet(scale=1, blocks=1, unshuffle=False)) == four - 2 * conv


@pytest.mark.parametrize(("scale", "ups"), [(1, 2), (2, 2), (3, 1), (4, 2), (8, 3)])
def test_state_dict_keys_are_basicsrs(scale, ups):
    with torch.device("meta"):
        keys = set(RRDBNet(scale=scale).state_dict())
    names = [f"body.{n}.rdb{r}.conv{c}" for n in range(23) for r in (1, 2, 3) for c in (1, 2, 3, 4, 5)]
    names += ["conv_first", "conv_body", "conv_hr", "conv_last"] + [f"conv_up{i + 1}" for i in range(ups)]
    assert keys == {f"{n}.{p}" for n in names for p in ("weight", "bias")}
    if scale == 4:
        assert len(keys) == 702


def written_out(w, lr, blocks, fold, steps):
    """The paper's network on a state dict: section 3.1 and Fig. 4."""

    def conv(x, name):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def lrelu(x):
        return torch.maximum(x, 0.2 * x)

    if fold > 1:  # rows and columns of each fold x fold tile become channels, the image's channel slowest
        b, c, h, width = lr.shape
        tiles = lr.reshape(b, c, h // fold, fold, width // fold, fold)
        lr = tiles.permute(0, 1, 3, 5, 2, 4).reshape(b, c * fold**2, h // fold, width // fold)
    head = x = conv(lr, "conv_first")
    for n in range(blocks):
        start = x
        for r in (1, 2, 3):
            seen = x
            for c in (1, 2, 3, 4):
                seen = torch.cat([seen, lrelu(conv(seen, f"body.{n}.rdb{r}.conv{c}"))], 1)
            x = x + 0.2 * conv(seen, f"body.{n}.rdb{r}.conv5")
        x = start + 0.2 * x
    x = head + conv(x, "conv_body")
    for i, step in enumerate(steps):
        x = x.repeat_interleave(step, 2).repeat_interleave(step, 3)
        x = lrelu(conv(x, f"conv_up{i + 1}"))
    return conv(lrelu(conv(x, "conv_hr")), "conv_last")


CASES = [  # scale, unshuffle, folded by, upscaled by
    (1, True, 4, (2, 2)), (2, True, 2, (2, 2)), (3, True, 1, (3,)), (4, True, 1, (2, 2)), (8, True, 1, (2, 2, 2)),
    (1, False, 1, ()), (2, False, 1, (2,)), (4, False, 1, (2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("scale", "unshuffle", "fold", "steps"), CASES)
def test_forward_equals_the_paper_written_out(scale, unshuffle, fold, steps):
    torch.manual_seed(scale)
    network = RRDBNet(scale=scale, channels=8, growth=4, blocks=2, unshuffle=unshuffle)
    assert network.multiple_of == fold
    for parameter in network.parameters():  # larger than the initial weights, so that every term shows in the output
        parameter.data.normal_(0, 0.1)
    lr = torch.rand(2, 3, 12, 8)
    actual = network(lr)
    assert actual.shape == (2, 3, 12 * scale, 8 * scale)
    torch.testing.assert_close(actual, written_out(network.state_dict(), lr, 2, fold, steps), atol=1e-5, rtol=1e-5)


def test_dense_blocks_start_at_a_tenth_of_kaimings():
    torch.manual_seed(0)
    network = RRDBNet(scale=4, blocks=1)
    for name, inputs in {"conv1": 64, "conv3": 128, "conv5": 192}.items():
        conv = network.body[0].get_submodule(f"rdb2.{name}")
        assert conv.weight.std().item() == pytest.approx(0.1 * (2 / (inputs * 9)) ** 0.5, rel=0.05)
        assert conv.bias.abs().max() == 0
    assert network.conv_last.weight.std().item() == pytest.approx((1 / (3 * 64 * 9)) ** 0.5, rel=0.05)  # torch's own


def test_channels_last_and_bf16_give_float32_near_the_plain_result():
    torch.manual_seed(0)
    network = RRDBNet(scale=2, channels=16, growth=8, blocks=2)
    lr = torch.rand(1, 3, 16, 16)
    plain = network(lr)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(lr.contiguous(memory_format=torch.channels_last))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, atol=0.02, rtol=0.02)
    mixed.mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_wrong_arguments_and_sizes_are_refused():
    with pytest.raises(ValueError, match="scale=5 is not supported; RRDBNet supports 1, 2, 3, 4, 8"):
        RRDBNet(scale=5)
    with pytest.raises(ValueError, match="growth=0"):
        RRDBNet(growth=0)
    with pytest.raises(ValueError, match="x2 takes sides that are multiples of 2, but got 8x7"):
        RRDBNet(scale=2, channels=4, growth=2, blocks=1)(torch.rand(1, 3, 7, 8))
