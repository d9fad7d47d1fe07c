"""Weighted sums of losses. Each term has a name, which is used in the logs and for the weight in the config."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

Parts = dict[str, torch.Tensor]  #: unweighted scalars by name


def used_terms(terms: Mapping[str, nn.Module | None], weights: Mapping[str, float | None]) -> dict[str, nn.Module]:
    """Return the terms of a loss that are used: neither the term nor its weight is ``None``.

    Raise ValueError for a term without a weight, a weight without a term, and a weight below 0.
    """
    unknown = [name for name in weights if name not in terms]
    missing = [name for name, term in terms.items() if term is not None and name not in weights]
    if unknown or missing:
        raise ValueError(
            f"weights are given for {', '.join(weights)}; expected one for each of {', '.join(terms)}; a term is added by "
            "loss.terms.NAME={_target_: CLASS} and loss.weights.NAME=NUMBER"
        )
    wrong = [
        f"{name}={weight:g}" for name, weight in weights.items() if weight is not None and not 0 <= weight < math.inf
    ]
    if wrong:
        raise ValueError(f"weights: {', '.join(wrong)}: expected numbers of at least 0")
    return {name: term for name, term in terms.items() if term is not None and weights[name] is not None}


def weighted_sum(parts: Parts, weights: Mapping[str, float]) -> torch.Tensor:
    """Return the sum of named losses times their weights, a scalar."""
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


class Weighted(nn.Module):
    """Weighted sum of named losses: sr and hr, [B, C, H, W] each in [0, 1] -> scalar. For tasks with one network.

    Args:
        terms: {name: module (sr, hr) -> scalar}; terms that are ``None`` are left out.
        weights: {name: factor}, one for each name. A term whose weight is ``None`` is left out; a term with the weight 0 is
            computed for the logs.
    """

    def __init__(self, *, terms: Mapping[str, nn.Module | None], weights: Mapping[str, float | None]) -> None:
        super().__init__()
        used = used_terms(terms, weights)
        if not used:
            raise ValueError("terms: all are null, or their weights are; the loss needs at least one")
        self.terms = nn.ModuleDict(used)
        self.weights = {name: weight for name, weight in weights.items() if weight is not None}

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
