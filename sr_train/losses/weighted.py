"""Weighted sums of losses. Each term has a name, which is used in the logs and for the weight in the config."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

Parts = dict[str, torch.Tensor]  #: unweighted scalars by name

_NUMBERS = ("loss", "rate", "grad_norm", "refused", "skipped")  # other numbers in the logs of every task

_RESERVED = nn.ModuleDict()  # its attributes cannot be names of terms


def used_terms(terms: Mapping[str, nn.Module | None], weights: Mapping[str, float | None]) -> dict[str, nn.Module]:
    """Return the terms of a loss that are used: neither the term nor its weight is ``None``.

    Raise ValueError for a term without a weight, a weight without a term, a weight below 0, and a name that cannot be used.
    """
    taken = [n for n in terms if not n or "." in n or n in _NUMBERS or hasattr(_RESERVED, n)]
    if taken:
        raise ValueError(f"terms: {', '.join(map(repr, taken))}: these names cannot be used for terms; choose others")
    unknown = [name for name, weight in weights.items() if name not in terms and weight is not None]
    missing = [name for name, term in terms.items() if term is not None and name not in weights]
    if unknown or missing:
        wrong = [f"without a weight: {', '.join(missing)}"] if missing else []
        wrong += [f"without a term: {', '.join(unknown)}"] if unknown else []
        raise ValueError(
            f"weights are given for {given_names(weights)}; expected one for each of {given_names(terms)}; "
            f"{'; '.join(wrong)}. A term is added by loss.terms.NAME={{_target_: CLASS}} and loss.weights.NAME=NUMBER"
        )
    wrong = [
        f"{name}={weight:g}" for name, weight in weights.items() if weight is not None and not 0 <= weight < math.inf
    ]
    if wrong:
        raise ValueError(f"weights: {', '.join(wrong)}: expected numbers of at least 0")
    return {name: term for name, term in terms.items() if term is not None and weights[name] is not None}


def given_names(entries: Mapping[str, object]) -> str:
    """Return the names of the entries that are not ``None``, for messages; ``nothing`` without any."""
    return ", ".join(name for name, value in entries.items() if value is not None) or "nothing"


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
