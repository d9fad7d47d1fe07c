"""Content terms against independent computations, and their use by name and weight in both kinds of stages."""

import numpy as np
import pytest
import torch
from torch import nn

from sr_train.config.build import build
from sr_train.config.compose import ConfigError
from sr_train.config.plan import plan
from sr_train.losses.adversarial import StandardGAN
from sr_train.losses.formula import formula
from sr_train.losses.frequency import FocalFrequencyLoss
from sr_train.losses.gan import GANLoss
from sr_train.losses.gradient import GradientLoss
from sr_train.losses.ssim import SSIMLoss
from sr_train.losses.weighted import Weighted
from sr_train.metrics.color import luma
from sr_train.metrics.functional import ssim
from sr_train.runs.resume import differences

TERMS = {"ssim": SSIMLoss, "frequency": FocalFrequencyLoss, "gradient": GradientLoss}


@pytest.fixture(params=[3, 1], ids=["rgb", "gray"])
def images(request):
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, request.param, 20, 24, generator=generator)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def test_ssim_is_that_of_the_metric(images):
    sr, hr = images
    expected = 1 - np.mean([ssim(a.double() * 255, b.double() * 255) for a, b in zip(sr, hr, strict=True)])
    assert SSIMLoss()(sr, hr).item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="at least 11x11"):
        SSIMLoss()(sr[..., :10], hr[..., :10])


def test_ssim_of_luma_is_that_of_the_protocol_y():
    generator = torch.Generator().manual_seed(0)
    sr, hr = torch.rand(2, 2, 3, 20, 24, generator=generator)
    expected = 1 - np.mean([ssim(luma(a * 255), luma(b * 255)) for a, b in zip(sr, hr, strict=True)])
    assert SSIMLoss(color="y")(sr, hr).item() == pytest.approx(expected, abs=1e-5)
    gray = sr[:, :1], hr[:, :1]
    assert SSIMLoss(color="y")(*gray).item() == SSIMLoss()(*gray).item()
    with pytest.raises(ValueError, match="color='luma': expected rgb or y"):
        SSIMLoss(color="luma")  # pyright: ignore[reportArgumentType]


def test_the_focal_frequency_loss_is_the_papers_sum(images):
    sr, hr = (x.double().numpy() for x in images)
    height, width = sr.shape[-2:]
    rows = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height)
    columns = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width)
    distance = np.abs(rows @ (sr - hr) @ columns) / np.sqrt(height * width)
    weight = distance / distance.max((-2, -1), keepdims=True)
    assert FocalFrequencyLoss()(*images).item() == pytest.approx((weight * distance**2).mean(), rel=1e-4)
    assert FocalFrequencyLoss(alpha=0)(*images).item() == pytest.approx(((sr - hr) ** 2).mean(), rel=1e-5)  # Parseval


def test_the_gradient_loss_compares_magnitudes_of_central_differences(images):
    def magnitude(x):
        x = np.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        across, down = x[..., 1:-1, 2:] - x[..., 1:-1, :-2], x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
        return np.sqrt(across**2 + down**2 + 1e-6)

    sr, hr = images
    expected = np.abs(magnitude(sr) - magnitude(hr)).mean()
    assert GradientLoss()(sr, hr).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_terms_are_zero_for_equal_images_have_finite_gradients_and_ignore_autocast(images, term):
    sr, hr = images[0].clone().requires_grad_(), images[1]
    loss = term()
    assert not loss.state_dict()
    assert loss(hr, hr).item() == pytest.approx(0, abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            loss(sr, hr).item() == loss(sr, hr.clone()).item() == pytest.approx(term()(images[0], hr).item(), rel=1e-6)
        )
    for first in (sr, hr.clone().requires_grad_()):
        (gradient,) = torch.autograd.grad(loss(first, hr), first)
        assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(loss(sr, hr), sr)
    place = tuple(int(i) for i in np.unravel_index(int(gradient.abs().argmax()), gradient.shape))
    step = torch.zeros_like(hr)
    step[place] = 1e-2
    slope = (loss(images[0] + step, hr) - loss(images[0] - step, hr)).item() / 2e-2
    if term is not FocalFrequencyLoss:  # its weight has no gradient
        assert gradient[place].item() == pytest.approx(slope, rel=0.05)


class Own(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().amax((1, 2, 3)).mean()


def test_a_gan_loss_has_terms_by_name(images):
    sr, hr = images[0].clone().requires_grad_(), images[1]
    weights = {"adversarial": 0.1, "pixel": 1.0, "own": 0.5, "off": None, "logged": 0.0}
    terms = {"own": Own(), "off": nn.MSELoss(), "logged": nn.MSELoss()}
    loss = GANLoss(adversarial=StandardGAN(), pixel=nn.L1Loss(), weights=weights, terms=terms)
    fake = torch.zeros(2, 1)
    total, parts = loss.generator(sr, hr, real_logits=None, fake_logits=fake)
    assert set(parts) == {"adversarial", "pixel", "own", "logged"}
    expected = 0.1 * parts["adversarial"] + nn.L1Loss()(sr, hr) + 0.5 * Own()(sr, hr)
    torch.testing.assert_close(total, expected)
    assert formula(loss) == "1 pixel (L1Loss) + 0.5 own (Own) + 0 logged (MSELoss) + 0.1 adversarial (StandardGAN)"
    with pytest.raises(ValueError, match="terms: pixel: another term"):
        GANLoss(adversarial=StandardGAN(), weights={"adversarial": 1.0, "pixel": 1.0}, terms={"pixel": Own()})


def test_ready_terms_are_used_when_they_have_a_weight():
    own = "{_target_: sr_train.losses.pixel.CharbonnierLoss}"
    typed = ["gan.loss=gan", "psnr.loss=content", "psnr.loss.weights.ssim=0.2", "gan.loss.weights.gradient=0.5"]
    stages = plan(["experiment=quickstart", *typed, f"gan.loss.terms.own={own}", "gan.loss.weights.own=2"]).stages
    lines = [formula(build(stage.config["loss"])) for stage in stages]
    assert lines[0] == "0.2 ssim (SSIMLoss) + 1 pixel (L1Loss)"
    assert lines[1] == ("1 pixel (L1Loss) + 0.5 gradient (GradientLoss) + 2 own (CharbonnierLoss) + "
                        "0.01 adversarial (RelativisticAverage)")  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"no term nothing; .*Terms that only need a weight: ssim, frequency, gradient"
    ):
        plan(["experiment=quickstart", "gan.loss.weights.nothing=1"])


def test_a_mapping_of_weights_or_terms_typed_whole_replaces():
    typed = ["psnr.loss=content", "psnr.loss.weights={ssim: 0.2}", "gan.loss.weights={adversarial: 0.1, gradient: 1}"]
    with pytest.raises(ValueError, match="without a weight: pixel"):
        build(plan(["experiment=quickstart", *typed]).stages[0].config["loss"])
    typed = ["psnr.loss=content", "psnr.loss.terms={pixel: {_target_: torch.nn.MSELoss}}",
             "gan.loss=gan", "gan.loss.weights={adversarial: 0.1, pixel: 1, gradient: 2}"]  # fmt: skip
    lines = [formula(build(stage.config["loss"])) for stage in plan(["experiment=quickstart", *typed]).stages]
    gan = "1 pixel (L1Loss) + 2 gradient (GradientLoss) + 0.1 adversarial (RelativisticAverage)"
    assert lines == ["1 pixel (MSELoss)", gan]


@pytest.mark.parametrize("name", ["loss", "keys", "training", "a.b", ""])
def test_names_that_logs_or_modules_need_are_refused(name):
    with pytest.raises(ValueError, match="cannot be used for terms"):
        Weighted(terms={name: nn.L1Loss()}, weights={name: 1.0})


def test_messages_name_the_term_without_a_weight():
    terms = {"pixel": nn.L1Loss(), "own": Own(), "off": nn.L1Loss()}
    with pytest.raises(
        ValueError, match=r"given for pixel; .*; without a weight: own\. A term is added by loss\.terms\.NAME"
    ):
        Weighted(terms=terms, weights={"pixel": 1.0, "off": None})
    with pytest.raises(ValueError, match=r"adversarial term has none: give loss\.weights\.adversarial"):
        GANLoss(adversarial=StandardGAN(), weights={"adversarial": None})


def test_a_weight_without_a_stage_is_for_the_stages_that_have_weights():
    stages = plan(["experiment=quickstart", "loss.weights.ssim=0.5"]).stages
    assert formula(build(stages[0].config["loss"])) == "L1Loss"
    assert "0.5 ssim (SSIMLoss)" in formula(build(stages[1].config["loss"]))
    with pytest.raises(ConfigError, match=r"the loss of stage psnr is L1Loss, one term; .* psnr\.loss=content"):
        plan(["experiment=quickstart", "psnr.loss.weights.ssim=0.5"])


def test_a_term_without_a_weight_does_not_stop_a_run_of_an_earlier_version():
    config = plan(["experiment=quickstart"]).stages[1].config
    loss = {k: v for k, v in config["loss"].items() if k != "terms"}
    earlier = {**config, "loss": {**loss, "weights": {k: v for k, v in loss["weights"].items() if v is not None}},
               "curve": {k: v for k, v in config["curve"].items() if k != "warmup"}}  # fmt: skip
    assert differences(earlier, config) == []
    used = {**config, "loss": {**config["loss"], "weights": {**config["loss"]["weights"], "ssim": 1.0}}}
    assert any("ssim" in line for line in differences(earlier, used))
