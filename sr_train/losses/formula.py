"""The terms of a loss with their weights in one line, as a run prints them."""

from __future__ import annotations

from torch import nn

from sr_train.losses.gan import GANLoss
from sr_train.losses.perceptual import PerceptualLoss
from sr_train.losses.weighted import Weighted


def formula(loss: nn.Module) -> str:
    """Return e.g. ``0.01 pixel (L1Loss) + 1 perceptual (l1 of conv5_4 1) + 0.005 adversarial (RelativisticAverage)``."""
    if isinstance(loss, Weighted):
        terms = dict(loss.terms.items())
    elif isinstance(loss, GANLoss):
        found = {"pixel": loss.pixel, "perceptual": loss.perceptual, "adversarial": loss.adversarial}
        terms = {name: term for name, term in found.items() if term is not None}
    else:
        return _term(loss)
    return " + ".join(f"{loss.weights[name]:g} {name} ({_term(term)})" for name, term in terms.items())


def _term(term: object) -> str:
    if isinstance(term, PerceptualLoss):
        return f"{term.criterion} of {', '.join(f'{name} {weight:g}' for name, weight in term.layers.items())}"
    return type(term).__name__
