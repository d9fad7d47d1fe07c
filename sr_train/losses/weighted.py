"""Weighted sums of losses. Each term has a name, which is used in the logs and for the weight in the config."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

Parts = dict[str, torch.Tensor]  #: unweighted scalars by name


def check_weights(weights: Mapping[str, float], names: list[str]) -> None:
    """Raise ValueError unless there is one weight of at least 0 for each name."""
    unknown = [n for n in weights if n not in names]
    missing = [n for n in names if n not in weights]
    if unknown or missing:
        raise ValueError(f"weights are given for {', '.join(weights)}; expected one for each of {', '.join(names)}")
    wrong = [f"{name}={weight:g}" for name, weight in weights.items() if not 0 <= weight < math.inf]
    if wrong:
        raise ValueError(f"weights: {', '.join(wrong)}: expected numbers of at least 0")


def weighted_sum(parts: Parts, weights: Mapping[str, float]) -> torch.Tensor:
    """Return the sum of named losses times their weights, a scalar."""
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


class Weighted(nn.Module):
    """Weighted sum of named losses: sr and hr, [B, C, H, W] each in [0, 1] -> scalar. For tasks with one network.

    Args:
        terms: {name: module (sr, hr) -> scalar}; terms that are ``None`` are left out.
        weights: {name: factor}, one for each name.
    """

    def __init__(self, *, terms: Mapping[str, nn.Module | None], weights: Mapping[str, float]) -> None:
        super().__init__()
        check_weights(weights, list(terms))
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})
        if not self.terms:
            raise ValueError("terms: all are null; the loss needs at least one")
        self.weights = dict(weights)

    def parts(self, sr: torch.Tensor, hr: torch.Tensor) -> Parts:
        """Return the unweighted terms by name."""
        return {name: term(sr, hr) for name, term in self.terms.items()}

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        return weighted_sum(self.parts(sr, hr), self.weights)


def loss_and_parts(loss: nn.Module, sr: torch.Tensor, hr: torch.Tensor) -> tuple[torch.Tensor, Parts]:
    """Return (value of a loss, {name: unweighted term} for the logs). Only a :class:`Weighted` loss has terms."""
    if not isinstance(loss, Weighted):
        return loss(sr, hr), {}
    parts = loss.parts(sr, hr)
    return weighted_sum(parts, loss.weights), parts
