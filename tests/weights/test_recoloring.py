"""A gray network from an RGB one computes the luma of its output for the repeated image, and the other way round."""

import pytest
import torch
from nets.small import NETWORKS, upscale

from sr_train.models import contract
from sr_train.models.edsr import EDSR
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.warm_start import warm_start

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)

SHIFTED = ("edsr", "mdsr", "mdsr_shared")  # zeros around the image stand for the mean color


def _network(name, channels, seed):
    torch.manual_seed(seed)
    network = NETWORKS[name](image_channels=channels).double().eval()
    for tensor in network.state_dict().values():  # also biases and statistics that are zero or one at first
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.02)
    return network


def _started(name, source, channels):
    network = _network(name, channels, 1)
    decided = warm_start(network, source.state_dict(), [], where="test")
    assert not decided.initialized
    assert not decided.unused
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_rgb_to_gray_gives_the_luma_of_the_output_for_repeated_gray(name):
    source = _network(name, 3, 0)
    network = _started(name, source, 1)
    rgb = list(contract.input_shape(source, 32, 32))
    lr = torch.rand([*rgb[:-3], 1, *rgb[-2:]], dtype=torch.float64)
    with torch.no_grad():
        expected = (upscale(source, lr.expand(rgb)) * LUMA).sum(1, keepdim=True)
        found = upscale(network, lr)
    error = (found - expected).abs()
    if name in SHIFTED:  # the receptive field is 3 convolutions of the body, those of 5x5 in MDSR, and the upsampler
        inner = error[..., 28:-28, 28:-28]
        assert inner.numel()
        assert inner.max() < 1e-7
        assert error.max() < 0.05
    else:
        assert error.max() < 1e-6 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_gray_to_rgb_gives_the_same_output_in_all_channels_for_gray(name):
    source = _network(name, 1, 0)
    network = _started(name, source, 3)
    shape = contract.input_shape(source, 16, 16)
    lr = torch.rand(shape, dtype=torch.float64)
    with torch.no_grad():
        expected = upscale(source, lr)
        found = upscale(network, lr.expand(*shape[:-3], 3, *shape[-2:]))
    assert (found - expected).abs().max() < 1e-6 * max(1, float(expected.abs().max()))


def test_the_features_of_color_are_those_of_its_luma():
    source = _network("srresnet", 1, 0)
    network = _started("srresnet", source, 3)
    lr = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        found = network.conv_first(lr)
        assert torch.allclose(found, source.conv_first((lr * LUMA).sum(1, keepdim=True)))


def test_other_numbers_are_refused_with_what_to_type():
    source, network = EDSR(scale=2, channels=4, blocks=1, image_channels=4), EDSR(scale=2, channels=4, blocks=1)
    with pytest.raises(
        WeightsError, match=r"takes images of 4 channels, this network 3.*init.skip=\[conv_first.\*,conv_last.\*\]"
    ):
        warm_start(network, source.state_dict(), [], where="test")
    decided = warm_start(network, source.state_dict(), ["conv_first.*", "conv_last.*"], where="test")
    assert decided.initialized == [f"{n}.{k}" for n in ("conv_first", "conv_last") for k in ("weight", "bias")]


def test_a_network_of_another_width_is_reported_as_before():
    source, network = EDSR(scale=2, channels=8, blocks=1), EDSR(scale=2, channels=4, blocks=1, image_channels=1)
    with pytest.raises(WeightsError, match=r"conv_first.weight: \[8, 1, 3, 3\] in the source, \[4, 1, 3, 3\]"):
        warm_start(network, source.state_dict(), [], where="test")


def test_folded_pixels_are_not_taken_for_channels():
    source, network = NETWORKS["rrdbnet_unshuffle"](), NETWORKS["rrdbnet"]()
    with pytest.raises(WeightsError, match=r"conv_first.weight: \[4, 12, 3, 3\] in the source, \[4, 3, 3, 3\]"):
        warm_start(network, source.state_dict(), [], where="test")
