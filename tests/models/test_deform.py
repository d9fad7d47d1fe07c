import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

import sr_train.models.deform as deform
from sr_train.models.deform import DeformableConv, deformable_conv

SIZES = [(2, 16, 4, 9, 7), (1, 8, 8, 33, 5), (3, 6, 1, 1, 2), (2, 64, 8, 64, 64)]  # B, C, groups, h, w


def inputs(size, spread, *, whole=False):
    """x, offset, mask, weight, bias; no tap within 1e-3 of a pixel's center, where gradients jump, or all taps on one."""
    batch, channels, groups, height, width = size
    generator = torch.Generator().manual_seed(height)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    offset = normal(batch, groups * 18, height, width) * spread
    near = (offset - offset.round()).abs() < 1e-3
    offset = offset.round() if whole else torch.where(near, offset.round() + 0.01, offset)
    mask = torch.rand(batch, groups * 9, height, width, generator=generator)
    return (
        normal(batch, channels, height, width),
        offset,
        mask,
        normal(channels, channels, 3, 3) * 0.1,
        normal(channels),
    )


def with_gradients(function, tensors, after):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    out.backward(after.to(out.dtype))
    return out.detach(), *(t.grad for t in leaves)


def torchvisions(x, offset, mask, weight, bias):
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def same(found, expected, tolerance):
    for name, a, b in zip(("out", "x", "offset", "mask", "weight", "bias"), found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert (a - b).abs().max() <= tolerance * b.abs().max(), name


@pytest.fixture(params=["pieces", "plain"])
def sampling(request, monkeypatch):
    """Both forms of sampling: in pieces, some with several rows and images, and in plain operations."""
    if request.param == "plain":
        return deform._by_sampling
    monkeypatch.setattr(deform, "_PIECE", 20)
    return lambda *tensors: deformable_conv(*tensors, way="sampling")


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("spread", [0.4, 4.0, 1e3], ids=["near", "borders", "far out"])
def test_sampling_equals_torchvisions_operator_forward_and_in_all_gradients(sampling, size, spread):
    tensors = inputs(size, spread)
    after = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(0))
    same(with_gradients(sampling, tensors, after), with_gradients(torchvisions, tensors, after), 2e-5)


@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("size", SIZES[:3])
def test_gradients_at_pixel_centers_are_equal(sampling, size, spread):
    tensors = inputs(size, spread, whole=True)
    after = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(0))
    same(with_gradients(sampling, tensors, after), with_gradients(torchvisions, tensors, after), 2e-6)


def test_default_pieces_at_the_size_of_a_training_step():
    tensors = inputs(SIZES[3], 2.0)
    after = torch.randn(tensors[0].shape)
    expected = with_gradients(torchvisions, tensors, after)
    same(with_gradients(deformable_conv, tensors, after), expected, 2e-5)
    x, *others = tensors
    last = [x.contiguous(memory_format=torch.channels_last), *others]
    same(with_gradients(deformable_conv, last, after.contiguous(memory_format=torch.channels_last)), expected, 2e-5)


def test_gradients_equal_finite_differences():
    tensors = [t.double().requires_grad_() for t in inputs((1, 4, 2, 4, 3), 0.7)]
    assert torch.autograd.gradcheck(lambda *t: deformable_conv(*t, way="sampling"), tensors)


@pytest.mark.parametrize("threads", [1, 5])
def test_several_images_at_once_for_several_threads_give_the_same(monkeypatch, threads):
    tensors = inputs((5, 8, 2, 9, 7), 2.0)
    after = torch.randn(tensors[0].shape)
    expected = with_gradients(torchvisions, tensors, after)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    same(with_gradients(deformable_conv, tensors, after), expected, 2e-5)


def test_a_module_starts_as_half_of_a_plain_convolution_with_basicsrs_keys():
    torch.manual_seed(0)
    conv = DeformableConv(16, groups=8)
    assert {k: list(v.shape) for k, v in conv.state_dict().items()} == {
        "weight": [16, 16, 3, 3], "bias": [16], "conv_offset.weight": [216, 16, 3, 3], "conv_offset.bias": [216]
    }  # fmt: skip
    assert 0.9 / 12 < conv.weight.abs().max() <= 1 / 12
    x = torch.randn(2, 16, 9, 8)
    expected = 0.5 * F.conv2d(x, conv.weight, padding=1)
    for way in ("sampling", "torchvision"):
        conv.way = way
        torch.testing.assert_close(conv(x, torch.randn(2, 16, 9, 8)), expected, atol=1e-5, rtol=1e-5)


def test_under_autocast_offsets_stay_in_float32():
    torch.manual_seed(0)
    conv = DeformableConv(16, groups=2)
    torch.nn.init.normal_(conv.conv_offset.weight, std=0.5)
    x, features = torch.randn(2, 1, 16, 20, 20).bfloat16()
    expected = conv(x.float(), features.float())
    seen = []
    conv.conv_offset.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x, features)
    assert (seen, out.dtype) == ([torch.float32], torch.bfloat16)
    assert (
        out.float() - expected
    ).abs().max() < 0.02 * expected.abs().max()  # offsets of several px in bf16 miss by more
    out.float().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in conv.parameters())


def test_the_mean_offset_is_kept_in_training_only():
    conv = DeformableConv(8, groups=2)
    assert conv.conv_offset.bias is not None
    with torch.no_grad():
        conv.conv_offset.bias[:36] = torch.tensor([1.5, -2.5]).repeat(18)
    conv.eval()(torch.zeros(1, 8, 6, 4), torch.zeros(1, 8, 6, 4))
    assert conv.mean_offset is None
    conv.train()(torch.zeros(1, 8, 6, 4), torch.zeros(1, 8, 6, 4))
    assert (float(conv.mean_offset), conv.side, conv.mean_offset.requires_grad) == (2.0, 4, False)


def test_the_convolution_can_be_exported():
    conv = DeformableConv(8, groups=2).eval()
    example = (torch.randn(1, 8, 6, 5), torch.randn(1, 8, 6, 5))
    program = torch.export.export(conv, example)
    assert not any("deform" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*example), conv(*example))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="channels=10 must be a multiple of the 8"):
        DeformableConv(10)
    with pytest.raises(ValueError, match="deform='cuda': expected auto"):
        DeformableConv(16, way="cuda")
