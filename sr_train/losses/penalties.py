"""Penalties on the gradient of a discriminator (D) with respect to images: R1 and WGAN-GP, for ``task.penalty``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

Discriminator = Callable[[torch.Tensor], torch.Tensor]  #: images [B, C, H, W] -> logits [B, 1] or [B, 1, H', W']


@runtime_checkable
class Penalty(Protocol):
    """Protocol of a penalty, a term of the loss of the discriminator D that sees images and D.

    ``task=gan`` adds ``weight * every * penalty(...)`` to the loss of D in each step whose number is a multiple of ``every``.
    The factor ``every`` keeps the mean strength (lazy regularization, Karras et al. 2020, appendix B). A penalty may also
    have a method ``check(discriminator)``, which raises ValueError for a discriminator that does not fit.
    """

    weight: float  #: factor of the penalty
    every: int  #: interval in steps

    def __call__(
        self, discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, uniform: torch.Tensor
    ) -> torch.Tensor:
        """Return the penalty of one micro-batch, a scalar (a mean over its images) with a gradient for the parameters of D.

        Args:
            discriminator: D; the penalty may call it again, in float32.
            real: HR images [B, C, H, W] in [0, 1].
            fake: generated images [B, C, H, W], without a graph.
            uniform: [B] numbers in [0, 1), one per image. They depend only on the seed, the stage and the position of the
                sample in the run, so random choices that are made from them are the same after a resume and for any number
                of processes.
        """
        ...


class _GradientPenalty:
    """Weight and interval of a penalty."""

    def __init__(self, *, weight: float = 10.0, every: int = 1) -> None:
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"penalty: weight={weight} must be a positive number; task.penalty=null trains without it")
        if every < 1:
            raise ValueError(f"penalty: every={every} must be a number of steps, at least 1")
        self.weight = weight
        self.every = every

    def __repr__(self) -> str:
        interval = "" if self.every == 1 else f" every {self.every} steps"
        return f"{self.weight:g} {type(self).__name__}{interval}"


class R1(_GradientPenalty):
    """R1 of Mescheder et al. 2018, eq. 9: weight * 1/2 * mean over HR images x of ||dD(x)/dx||^2.

    D(x) is the logit of an image; for a discriminator with several logits per image, their mean. The squared norm is the sum
    over all channels and pixels.

    Args:
        weight: gamma of the paper; 10 in its experiments.
        every: interval in steps; 16 in StyleGAN2, which calls this lazy regularization. The weight is multiplied by it.
    """

    def __call__(
        self, discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, uniform: torch.Tensor
    ) -> torch.Tensor:
        """Return 1/2 * mean of ||dD(x)/dx||^2 over the HR images."""
        return _gradients(discriminator, real).square().sum(1).mean() / 2


class WGANGP(_GradientPenalty):
    """Gradient penalty of Gulrajani et al. 2017, eq. 3: weight * mean over images x of (||dD(x)/dx|| - 1)^2.

    x = u * HR + (1 - u) * SR, where u in [0, 1) is drawn for each pair. D(x) is the logit of an image; for a discriminator
    with several logits per image, their mean. Discriminators with BatchNorm are refused: the penalty is defined for a D that
    maps each image by itself (section 4 of the paper).

    Args:
        weight: lambda of the paper; 10 in its experiments.
        every: interval in steps; 1 in the paper. The weight is multiplied by it.
    """

    def check(self, discriminator: nn.Module) -> None:
        """Raise ValueError for a discriminator with BatchNorm."""
        if any(isinstance(m, _BatchNorm) for m in discriminator.modules()):
            raise ValueError(
                f"task.penalty: WGANGP needs a discriminator without BatchNorm (Gulrajani et al. 2017, section 4), but "
                f"{type(discriminator).__name__} has BatchNorm. Choose another discriminator, or R1"
            )

    def __call__(
        self, discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, uniform: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean of (||dD(x)/dx|| - 1)^2 over images between HR and SR."""
        share = uniform.to(real).view(-1, 1, 1, 1)
        gradients = _gradients(discriminator, share * real + (1 - share) * fake)
        return (gradients.square().sum(1).sqrt() - 1).square().mean()


def _gradients(discriminator: Discriminator, images: torch.Tensor) -> torch.Tensor:
    """Return dD(x)/dx of each image, [B, C * H * W], with a graph for the parameters of D."""
    images = images.detach().requires_grad_()
    logits = discriminator(images).float().flatten(1).mean(1)  # one per image, so their sum has the gradient of each
    (found,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return found.flatten(1)
