import pytest
import torch
import torch.nn.functional as F
from helpers import count

from sr_train.models.discriminators import SRGANDiscriminator, VGGStyleDiscriminator


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        (SRGANDiscriminator, 96, 23_565_505),
        (SRGANDiscriminator, 128, 38_245_569),
        (VGGStyleDiscriminator, 128, 14_499_401),
        (VGGStyleDiscriminator, 256, 21_055_049),
    ],
)
def test_parameters_are_the_papers_to_the_unit(kind, size, expected):
    with torch.device("meta"):
        assert count(kind(size=size)) == expected


@pytest.mark.parametrize(("size", "stages"), [(128, 5), (256, 6)])
def test_state_dict_keys_are_basicsrs(size, stages):
    with torch.device("meta"):
        keys = set(VGGStyleDiscriminator(size=size).state_dict())
    norms = [f"bn{i}_{j}" for i in range(stages) for j in (0, 1) if (i, j) != (0, 0)]
    names = {f"conv{i}_{j}.weight" for i in range(stages) for j in (0, 1)} | {"conv0_0.bias"}
    names |= {
        f"{n}.{p}" for n in norms for p in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    names |= {f"linear{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}
    assert keys == names
    if size == 128:
        assert len(keys) == 60


def lrelu(x):
    return torch.maximum(x, 0.2 * x)


def norm(x, weight, bias):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-5) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def test_srgans_forward_equals_the_figure_written_out():
    torch.manual_seed(0)
    network = SRGANDiscriminator(size=32, channels=4).double()
    image = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    values = list(network.features.parameters())
    x = lrelu(F.conv2d(image, values[0], values[1], padding=1))
    for i, stride in enumerate([2, 1, 2, 1, 2, 1, 2]):
        weight, bias, gain, shift = values[2 + 4 * i : 6 + 4 * i]
        x = lrelu(norm(F.conv2d(x, weight, bias, stride=stride, padding=1), gain, shift))
    assert x.shape == (3, 32, 2, 2)
    w = network.state_dict()
    x = lrelu(x.reshape(3, -1) @ w["linear1.weight"].T + w["linear1.bias"])
    expected = x @ w["linear2.weight"].T + w["linear2.bias"]
    torch.testing.assert_close(network(image), expected.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [32, 128])
def test_the_vgg_styles_forward_equals_its_description_written_out(size):
    torch.manual_seed(0)
    network = VGGStyleDiscriminator(size=size, channels=2).double()
    w = network.state_dict()
    image = torch.rand(2, 3, size, size, dtype=torch.float64)
    x = lrelu(F.conv2d(image, w["conv0_0.weight"], w["conv0_0.bias"], padding=1))
    stage = 0
    while True:
        x = F.conv2d(x, w[f"conv{stage}_1.weight"], stride=2, padding=1)
        x = lrelu(norm(x, w[f"bn{stage}_1.weight"], w[f"bn{stage}_1.bias"]))
        if x.shape[-1] == 4:
            break
        stage += 1
        x = F.conv2d(x, w[f"conv{stage}_0.weight"], padding=1)
        x = lrelu(norm(x, w[f"bn{stage}_0.weight"], w[f"bn{stage}_0.bias"]))
    x = lrelu(x.reshape(2, -1) @ w["linear1.weight"].T + w["linear1.bias"])
    expected = x @ w["linear2.weight"].T + w["linear2.bias"]
    actual = network(image)
    assert actual.shape == (2, 1)
    torch.testing.assert_close(actual, expected.float(), atol=1e-6, rtol=1e-6)


def test_bf16_gives_float32_logits():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for network in (SRGANDiscriminator(size=32, channels=4), VGGStyleDiscriminator(size=32, channels=4)):
            assert network(torch.rand(2, 3, 32, 32)).dtype == torch.float32


def test_an_unsupported_size_is_refused():
    with pytest.raises(ValueError, match="size=100 is not supported; SRGAN's needs a multiple of 16"):
        SRGANDiscriminator(size=100)
    with pytest.raises(
        ValueError, match="size=96 is not supported; VGGStyleDiscriminator supports sizes 32, 64, 128, 256"
    ):
        VGGStyleDiscriminator(size=96)


@pytest.mark.parametrize("kind", [SRGANDiscriminator, VGGStyleDiscriminator])
@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (1, 3, 32, 64), (1, 1, 32, 32)])
def test_patches_of_another_size_are_refused(kind, shape):
    with pytest.raises(ValueError, match=r"built for patches \[B, 3, 32, 32\], but got .*scale x data.lr_patch"):
        kind(size=32, channels=2)(torch.rand(shape))
