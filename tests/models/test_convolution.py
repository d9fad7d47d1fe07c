import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sr_train.models.convolution as convolution
import sr_train.models.fastest as fastest_module
from sr_train.console import UsageError
from sr_train.inference.images import super_resolve
from sr_train.inference.network import open_network
from sr_train.models.convolution import kernels, winograd_is_available
from sr_train.models.edsr import EDSR
from sr_train.models.rrdbnet import DenseBlock

needs_nnpack = pytest.mark.skipif(not winograd_is_available(), reason="torch has no NNPACK here")


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the inputs that Winograd computed."""
    found, real = [], convolution.winograd
    monkeypatch.setattr(convolution, "winograd", lambda x, w, b: found.append(tuple(x.shape)) or real(x, w, b))
    return found


@needs_nnpack
@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (1, 16, 1, 9), (2, 16, 7, 13), (3, 5, 33, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_equals_float64_to_rounding(calls, shape, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], 24, 3, padding=1, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad(), kernels("winograd", conv):
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            found = conv(given)
            bias64 = None if conv.bias is None else conv.bias.double()
            truth = F.conv2d(x.double(), conv.weight.double(), bias64, padding=1)
            assert (found - truth).norm() / truth.norm() < 3e-5
    assert calls == [shape] * 2


@needs_nnpack
@pytest.mark.parametrize(
    ("conv", "shape", "dtype"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), (1, 3, 8, 8), torch.float32),
        (nn.Conv2d(16, 3, 3, padding=1), (1, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3, padding=1, stride=2), (1, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3, padding=2, dilation=2), (1, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3, padding=1, groups=2), (1, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3), (1, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 1, padding=1), (1, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3, padding=1), (0, 16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3, padding=1), (16, 8, 8), torch.float32),
        (nn.Conv2d(16, 16, 3, padding=1), (1, 16, 8, 8), torch.float64),
    ],
)
def test_other_convolutions_keep_their_bits(calls, conv, shape, dtype):
    conv, x = copy.deepcopy(conv).to(dtype), torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        truth = conv(x)
        with kernels("winograd", conv):
            assert torch.equal(conv(x), truth)
    assert not calls


@needs_nnpack
def test_gradients_and_autocast_are_not_affected(calls):
    conv, x = nn.Conv2d(16, 16, 3, padding=1), torch.randn(1, 16, 8, 8)
    truth = torch.autograd.grad(conv(x).square().sum(), conv.weight)[0]
    with kernels("winograd", conv):
        assert torch.equal(torch.autograd.grad(conv(x).square().sum(), conv.weight)[0], truth)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            conv(x)
    assert not calls


@needs_nnpack
def test_a_network_is_the_same_to_rounding_and_is_not_changed(calls):
    torch.manual_seed(0)
    model = EDSR(scale=2, channels=16, blocks=2, res_scale=1.0).eval()
    before, lr = {k: v.clone() for k, v in model.state_dict().items()}, torch.rand(3, 13, 11)
    truth = super_resolve(model, lr)
    assert not calls
    found = super_resolve(model, lr, choice="winograd")
    assert len(calls) == 6  # all but the first and the last one
    assert (found - truth).abs().max() < 1e-4
    assert torch.equal(super_resolve(model, lr), truth)
    assert {k: torch.equal(v, before[k]) for k, v in model.state_dict().items()} == dict.fromkeys(before, True)
    assert all("forward" not in vars(m) and "_conv_forward" not in vars(m) for m in model.modules())


@needs_nnpack
@pytest.mark.parametrize("faster", ["exact", "winograd"])
def test_auto_takes_the_faster_kernel_and_measures_it_once(calls, monkeypatch, faster):
    measured = []
    monkeypatch.setattr(fastest_module, "_chosen", {})

    def measure(run, tensors):
        measured.append(tuple(tensors[0].shape))
        return float((len(measured) == 1) != (faster == "exact"))

    monkeypatch.setattr(fastest_module, "measure", measure)
    conv, x = nn.Conv2d(16, 16, 3, padding=1), torch.rand(2, 16, 200, 140)
    with torch.no_grad(), kernels("auto", conv):
        conv(x)
        conv(x)
    assert measured == [(1, 16, 128, 128)] * 2
    assert len(calls) == (2 if faster == "winograd" else 0)


def test_without_nnpack_every_choice_is_exact(monkeypatch):
    monkeypatch.setattr(convolution, "winograd_is_available", lambda: False)
    conv, x = nn.Conv2d(16, 16, 3, padding=1), torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        truth = conv(x)
        with kernels("winograd", conv):
            assert torch.equal(conv(x), truth)


def test_a_dense_block_gives_the_same_bits_with_and_without_joining(monkeypatch):
    torch.manual_seed(0)
    block, joined, real = DenseBlock(16, 8), [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda *a: joined.append(1) or real(*a))
    for height, width in ((12, 9), (1, 5)):
        x = torch.rand(1, 16, height, width)
        truth = block(x).detach()
        assert len(joined) == 4
        with torch.inference_mode():
            assert torch.equal(block(x), truth)
        assert len(joined) == 4
        joined.clear()
    assert math.isfinite(truth.sum())


def test_other_names_of_kernels_are_refused():
    config = {"tile": None, "overlap": "auto", "device": "cpu", "ensemble": False, "scale": 2, "kernels": "fast"}
    with pytest.raises(UsageError, match="kernels=fast: choose from exact, winograd, auto"):
        open_network(config, "bicubic")
    assert open_network({**config, "kernels": "exact"}, "bicubic").kernels == "exact"
