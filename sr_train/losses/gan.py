"""Loss of a GAN's generator and discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from sr_train.losses.weighted import Parts, check_weights, weighted_sum


class Adversarial(Protocol):
    """Adversarial terms on logits [B, 1], e.g. one of :mod:`sr_train.losses.adversarial`. Each method returns a scalar."""

    needs_real: bool  #: whether G's term needs the logits of HR; without it they may be ``None``

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """G's term."""
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """D's loss."""
        ...

    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Share of the images that D is right about."""
        ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """A loss for two networks, as ``task=gan`` needs it, e.g. :class:`GANLoss`. Parts are for the logs, detached."""

    @property
    def needs_real(self) -> bool:
        """Return true if G's loss needs the logits of HR."""
        ...

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, *, real_logits: torch.Tensor | None, fake_logits: torch.Tensor
    ) -> tuple[torch.Tensor, Parts]:
        """[B, 3, H, W] twice and logits [B, 1] -> G's loss, a scalar, and its parts."""
        ...

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, Parts]:
        """Logits [B, 1] of HR and of detached SR -> D's loss, a scalar, and its parts, ``accuracy`` among them."""
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
        check_weights({n: w for n, w in weights.items() if n in present or n not in names}, present)
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
        return weighted_sum(parts, self.weights), {name: part.detach() for name, part in parts.items()}

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
