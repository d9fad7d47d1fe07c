"""Losses of a GAN's generator (G) and discriminator (D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from sr_train.losses.weighted import Parts, check_weights, weighted_sum


class Adversarial(Protocol):
    """Adversarial terms on logits [B, 1], e.g. from :mod:`sr_train.losses.adversarial`. Each method returns a scalar."""

    needs_real: bool  #: True if G's term needs the logits of HR; if not, they may be ``None``

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return G's term."""
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return D's loss."""
        ...

    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of images that D classifies correctly."""
        ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """Loss for two networks, as ``task=gan`` needs it, e.g. :class:`GANLoss`. Parts are detached and for the logs."""

    @property
    def needs_real(self) -> bool:
        """Return true if G's loss needs the logits of HR."""
        ...

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, *, real_logits: torch.Tensor | None, fake_logits: torch.Tensor
    ) -> tuple[torch.Tensor, Parts]:
        """Return G's loss, a scalar, and its parts for [B, C, H, W] twice and logits [B, 1]."""
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Parts]:
        """Return D's loss, a scalar, and its parts, among them ``accuracy``, for logits [B, 1] of HR and of detached SR."""
        ...


class GANLoss(nn.Module):
    """Loss of a GAN task: for G a weighted sum of content and adversarial terms, for D its adversarial loss.

    The task holds the networks; the loss gets images and logits. In a step, D is frozen while G's loss is computed::

        sr = model(lr)
        real = discriminator(hr) if loss.needs_real else None  # under no_grad
        g_loss, g_parts = loss.generator(sr, hr, real_logits=real, fake_logits=discriminator(sr))
        d_loss, d_parts = loss.discriminator(discriminator(hr), discriminator(sr.detach()))

    Parts are unweighted and detached, for the logs: ``pixel``, ``perceptual``, ``adversarial`` for G; ``discriminator``,
    ``real_logit``, ``fake_logit`` (the batch's means), ``accuracy`` for D. G's loss is the sum of weight times part.

    Args:
        adversarial: adversarial terms, e.g. from :mod:`sr_train.losses.adversarial`.
        weights: factor of each term: ``adversarial``, ``pixel`` and ``perceptual``. The weight of a term that is ``None`` is
            optional and ignored.
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
        check_weights({n: w for n, w in weights.items() if n in present or n not in names}, present)
        self.adversarial = adversarial
        self.perceptual = perceptual
        self.pixel = pixel
        self.weights = dict(weights)

    @property
    def needs_real(self) -> bool:
        """Return true if G's loss needs the logits of HR."""
        return self.adversarial.needs_real

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, *, real_logits: torch.Tensor | None, fake_logits: torch.Tensor
    ) -> tuple[torch.Tensor, Parts]:
        """Return G's loss and its parts.

        Args:
            sr: [B, C, H, W], attached to the generator's graph.
            hr: [B, C, H, W] in [0, 1].
            real_logits: D(hr), [B, 1]; may be ``None`` if ``needs_real`` is false.
            fake_logits: D(sr), [B, 1], attached to the graph through ``sr``.
        """
        parts: Parts = {}
        if self.pixel is not None:
            parts["pixel"] = self.pixel(sr.float(), hr)
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(sr, hr)
        parts["adversarial"] = self.adversarial.generator(real_logits, fake_logits)
        return weighted_sum(parts, self.weights), {name: part.detach() for name, part in parts.items()}

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Parts]:
        """Return D's loss and its parts.

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
