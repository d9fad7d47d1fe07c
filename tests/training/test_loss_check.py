"""A loss is called once before the run starts, so that its errors are one message and no traceback in the first step."""

import pytest
import torch
from torch import nn

from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.losses.adversarial import Hinge, LeastSquares, RelativisticAverage, StandardGAN, Wasserstein
from sr_train.losses.gan import GANLoss
from sr_train.losses.pixel import CharbonnierLoss
from sr_train.losses.weighted import Weighted
from sr_train.training.loss_check import check_gan_loss, check_pixel_loss


class PerImage(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().mean((1, 2, 3))


class Detached(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().mean().detach()


class Infinite(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().mean() / 0


class OnlyLarge(nn.Module):
    """Loss that accepts images of 48 pixels only."""

    def forward(self, sr, hr):
        assert sr.shape[-1] == 48, "48 pixels, please"
        return (sr - hr).abs().mean()


class WithoutAccuracy(nn.Module):
    needs_real = False

    def generator(self, real_logits, fake_logits):
        return -fake_logits.mean()

    def discriminator(self, real_logits, fake_logits):
        return fake_logits.mean() - real_logits.mean()


class WithAccuracy(WithoutAccuracy):
    def accuracy(self, real_logits, fake_logits):
        return (real_logits > 0).float().mean()


class Unreduced(WithAccuracy):
    def discriminator(self, real_logits, fake_logits):
        return fake_logits - real_logits


class WithoutNeedsReal(nn.Module):
    generator = WithAccuracy.generator
    discriminator = WithAccuracy.discriminator
    accuracy = WithAccuracy.accuracy


class OneLogit(WithAccuracy):
    """Loss that was written for one logit per image."""

    def discriminator(self, real_logits, fake_logits):
        (fake,), (real,) = fake_logits.mT, real_logits.mT
        return fake.mean() - real.mean()


class FakeOnly(WithAccuracy):
    def discriminator(self, real_logits, fake_logits):
        return fake_logits.mean() - real_logits.detach().mean()


class Percent(WithAccuracy):
    def accuracy(self, real_logits, fake_logits):
        return torch.tensor(50.0)


class NoParts(nn.Module):
    """Loss for two networks of its own, with wrong results."""

    needs_real = False

    def generator(self, sr, hr, *, real_logits, fake_logits):
        return fake_logits.mean()

    def discriminator(self, real_logits, fake_logits):
        return real_logits.mean(), {}


def gan(adversarial, **terms):
    return GANLoss(adversarial=adversarial, weights={"adversarial": 1.0, **dict.fromkeys(terms, 1.0)}, **terms)


@pytest.mark.parametrize(
    "loss",
    [
        nn.L1Loss(),
        CharbonnierLoss(),
        Weighted(terms={"a": nn.MSELoss(), "b": None}, weights={"a": 1.0, "b": 2.0}),
        OnlyLarge(),
    ],
)
def test_a_loss_for_one_network_passes(loss):
    check_pixel_loss(loss, 48)


OURS = [
    StandardGAN(),
    RelativisticAverage(),
    RelativisticAverage(detach_means=True),
    LeastSquares(),
    Hinge(),
    Wasserstein(),
]


@pytest.mark.parametrize("adversarial", [*OURS, WithAccuracy()])
def test_a_loss_for_two_networks_passes(adversarial):
    check_gan_loss(gan(adversarial), 48)
    check_gan_loss(gan(adversarial), 48, (16, 1, 6, 5))
    check_gan_loss(gan(adversarial, pixel=nn.L1Loss(), perceptual=OnlyLarge()), 48)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (gan(StandardGAN()), r"GANLoss is a loss for a generator and a discriminator .* e.g. loss=l1"),
        (PerImage(), r"^PerImage returns a tensor \[2\]; expected one number"),
        (Weighted(terms={"own": PerImage()}, weights={"own": 1.0}), r"^terms.own: PerImage returns a tensor \[2\]"),
        (Detached(), r"Detached returns a number without a gradient; remove torch.no_grad"),
        (Infinite(), r"Infinite returns inf for images in \[0, 1\]"),
        (OnlyLarge(), r"OnlyLarge fails on \(sr, hr\) of 2 images of 64x64 pixels: AssertionError: 48 pixels, please"),
        (nn.Module(), r"Module has no method forward\(sr, hr\)"),
    ],
)
def test_a_wrong_loss_for_one_network_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        check_pixel_loss(loss, 64)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.L1Loss(), r"needs a loss for two networks, not L1Loss"),
        (gan(WithoutAccuracy()), r"^adversarial: WithoutAccuracy has no method accuracy\(real_logits, fake_logits\)"),
        (gan(WithoutNeedsReal()), r"^adversarial: WithoutNeedsReal needs an attribute needs_real"),
        (gan(Unreduced()), r"^adversarial: Unreduced.discriminator returns a tensor \[2, 1\]; expected one number"),
        (gan(StandardGAN(), pixel=PerImage()), r"^pixel: PerImage returns a tensor \[2\]"),
        (gan(StandardGAN(), perceptual=Detached()), r"^perceptual: Detached returns a number without a gradient"),
        (gan(FakeOnly()), r"^adversarial: FakeOnly.discriminator does not depend on the logits of real images"),
        (gan(Percent()), r"^adversarial: Percent.accuracy returns 50; expected the share of correct logits, 0 to 1"),
        (NoParts(), r"^NoParts.generator returns a tensor \[\]; expected \(loss, parts by name\)"),
    ],
)
def test_a_wrong_loss_for_two_networks_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        check_gan_loss(loss, 64)


def test_a_loss_is_called_with_logits_of_the_shape_of_its_discriminator():
    check_gan_loss(gan(OneLogit()), 64)
    with pytest.raises(
        ValueError, match=r"^adversarial: OneLogit.discriminator fails on logits \[2, 1, 8, 8\]: RuntimeErr|Val"
    ):
        check_gan_loss(gan(OneLogit()), 64, (16, 1, 8, 8))


def test_the_images_do_not_change_the_state_of_random_numbers():
    before = torch.get_rng_state()
    check_pixel_loss(nn.L1Loss(), 48)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss=gan"], r"loss=gan: stage psnr trains one network \(PixelTask\), .*: give gan.loss=gan"),
        (["loss=esrgan"], r"loss=esrgan: stage psnr .*: give gan.loss=esrgan"),
        (["stage=psnr", "loss=gan"], r"stage psnr trains one network .*: give e.g. loss=l1, or task=gan"),
    ],
)
def test_a_loss_for_two_networks_on_a_stage_of_one_is_refused_with_what_to_type(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=quickstart", *arguments])


def test_a_loss_for_two_networks_may_be_typed_for_a_stage_of_two():
    assert plan(["experiment=quickstart", "gan.loss=gan"]).stages[1].config["loss"]["adversarial"]
    assert plan(["experiment=quickstart", "stage=gan", "loss=gan"]).selected == ("gan",)
