import threading

import pytest
import torch
from helpers import small_edvr
from nets.small import NETWORKS
from torch import nn

from sr_train.models.edsr import EDSR
from sr_train.tasks.compiling import recompute_activations
from sr_train.tasks.curves import Constant
from sr_train.tasks.parts import BatchParts
from sr_train.tasks.pixel import PixelTask


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread():
    """Let no thread spin at a barrier: other tests use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def edsr():
    torch.manual_seed(0)
    return EDSR(scale=2, channels=8, blocks=2, res_scale=1.0).to(memory_format=torch.channels_last)


def gradients(network, run, lr, *arguments):
    """Output, gradients by name (None included) and gradient of the images after a loss that is no sum over images."""
    network.zero_grad(set_to_none=True)
    lr = lr.clone().requires_grad_()
    sr = run(lr, *arguments)
    (sr.square().mean() * sr.abs().mean()).backward()
    return {"output": sr.detach(), "lr": lr.grad, **{n: p.grad for n, p in network.named_parameters()}}


def close(a, b, limit=1e-5):
    return a.keys() == b.keys() and all(
        b[k] is None if a[k] is None else (a[k] - b[k]).norm() <= limit * a[k].norm() for k in a
    )


def same(a, b):
    return a.keys() == b.keys() and all(b[k] is None if a[k] is None else torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["edsr", "mdsr", "rrdbnet", "msrresnet", "edvr"])
def test_parts_in_threads_equal_parts_one_after_the_other_and_the_whole_batch(name):
    torch.manual_seed(0)
    network = small_edvr(frames=3).train() if name == "edvr" else NETWORKS[name]()
    frames, arguments = ((3,), ()) if name == "edvr" else ((), (2,) if name == "mdsr" else ())
    lr = torch.rand(5, *frames, 3, 16, 16)
    whole = gradients(network, network, lr, *arguments)
    assert not same(whole, gradients(network, network, 1 - lr, *arguments))
    serial = gradients(network, BatchParts(network, 3, threads=1), lr, *arguments)
    parallel = gradients(network, BatchParts(network, 3, threads=3), lr, *arguments)
    assert same(serial, parallel)
    assert close(whole, serial)
    assert any(g is None for g in whole.values()) == (name == "mdsr")  # branches of other scales


def test_a_part_uses_one_thread_and_the_program_keeps_its_own(two_threads):
    seen = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, lr):
            seen.append((threading.get_ident(), torch.get_num_threads(), len(lr)))
            return lr * self.weight

    network = Counting()
    parts = BatchParts(network, 4, threads=1)
    parts(torch.rand(6, 3, 2, 2)).sum().backward()
    assert [(threads, images) for _, threads, images in seen] == [(1, 2), (1, 2), (1, 1), (1, 1)]
    assert threading.get_ident() not in {ident for ident, _, _ in seen}
    assert torch.get_num_threads() == 2
    seen.clear()
    parts(torch.rand(1, 3, 2, 2))  # one image is not divided
    assert seen == [(threading.get_ident(), 2, 1)]


def test_changed_weights_and_frozen_parameters_are_those_of_the_next_batch():
    network, lr = edsr(), torch.rand(4, 3, 8, 8)
    parts = BatchParts(network, 2)
    parts(lr)
    with torch.no_grad():
        network.conv_first.weight.mul_(0.5)  # as an optimizer does
    network.conv_last.weight.data = network.conv_last.weight.data * 2  # as other code may do
    network.get_parameter("conv_first.bias").requires_grad_(False)
    network.mean = network.mean + 0.1
    whole = gradients(network, network, lr)
    assert close(whole, gradients(network, parts, lr))
    assert whole["conv_first.bias"] is None


def test_autocast_recomputation_and_no_grad_hold_in_the_threads():
    network, lr = edsr(), torch.rand(4, 3, 8, 8)
    whole, parts = gradients(network, network, lr), BatchParts(network, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradients(network, parts, lr)
    assert close(whole, rough, 0.1)
    assert not close(whole, rough, 1e-4)
    with torch.no_grad():
        assert torch.equal(parts(lr), whole["output"]) or (parts(lr) - whole["output"]).abs().max() < 1e-6
        assert not parts(lr).requires_grad
    recompute_activations(network)
    assert close(whole, gradients(network, BatchParts(network, 2), lr))


def test_numbers_of_a_network_are_means_over_all_images():
    network, lr = small_edvr(frames=3).train(), torch.rand(3, 3, 3, 16, 16)
    network(lr)
    whole, parts = network.numbers(), BatchParts(network, 2)
    parts(lr)
    assert parts.numbers().keys() == whole.keys()
    for name, number in parts.numbers().items():
        assert float(number) == pytest.approx(float(whole[name]), rel=1e-5)
    assert parts.alarm() == network.alarm() is None


class Own(nn.Module):
    """A network with a layer of one kind behind its convolution."""

    scale, multiple_of = 1, 1

    def __init__(self, layer):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.layer = layer

    def forward(self, lr):
        return self.layer(self.conv(lr))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


def task(network, **options):
    return PixelTask(
        model=network, loss=nn.L1Loss(), optimizer=torch.optim.Adam, rate=1e-3, curve=Constant(), ema=None, **options
    )


@pytest.mark.parametrize(
    ("options", "layer", "message"),
    [
        (
            {"parts": 2},
            nn.BatchNorm2d(3),
            r"task\.parts=2: Own's layer layer \(BatchNorm2d\) computes statistics of the whole",
        ),
        ({"parts": 2}, nn.Dropout(), r"\(Dropout\) draws random numbers"),
        ({"parts": 2, "compile": True}, nn.Identity(), r"task\.parts=2: compiled blocks need task\.parts=1"),
        ({"parts": 0}, nn.Identity(), r"task\.parts=0: expected auto or an integer of at least 1"),
    ],
)
def test_a_network_that_needs_the_whole_batch_is_refused(options, layer, message):
    with pytest.raises(ValueError, match=message):
        task(Own(layer), **options)
    assert task(Own(layer)).parts.divides(torch.zeros(4, 3, 2, 2)) is False


def test_errors_in_a_part_are_raised_and_buffers_that_change_are_refused():
    with pytest.raises(ValueError, match=r"task\.parts=2: Own changes its buffers when it is called"):
        BatchParts(Own(Counter()), 2)(torch.rand(2, 3, 4, 4))
    with pytest.raises(RuntimeError, match="expected input"):
        BatchParts(Own(nn.Identity()), 2)(torch.rand(2, 5, 4, 4))
