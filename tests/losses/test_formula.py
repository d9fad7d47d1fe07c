"""The line that a run prints about its loss."""

from torch import nn

from sr_train.losses.adversarial import RelativisticAverage
from sr_train.losses.formula import formula
from sr_train.losses.gan import GANLoss
from sr_train.losses.perceptual import PerceptualLoss
from sr_train.losses.weighted import Weighted


class Features(nn.Module):
    channels = {"conv1_2": 64, "conv5_4": 512}  # noqa: RUF012
    minimum = 1


def test_every_term_is_named_with_its_weight():
    perceptual = PerceptualLoss(extractor=Features(), layers={"conv1_2": 0.1, "conv5_4": None})
    loss = GANLoss(
        adversarial=RelativisticAverage(),
        perceptual=perceptual,
        pixel=nn.L1Loss(),
        weights={"adversarial": 5e-3, "perceptual": 1.0, "pixel": 1e-2},
    )
    assert (
        formula(loss)
        == "0.01 pixel (L1Loss) + 1 perceptual (l1 of conv1_2 0.1) + 0.005 adversarial (RelativisticAverage)"
    )
    several = Weighted(terms={"a": nn.L1Loss(), "b": None, "c": nn.MSELoss()}, weights={"a": 1.0, "b": 2.0, "c": 0.5})
    assert formula(several) == "1 a (L1Loss) + 0.5 c (MSELoss)"
    assert formula(nn.MSELoss()) == "MSELoss"
