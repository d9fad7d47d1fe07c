"""R1 and WGAN-GP against their closed form for a linear discriminator, and double backward passes."""

import pytest
import torch
from torch import nn

from sr_train.losses.penalties import R1, WGANGP
from sr_train.models.discriminators import (
    PatchDiscriminator,
    SRGANDiscriminator,
    UNetDiscriminatorSN,
    VGGStyleDiscriminator,
)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 1))


def images(count=3, side=4):
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(count, 3, side, side, generator=generator) for _ in range(2))


def test_r1_of_a_linear_discriminator_is_half_the_squared_norm_of_its_weights():
    d = linear()
    found = R1()(d, *images(), torch.zeros(3))
    weight = d[1].weight
    torch.testing.assert_close(found, weight.square().sum() / 2)
    (gradient,) = torch.autograd.grad(found, weight)
    torch.testing.assert_close(gradient, weight)


def test_wgan_gp_of_a_linear_discriminator_is_the_distance_of_its_norm_from_one():
    d = linear()
    found = WGANGP()(d, *images(), torch.rand(3))
    norm = d[1].weight.norm()
    torch.testing.assert_close(found, (norm - 1) ** 2)
    (gradient,) = torch.autograd.grad(found, d[1].weight)
    torch.testing.assert_close(gradient, (2 * (norm - 1) * d[1].weight / norm).detach())


def test_wgan_gp_is_taken_at_the_drawn_mixtures():
    """For D(x) = sum of x^2 / 2 the gradient is x itself."""
    real, fake = images()
    share = torch.tensor([0.0, 0.25, 1.0])
    scale = nn.Parameter(torch.ones(()))
    found = WGANGP()(lambda x: scale * x.square().sum((1, 2, 3))[:, None] / 2, real, fake, share)
    mixed = [fake[0], 0.25 * real[1] + 0.75 * fake[1], real[2]]
    torch.testing.assert_close(found, torch.stack([(m.norm() - 1) ** 2 for m in mixed]).mean())
    real_only = R1()(lambda x: scale * x.square().sum((1, 2, 3))[:, None] / 2, real, fake, share)
    torch.testing.assert_close(real_only, real.square().sum((1, 2, 3)).mean() / 2)


def test_logits_of_every_pixel_count_by_their_mean():
    def d(x):
        return (x * torch.arange(16.0).view(1, 1, 4, 4)).sum(1, keepdim=True)  # [B, 1, 4, 4]

    expected = (3 * (torch.arange(16.0) / 16).square().sum()) / 2
    scale = nn.Parameter(torch.ones(()))
    found = R1()(lambda x: d(x) * scale, *images(), torch.zeros(3))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("build", [
    lambda: SRGANDiscriminator(size=16, channels=2), lambda: VGGStyleDiscriminator(size=32, channels=2),
    lambda: UNetDiscriminatorSN(channels=2), lambda: PatchDiscriminator(channels=2, norm="spectral"),
    lambda: PatchDiscriminator(channels=2, norm="instance"),
])  # fmt: skip
def test_every_discriminator_has_a_second_derivative(build):
    torch.manual_seed(0)
    d = build().double().eval()  # BatchNorm as a fixed map
    generator = torch.Generator().manual_seed(0)
    side = getattr(d, "size", 32)
    real = torch.rand(2, 3, side, side, generator=generator).double()
    weight = next(d.parameters())
    direction = torch.randn(weight.shape, generator=generator).double()
    R1()(d, real, real, torch.zeros(2)).backward()
    slope, values, small = float((weight.grad * direction).sum()), [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * small * direction
        values.append(float(R1()(d, real, real, torch.zeros(2)).detach()))
        with torch.no_grad():
            weight -= sign * small * direction
    assert slope == pytest.approx((values[0] - values[1]) / (2 * small), rel=1e-3)
    assert slope != 0


def test_wrong_numbers_are_refused():
    for given, message in (
        ({"weight": 0}, "weight=0 must be a positive number"),
        ({"weight": float("inf")}, "weight=inf must be"),
        ({"every": 0}, "every=0 must be a number of steps, at least 1"),
    ):
        for kind in (R1, WGANGP):
            with pytest.raises(ValueError, match=message):
                kind(**given)
