"""BasicSR's discriminators: names and shapes are written out here, and the network in torch's functions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import equal

from sr_train.models.discriminators import UNetDiscriminatorSN, VGGStyleDiscriminator
from sr_train.models.rrdbnet import RRDBNet
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.foreign.recognize import read_discriminator


def vgg(stages=5, f=4):
    """Random tensors of VGGStyleDiscriminator128 (five stages) or 256 (six) by BasicSR's names."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    state, before = {}, 3
    for i in range(stages):
        after = f * min(2**i, 8)
        state[f"conv{i}_0.weight"] = normal(after, before, 3, 3)
        if i == 0:
            state["conv0_0.bias"] = normal(after)
        state[f"conv{i}_1.weight"] = normal(after, after, 4, 4)
        for j in (0, 1) if i else (1,):
            state |= {f"bn{i}_{j}.weight": normal(after) + 1, f"bn{i}_{j}.bias": normal(after)}
            state |= {f"bn{i}_{j}.running_mean": normal(after), f"bn{i}_{j}.running_var": normal(after) ** 2 + 1}
            state[f"bn{i}_{j}.num_batches_tracked"] = torch.tensor(7)
        before = after
    state |= {"linear1.weight": normal(100, before * 16), "linear1.bias": normal(100)}
    return state | {"linear2.weight": normal(1, 100), "linear2.bias": normal(1)}


def theirs(w, x, stages):
    def norm(x, name):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], training=False, eps=1e-5)

    for i in range(stages):
        x = F.conv2d(x, w[f"conv{i}_0.weight"], w.get(f"conv{i}_0.bias"), padding=1)
        x = F.leaky_relu(x if i == 0 else norm(x, f"bn{i}_0"), 0.2)
        x = F.leaky_relu(norm(F.conv2d(x, w[f"conv{i}_1.weight"], stride=2, padding=1), f"bn{i}_1"), 0.2)
    x = F.leaky_relu(F.linear(x.flatten(1), w["linear1.weight"], w["linear1.bias"]), 0.2)
    return F.linear(x, w["linear2.weight"], w["linear2.bias"])


UNET = [(1, 2, 4), (2, 4, 4), (4, 8, 4), (8, 4, 3), (4, 2, 3), (2, 1, 3), (1, 1, 3), (1, 1, 3)]  #: conv1 to conv8


def unet_sn(f=4):
    """Random tensors of UNetDiscriminatorSN by BasicSR's names, which are those of torch.nn.utils.spectral_norm."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    state = {"conv0.weight": normal(f, 3, 3, 3), "conv0.bias": normal(f)}
    for i, (before, after, kernel) in enumerate(UNET, 1):
        state[f"conv{i}.weight_orig"] = normal(after * f, before * f, kernel, kernel)
        for name, size in (("u", after * f), ("v", before * f * kernel**2)):
            state[f"conv{i}.weight_{name}"] = F.normalize(normal(size), dim=0)
    return state | {"conv9.weight": normal(1, f, 3, 3), "conv9.bias": normal(1)}


def theirs_unet(w, x):
    def conv(x, i):
        weight = w[f"conv{i}.weight_orig"]
        sigma = w[f"conv{i}.weight_u"] @ weight.flatten(1) @ w[f"conv{i}.weight_v"]
        stride = 2 if i < 4 else 1
        return F.leaky_relu(F.conv2d(x, weight / sigma, stride=stride, padding=1), 0.2)

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x0 = F.leaky_relu(F.conv2d(x, w["conv0.weight"], w["conv0.bias"], padding=1), 0.2)
    x1 = conv(x0, 1)
    x2 = conv(x1, 2)
    x4 = conv(up(conv(x2, 3)), 4) + x2
    x5 = conv(up(x4), 5) + x1
    x6 = conv(up(x5), 6) + x0
    return F.conv2d(conv(conv(x6, 7), 8), w["conv9.weight"], w["conv9.bias"], padding=1)


@pytest.mark.parametrize(("stages", "size"), [(5, 128), (6, 256)])
def test_a_discriminator_of_basicsr_starts_from_its_file(tmp_path, stages, size):
    state = vgg(stages)
    torch.save({"params": state}, tmp_path / "net_d.pth")
    found = read_discriminator(tmp_path / "net_d.pth")
    assert found.model == {
        "_target_": "sr_train.models.discriminators.VGGStyleDiscriminator", "size": size, "channels": 4
    }  # fmt: skip
    network = VGGStyleDiscriminator(size=size, channels=4).eval()
    network.load_state_dict(found.state)
    image = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(network(image), theirs(state, image, stages), atol=1e-5, rtol=1e-5)


def test_real_esrgans_discriminator_starts_from_its_file(tmp_path):
    state = unet_sn()
    torch.save({"params": state}, tmp_path / "net_d.pth")
    found = read_discriminator(tmp_path / "net_d.pth")
    assert found.model == {"_target_": "sr_train.models.discriminators.UNetDiscriminatorSN", "channels": 4}
    assert found.origin["assumed"] == "skip_connection true"
    network = UNetDiscriminatorSN(channels=4).eval()
    network.load_state_dict(found.state)
    image = torch.rand(2, 3, 24, 32, dtype=torch.float64)  # random vectors u and v make large values
    expected = theirs_unet({k: v.double() for k, v in state.items()}, image).float()
    with torch.no_grad():
        torch.testing.assert_close(network.double()(image), expected, atol=0, rtol=1e-5)


def test_generator_and_discriminator_are_read_from_one_file(tmp_path):
    generator = RRDBNet(scale=4, channels=4, growth=2, blocks=1).state_dict()
    names = {"generator": generator, "discriminator": vgg()}
    torch.save({"state_dict": {f"{k}.{n}": v for k, s in names.items() for n, v in s.items()}}, tmp_path / "gan.pth")
    assert equal(load_weights(tmp_path / "gan.pth").state, generator)
    found = read_discriminator(tmp_path / "gan.pth")
    assert equal(found.state, vgg())
    assert found.origin["wrapper"] == "state_dict > discriminator"


@pytest.mark.parametrize(("state", "name"), [(vgg, "VGGStyleDiscriminator"), (unet_sn, "UNetDiscriminatorSN")])
@pytest.mark.parametrize("wrapper", ["params", "discriminator"])
def test_a_discriminator_given_as_weights_is_named(tmp_path, state, name, wrapper):
    torch.save({wrapper: state()}, tmp_path / "net_d.pth")
    with pytest.raises(WeightsError, match=rf"net_d\.pth: contains BasicSR's {name}, which is a discriminator.*net_g_"):
        load_weights(tmp_path / "net_d.pth")


def test_a_file_without_a_discriminator_is_refused(tmp_path):
    torch.save(RRDBNet(scale=4, channels=4, growth=2, blocks=1).state_dict(), tmp_path / "net_g.pth")
    with pytest.raises(
        WeightsError, match=r"net_g\.pth: contains no discriminator of a known key format; known are Bas"
    ):
        read_discriminator(tmp_path / "net_g.pth")
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(WeightsError, match=r"page\.pth: is a web page"):
        read_discriminator(tmp_path / "page.pth")
