"""The terms of a loss with their weights in one line, as a run prints them."""

from __future__ import annotations

from torch import nn

from sr_train.losses.gan import GANLoss
from sr_train.losses.perceptual import PerceptualLoss
from sr_train.losses.weighted import Weighted


def formula(loss: nn.Module) -> str:
    """Return e.g. ``0.01 pixel (L1Loss) + 1 perceptual (l1 of conv5_4 1) + 0.005 adversarial (RelativisticAverage)``."""
    if not isinstance(loss, (Weighted, GANLoss)):
        return _term(loss)
    terms: dict[str, object] = dict(loss.terms.items())
    if isinstance(loss, GANLoss):
        terms["adversarial"] = loss.adversarial
    return " + ".join(f"{loss.weights[name]:g} {name} ({_term(term)})" for name, term in terms.items())


def _term(term: object) -> str:
    if isinstance(term, PerceptualLoss):
        return f"{term.criterion} of {', '.join(f'{name} {weight:g}' for name, weight in term.layers.items())}"
    return type(term).__name__
