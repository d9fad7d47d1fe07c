"""Weighted sums of losses whose parts are known by name: for logs, and for weights that are typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

Parts = dict[str, torch.Tensor]  #: unweighted scalars by name


def _check_weights(weights: Mapping[str, float], names: list[str]) -> None:
    unknown = [n for n in weights if n not in names]
    missing = [n for n in names if n not in weights]
    if unknown or missing:
        raise ValueError(f"weights for {', '.join(weights)}; expected one for each of {', '.join(names)}")


def _total(parts: Parts, weights: Mapping[str, float]) -> torch.Tensor:
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


class Weighted(nn.Module):
    """Sum of named losses times their weights: [B, C, H, W] in [0, 1] twice -> scalar. For tasks with one network.

    Args:
        terms: {name: (sr, hr) -> scalar}; ``None`` leaves a term out.
        weights: {name: factor}, one for each name.
    """

    def __init__(self, *, terms: Mapping[str, nn.Module | None], weights: Mapping[str, float]) -> None:
        super().__init__()
        _check_weights(weights, list(terms))
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})
        if not self.terms:
            raise ValueError("terms: nothing is left of the loss")
        self.weights = dict(weights)

    def parts(self, sr: torch.Tensor, hr: torch.Tensor) -> Parts:
        """Each term by name, not yet weighted."""
        return {name: term(sr, hr) for name, term in self.terms.items()}

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """The loss; see the class."""
        return _total(self.parts(sr, hr), self.weights)


def loss_and_parts(loss: nn.Module, sr: torch.Tensor, hr: torch.Tensor) -> tuple[torch.Tensor, Parts]:
    """A loss, and of a :class:`Weighted` one its terms, not yet weighted, for the logs."""
    if not isinstance(loss, Weighted):
        return loss(sr, hr), {}
    parts = loss.parts(sr, hr)
    return _total(parts, loss.weights), parts


class Adversarial(Protocol):
    """What :mod:`sr_train.losses.adversarial` has."""

    needs_real: bool

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """G's term."""
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """D's loss."""
        ...

    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Share of the images that D is right about."""
        ...


class GANLoss(nn.Module):
    """What a GAN task minimizes: for G a weighted sum of content and adversarial terms, for D its adversarial loss.

    The networks stay with the task; this sees images and logits. A step, D frozen while G's loss is computed::

        sr = model(lr)
        real = discriminator(hr) if loss.needs_real else None  # under no_grad: it gets no gradient anyway
        g_loss, g_parts = loss.generator(sr, hr, real_logits=real, fake_logits=discriminator(sr))
        d_loss, d_parts = loss.discriminator(discriminator(hr), discriminator(sr.detach()))

    Parts are unweighted and detached, for the logs: ``pixel``, ``perceptual``, ``adversarial`` for G; ``discriminator``,
    ``real_logit``, ``fake_logit`` (the batch's means), ``accuracy`` for D. The total of G is the sum of weight times part.

    Args:
        adversarial: of :mod:`sr_train.losses.adversarial`.
        weights: factor of each: ``adversarial``, and ``pixel`` and ``perceptual`` unless they are ``None``, when a weight
            is ignored.
        perceptual: (sr, hr) -> scalar; ``None`` for none.
        pixel: (sr, hr) -> scalar; ``None`` for none.
    """

    def __init__(
        self,
        *,
        adversarial: Adversarial,
        weights: Mapping[str, float],
        perceptual: nn.Module | None = None,
        pixel: nn.Module | None = None,
    ) -> None:
        super().__init__()
        names = ["adversarial", "perceptual", "pixel"]
        present = [n for n, term in zip(names, (adversarial, perceptual, pixel), strict=True) if term is not None]
        _check_weights({n: w for n, w in weights.items() if n in present or n not in names}, present)
        self.adversarial = adversarial
        self.perceptual = perceptual
        self.pixel = pixel
        self.weights = dict(weights)

    @property
    def needs_real(self) -> bool:
        """Whether G's loss needs the logits of HR."""
        return self.adversarial.needs_real

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, *, real_logits: torch.Tensor | None, fake_logits: torch.Tensor
    ) -> tuple[torch.Tensor, Parts]:
        """G's loss and its parts.

        Args:
            sr: [B, 3, H, W], with the generator's graph.
            hr: [B, 3, H, W] in [0, 1].
            real_logits: D(hr), [B, 1]; may be ``None`` where not ``needs_real``.
            fake_logits: D(sr), [B, 1], with the graph through ``sr``.
        """
        parts: Parts = {}
        if self.pixel is not None:
            parts["pixel"] = self.pixel(sr.float(), hr)
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(sr, hr)
        parts["adversarial"] = self.adversarial.generator(real_logits, fake_logits)
        return _total(parts, self.weights), {name: part.detach() for name, part in parts.items()}

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Parts]:
        """D's loss and its parts.

        Args:
            real_logits: D(hr), [B, 1].
            fake_logits: D(sr.detach()), [B, 1].
        """
        loss = self.adversarial.discriminator(real_logits, fake_logits)
        parts = {
            "discriminator": loss,
            "real_logit": real_logits.float().mean(),
            "fake_logit": fake_logits.float().mean(),
            "accuracy": self.adversarial.accuracy(real_logits, fake_logits),
        }
        return loss, {name: part.detach() for name, part in parts.items()}
