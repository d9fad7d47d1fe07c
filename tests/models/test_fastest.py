import time

import pytest
import torch

import sr_train.models.deform as deform
import sr_train.models.fastest as fastest_module
from sr_train.models.deform import deformable_conv
from sr_train.models.fastest import fastest, measure


@pytest.fixture(autouse=True)
def nothing_is_chosen(monkeypatch):
    monkeypatch.setattr(fastest_module, "_chosen", {})


def slow(x):
    time.sleep(0.01)
    return x * 2


def fast(x):
    return x * 2


def test_the_faster_way_is_measured_once_per_dtype_and_kind_of_pass():
    calls = []
    ways = {"slow": lambda x: calls.append("slow") or slow(x), "fast": lambda x: calls.append("fast") or fast(x)}
    x = torch.ones(3)
    assert fastest("double", ways, [x], torch.float32) == "fast"
    assert calls == ["slow"] * 4 + ["fast"] * 4
    assert fastest("double", ways, [x], torch.float32) == "fast"
    assert len(calls) == 8
    with torch.inference_mode():
        assert fastest("double", ways, [torch.ones(3)], torch.float32) == "fast"
    assert len(calls) == 16
    fastest("double", ways, [x], torch.bfloat16)
    assert len(calls) == 24


def test_the_backward_pass_is_measured_with_gradients_only():
    class SlowBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, of_x):
            time.sleep(0.01)
            return of_x

    assert measure(SlowBackward.apply, [torch.ones(3)]) > 0.01
    with torch.no_grad():
        assert measure(SlowBackward.apply, [torch.ones(3)]) < 0.01


def test_a_way_that_does_not_fit_into_memory_is_not_chosen():
    def full(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert fastest("double", {"full": full, "slow": slow}, [torch.ones(3)], torch.float32) == "slow"


def test_a_traced_program_gets_the_first_way_unless_one_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    assert fastest("double", {"slow": slow, "fast": fast}, [torch.ones(3)], torch.float32) == "slow"
    assert not fastest_module._chosen


def test_deformable_convolution_measures_nothing_on_a_cpu(monkeypatch):
    """Two sittings of a run have to compute the same bits."""
    monkeypatch.setattr(deform, "fastest", None)
    x, offset, mask = torch.rand(1, 4, 5, 5), torch.zeros(1, 18, 5, 5), torch.ones(1, 9, 5, 5)
    weight, bias = torch.rand(4, 4, 3, 3), torch.zeros(4)
    found = deformable_conv(x, offset, mask, weight, bias)
    assert torch.equal(found, deformable_conv(x, offset, mask, weight, bias, way="sampling"))


def test_both_ways_can_be_measured(monkeypatch):
    """The choice on CUDA, on a CPU."""
    tensors = (
        torch.rand(1, 4, 5, 5),
        torch.rand(1, 18, 5, 5),
        torch.rand(1, 9, 5, 5),
        torch.rand(4, 4, 3, 3),
        torch.rand(4),
    )
    for way in ("torchvision", "sampling"):
        seconds = measure(lambda *t, way=way: deformable_conv(*t, way=way, dtype=torch.bfloat16), tensors)
        assert 0 < seconds < 10
