from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from helpers import count
from torch import nn
from torch.nn.utils import spectral_norm

from sr_train.models.discriminators import (
    Norm,
    PatchDiscriminator,
    SRGANDiscriminator,
    UNetDiscriminatorSN,
    VGGStyleDiscriminator,
)
from sr_train.models.spectral import SpectralConv2d


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
        fixed = (SRGANDiscriminator(size=32, channels=4), VGGStyleDiscriminator(size=32, channels=4))
        for network in (*fixed, *(make() for make in CONVOLUTIONAL.values())):
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


CONVOLUTIONAL = {
    "unet_sn": lambda: UNetDiscriminatorSN(channels=4),
    **{norm: lambda norm=norm: PatchDiscriminator(channels=4, norm=norm) for norm in get_args(Norm)},
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [  # 6 channels and BatchNorm: pix2pix's 2.769 M; InstanceNorm: CycleGAN's 2.765 M
        ({"image_channels": 6}, 2_768_705),
        ({}, 2_765_633),
        ({"norm": "instance"}, 2_764_737),
        ({"norm": "spectral"}, 2_764_737),
        ({"norm": "none"}, 2_764_737),
    ],
)
def test_a_patchgan_has_the_authors_number_of_parameters(arguments, expected):
    with torch.device("meta"):
        assert count(PatchDiscriminator(**arguments)) == expected


def test_the_unet_has_basicsrs_number_of_parameters_and_keys():
    with torch.device("meta"):
        network = UNetDiscriminatorSN()
    assert count(network) == 4_376_897
    names = {f"conv{i}.{p}" for i in (0, 9) for p in ("weight", "bias")}
    assert set(network.state_dict()) == names | {f"conv{i}.weight_{p}" for i in range(1, 9) for p in ("orig", "u", "v")}


def test_a_patchgan_has_the_authors_keys():
    keys = PatchDiscriminator(channels=2).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {f"model.{i}.{p}" for i in (0, 11) for p in ("weight", "bias")} | {f"model.{i}.weight" for i in (2, 5, 8)}
    assert set(keys) == names | {f"model.{i}.{p}" for i in (3, 6, 9) for p in norm}


@pytest.mark.parametrize(("layers", "region"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_of_a_patchgan_depends_on_a_region_of_the_papers_size(layers, region):
    torch.manual_seed(0)
    network = PatchDiscriminator(channels=2, layers=layers, norm="none").double()
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    assert [int(image.grad.abs().sum((0, 1, d)).count_nonzero()) for d in (2, 3)] == [region, region]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 3, 40, 64)])
def test_convolutional_discriminators_accept_any_patch_size(name, shape):
    logits = CONVOLUTIONAL[name]()(torch.rand(shape))
    h, w = shape[2:] if name == "unet_sn" else (shape[2] // 8 - 2, shape[3] // 8 - 2)
    assert logits.shape == (shape[0], 1, h, w)
    assert logits.isfinite().all()


@pytest.mark.parametrize("skip", [True, False])
def test_the_unets_forward_and_gradients_equal_torchs_spectral_norm(skip):
    """Three calls in training mode, as in a step: the vectors of the power iteration change at each."""

    class Reference(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.conv0, self.conv9 = nn.Conv2d(3, f, 3, 1, 1), nn.Conv2d(f, 1, 3, 1, 1)
            widths = [(1, 2), (2, 4), (4, 8), (8, 4), (4, 2), (2, 1), (1, 1), (1, 1)]
            for i, (a, b) in enumerate(widths, 1):
                kernel, stride = (4, 2) if i < 4 else (3, 1)
                self.add_module(f"conv{i}", spectral_norm(nn.Conv2d(a * f, b * f, kernel, stride, 1, bias=False)))

        def forward(self, x):
            c = [lambda x, i=i: lrelu(getattr(self, f"conv{i}")(x)) for i in range(9)]
            up = nn.Upsample(scale_factor=2, mode="bilinear")
            x0 = c[0](x)
            x1 = c[1](x0)
            x2 = c[2](x1)
            x4 = c[4](up(c[3](x2))) + skip * x2
            x5 = c[5](up(x4)) + skip * x1
            x6 = c[6](up(x5)) + skip * x0
            return self.conv9(c[8](c[7](x6)))

    torch.manual_seed(0)
    reference, network = Reference(3), UNetDiscriminatorSN(channels=3, skip_connection=skip)
    network.load_state_dict(reference.state_dict())
    images = torch.rand(3, 2, 3, 16, 24)
    for made, expected in ((network(x), reference(x)) for x in images):
        torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-5)
        made.square().mean().backward()
        expected.square().mean().backward()
    assert torch.equal(network.state_dict()["conv3.weight_u"], reference.state_dict()["conv3.weight_u"])
    wanted = dict(reference.named_parameters())
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[key].grad, atol=1e-7, rtol=1e-4)
    network.eval()
    torch.testing.assert_close(network(images[0]), reference.eval()(images[0]), atol=1e-6, rtol=1e-5)


def test_the_largest_singular_value_of_a_normalized_weight_is_1():
    torch.manual_seed(0)
    conv = SpectralConv2d(6, 8, 3, bias=True)
    for _ in range(200):
        weight = conv.normalized()
    torch.testing.assert_close(torch.linalg.svdvals(weight.detach().flatten(1))[0], torch.tensor(1.0))
    assert torch.equal(conv.eval().normalized(), conv.normalized())  # no step in eval mode
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv(torch.rand(1, 6, 5, 5))
    assert conv.weight_u.dtype == torch.float32


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_penalty_on_the_gradient_can_be_trained(name):
    """Gradient of R1 against finite differences: second derivatives of every layer."""
    torch.manual_seed(0)
    network = CONVOLUTIONAL[name]().double()
    for _ in range(20):  # of the power iteration
        network(torch.rand(1, 3, 32, 32, dtype=torch.float64))
    network.eval()
    image = torch.rand(1, 3, 24, 24, dtype=torch.float64, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(network(image).sum(), image, create_graph=True)
        return gradient.square().sum()

    names = ("conv2.weight_orig", "model.2.weight_orig", "model.2.weight")
    parameter = next(p for n, p in network.named_parameters() if n in names)
    direction = torch.randn_like(parameter)
    (found,) = torch.autograd.grad(penalty(), parameter)
    values = []
    for step in (1e-8, -1e-8):  # small, so that no LeakyReLU changes its side
        with torch.no_grad():
            parameter.add_(step * direction)
        values.append(penalty().item())
        with torch.no_grad():
            parameter.sub_(step * direction)
    assert (found * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-8, rel=1e-4)


def test_wrong_patches_and_arguments_of_convolutional_discriminators_are_refused():
    with pytest.raises(ValueError, match=r"sides are multiples of 8, but got \[1, 3, 36, 32\]"):
        UNetDiscriminatorSN(channels=2)(torch.rand(1, 3, 36, 32))
    with pytest.raises(ValueError, match=r"at least 24 px, but got \[1, 3, 16, 32\].*fewer layers"):
        PatchDiscriminator(channels=2)(torch.rand(1, 3, 16, 32))
    for kind in (UNetDiscriminatorSN, PatchDiscriminator):
        with pytest.raises(ValueError, match=r"built for patches \[B, 3, H, W\], but got \[1, 1, 32, 32\]"):
            kind(channels=2)(torch.rand(1, 1, 32, 32))
        with pytest.raises(ValueError, match="channels=0 must be at least 1"):
            kind(channels=0)
    with pytest.raises(ValueError, match="layers=7 is not supported; expected 1 to 6"):
        PatchDiscriminator(layers=7)
    with pytest.raises(ValueError, match="norm=group is not supported; expected batch, instance, spectral or none"):
        PatchDiscriminator(norm="group")
