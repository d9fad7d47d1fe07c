"""Losses of a GAN's generator (G) and discriminator (D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from sr_train.losses.weighted import Parts, given_names, used_terms, weighted_sum


class Adversarial(Protocol):
    """Protocol of an adversarial loss on logits [B, 1] or [B, 1, h, w], e.g. of :mod:`sr_train.losses.adversarial`.

    Each method returns a scalar. G is the generator, D the discriminator.
    """

    needs_real: bool  #: True if G's loss needs D's logits of HR images; if False, these logits may be ``None``

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the adversarial term of the loss of the generator G."""
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of the discriminator D."""
        ...

    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of images that the discriminator D classifies correctly."""
        ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """Protocol of a loss for ``task=gan``, which trains a generator (G) and a discriminator (D), e.g. :class:`GANLoss`.

    Parts are detached terms of the loss for the logs.
    """

    @property
    def needs_real(self) -> bool:
        """Return true if the generator's loss needs the discriminator's logits of the HR images."""
        ...

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, *, real_logits: torch.Tensor | None, fake_logits: torch.Tensor
    ) -> tuple[torch.Tensor, Parts]:
        """Return the generator's loss, a scalar, and the parts of this loss.

        ``sr`` and ``hr`` are images [B, C, H, W] each. ``real_logits`` are the discriminator's logits [B, 1] for
        ``hr``, ``fake_logits`` the discriminator's logits [B, 1] for ``sr``.
        """
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Parts]:
        """Return the loss of the discriminator D, a scalar, and the parts of this loss, which include ``accuracy``.

        ``real_logits`` are D's logits [B, 1] for HR images, ``fake_logits`` D's logits [B, 1] for detached SR images.
        """
        ...


#: Names of other terms and of numbers in the logs.
_NAMES = ("pixel", "perceptual", "adversarial", "loss", "generator", "discriminator", "accuracy", "real_logit", "fake_logit",
          "color_shift", "penalty", "refused", "skipped")  # fmt: skip


class GANLoss(nn.Module):
    """Loss of ``task=gan`` for a generator (G) and a discriminator (D).

    G's loss is a weighted sum of content terms (pixel, perceptual and others by name) and the adversarial term. D's loss is
    the adversarial loss. The task contains the networks; the loss gets only images and logits. In a step, D is frozen while
    G's loss is computed::

        sr = model(lr)
        real = discriminator(hr) if loss.needs_real else None  # under no_grad
        g_loss, g_parts = loss.generator(sr, hr, real_logits=real, fake_logits=discriminator(sr))
        d_loss, d_parts = loss.discriminator(discriminator(hr), discriminator(sr.detach()))

    Parts are unweighted and detached, for the logs: ``pixel``, ``perceptual``, ``adversarial`` for G;
    ``discriminator``, ``real_logit``, ``fake_logit`` (the batch's means), ``accuracy`` for D. G's loss is the sum of
    weight times part.

    Args:
        adversarial: adversarial terms, e.g. from :mod:`sr_train.losses.adversarial`.
        weights: {name: factor} of each term: ``adversarial``, ``pixel``, ``perceptual`` and the names in ``terms``. A content
            term whose weight is ``None`` is left out. The weight of a term that is ``None`` is optional and ignored.
        perceptual: module (sr, hr) -> scalar; ``None`` for no perceptual term.
        pixel: module (sr, hr) -> scalar; ``None`` for no pixel term.
        terms: other content terms, {name: module (sr, hr) -> scalar}; terms that are ``None`` are left out.
    """

    def __init__(
        self,
        *,
        adversarial: Adversarial,
        weights: Mapping[str, float | None],
        perceptual: nn.Module | None = None,
        pixel: nn.Module | None = None,
        terms: Mapping[str, nn.Module | None] | None = None,
    ) -> None:
        super().__init__()
        content = {"pixel": pixel, "perceptual": perceptual, **(terms or {})}
        taken = [name for name in terms or {} if name in _NAMES]
        if taken:
            raise ValueError(f"terms: {', '.join(taken)}: another term or number has this name; choose another")
        if weights.get("adversarial") is None:
            raise ValueError(
                f"weights are given for {given_names(weights)}; the adversarial term has none: give "
                "loss.weights.adversarial=NUMBER (0: computed for the logs)"
            )
        used = used_terms({"adversarial": nn.Identity(), **content}, weights)
        self.adversarial = adversarial
        self.terms = nn.ModuleDict({name: term for name, term in used.items() if name != "adversarial"})
        self.weights = {name: weight for name, weight in weights.items() if weight is not None}

    @property
    def pixel(self) -> nn.Module | None:
        """Pixel term; None without it."""
        return dict(self.terms.items()).get("pixel")

    @property
    def perceptual(self) -> nn.Module | None:
        """Perceptual term; None without it."""
        return dict(self.terms.items()).get("perceptual")

    @property
    def needs_real(self) -> bool:
        """Return true if the generator's loss needs the discriminator's logits of the HR images."""
        return self.adversarial.needs_real

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, *, real_logits: torch.Tensor | None, fake_logits: torch.Tensor
    ) -> tuple[torch.Tensor, Parts]:
        """Return the generator's loss, a scalar, and the unweighted parts of this loss.

        Args:
            sr: [B, C, H, W], attached to the generator's graph.
            hr: [B, C, H, W] in [0, 1].
            real_logits: output D(hr) of the discriminator D, [B, 1]; may be ``None`` if ``needs_real`` is false.
            fake_logits: D(sr), [B, 1], attached to the graph through ``sr``.
        """
        parts: Parts = {name: term(sr.float(), hr) for name, term in self.terms.items()}
        parts["adversarial"] = self.adversarial.generator(real_logits, fake_logits)
        return weighted_sum(parts, self.weights), {name: part.detach() for name, part in parts.items()}

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Parts]:
        """Return the discriminator's (D's) loss, a scalar, and the parts of this loss.

        Args:
            real_logits: output D(hr) of the discriminator, [B, 1].
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
