"""Networks and discriminators for images of other numbers of channels than 3."""

import pytest
import torch
from nets.small import NETWORKS, upscale

from sr_train.models import contract
from sr_train.models.bicubic import Bicubic
from sr_train.models.discriminators import SRGANDiscriminator, VGGStyleDiscriminator
from sr_train.models.edsr import DIV2K_MEAN, mean_shift
from sr_train.models.features import FeatureExtractor


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_on_images_of_any_number_of_channels(name, channels):
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=channels)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)
    lr = torch.rand(contract.input_shape(network, 16, 16))
    assert lr.shape[-3] == channels
    sr = upscale(network, lr)
    scale = contract.scales(network)[0]
    assert list(sr.shape) == [1, channels, 16 * scale, 16 * scale]
    loss = (sr - torch.rand_like(sr)).abs().mean()
    loss.backward()
    before = {k: p.detach().clone() for k, p in network.named_parameters() if p.grad is not None}
    assert before
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    optimizer.param_groups[0]["lr"] = 1e-2
    optimizer.step()
    assert any(not torch.equal(before[k], p) for k, p in network.named_parameters() if k in before)


@pytest.mark.parametrize("name", NETWORKS)
def test_rgb_is_the_default(name):
    torch.manual_seed(0)
    default = NETWORKS[name]().state_dict()
    torch.manual_seed(0)
    rgb = NETWORKS[name](image_channels=3).state_dict()
    assert all(torch.equal(v, rgb[k]) for k, v in default.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_channels_are_refused(name):
    with pytest.raises(ValueError, match="image_channels=0 must be at least 1"):
        NETWORKS[name](image_channels=0)


def test_a_branch_of_an_mdsr_states_its_channels():
    assert contract.channels(NETWORKS["mdsr"](image_channels=1).at(3)) == 1


def test_the_mean_of_gray_is_the_luma_of_the_mean_of_div2k():
    assert mean_shift(3) == DIV2K_MEAN
    assert mean_shift(1)[0] == pytest.approx(0.299 * 0.4488 + 0.587 * 0.4371 + 0.114 * 0.4040)
    assert len(set(mean_shift(4))) == 1
    assert len(mean_shift(4)) == 4


def test_bicubic_of_one_channel_is_that_of_each_of_three():
    gray = torch.rand(1, 1, 6, 7)
    for arithmetic in ("float", "uint8"):
        one, three = (Bicubic(scale=2, arithmetic=arithmetic)(gray.expand(-1, n, -1, -1)) for n in (1, 3))
        assert torch.equal(one.expand(-1, 3, -1, -1), three)


@pytest.mark.parametrize("make", [lambda **k: SRGANDiscriminator(size=32, channels=4, **k),
                                  lambda **k: VGGStyleDiscriminator(size=32, channels=4, **k)])  # fmt: skip
def test_discriminators_of_gray_patches(make):
    discriminator = make(image_channels=1)
    logits = discriminator(torch.rand(2, 1, 32, 32))
    assert list(logits.shape) == [2, 1]
    logits.sum().backward()
    with pytest.raises(ValueError, match=r"patches \[B, 1, 32, 32\], but got \[2, 3, 32, 32\]"):
        discriminator(torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match="image_channels=0"):
        make(image_channels=0)


def test_features_of_gray_are_those_of_repeated_gray(tiny_vgg):
    extractor = FeatureExtractor(network="vgg19", layers=["conv1_2"], weights=tiny_vgg)
    gray = torch.rand(1, 1, 16, 16)
    assert torch.equal(extractor(gray)["conv1_2"], extractor(gray.expand(-1, 3, -1, -1))["conv1_2"])
    with pytest.raises(ValueError, match=r"need RGB images .*or gray ones.* but got \[1, 4"):
        extractor(torch.rand(1, 4, 16, 16))
