"""Adversarial losses on the discriminator's logits, [B, 1], positive for real: of SRGAN and of ESRGAN.

Each has ``generator(real_logits, fake_logits)`` and ``discriminator(real_logits, fake_logits)``, both -> scalar, a mean
over this process' batch, and ``accuracy(real_logits, fake_logits)``, the share of this batch that D is right about.
Averaging gradients over processes, as ddp does, gives the gradient of the global batch, as long as all processes have
equally many samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def _real(logits: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(logits), the mean: small where they say real."""
    return F.softplus(-logits.float()).mean()


def _fake(logits: torch.Tensor) -> torch.Tensor:
    """-log (1 - sigmoid(logits)), the mean: small where they say fake."""
    return F.softplus(logits.float()).mean()


def _share(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Of true ones, of both halves."""
    return (real.float().mean() + fake.float().mean()) / 2


class _MeanOverProcesses(torch.autograd.Function):
    """The mean of one number per process. Backward averages too: the mean stands in the loss of every process."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return _averaged(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _averaged(gradient)


def _averaged(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def global_mean(logits: torch.Tensor) -> torch.Tensor:
    """The mean over the batches of all processes, in float32: [B, ...] -> scalar, with its gradient.

    A collective: every process must call it (and its backward) equally often, with equally many samples.
    """
    mean = logits.float().mean()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return mean
    averaged = _MeanOverProcesses.apply(mean)
    assert isinstance(averaged, torch.Tensor)
    return averaged


class StandardGAN(nn.Module):
    """Binary cross-entropy (Goodfellow et al. 2014), as SRGAN uses it.

    ``needs_real`` says whether the generator's term looks at the real images' logits: this one's does not, and may be
    given ``None`` for them.
    """

    needs_real = False

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """-log D(G(LR)) (SRGAN eq. 6, averaged where the paper sums)."""
        return _real(fake_logits)

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """-log D(HR) - log(1 - D(G(LR))) (SRGAN eq. 2)."""
        return _real(real_logits) + _fake(fake_logits)

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Real where the logit is positive."""
        return _share(real_logits > 0, fake_logits < 0)


class RelativisticAverage(nn.Module):
    """Relativistic average GAN (ESRGAN section 3.2): is real more real than the average fake, and fake less than real?

    The averages are over the global batch, and gradients flow through them in both steps, as in the authors' code of 2018
    and 2019 (BasicSR detaches them in D's step). Both losses are the mean of their two terms, as in all code; the paper
    writes the sum, so its weight of 5e-3 means half as much here as it says there.
    """

    needs_real = True

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """(-log(1 - D_Ra(real, fake)) - log D_Ra(fake, real)) / 2 (ESRGAN eqs. 1, 3); no gradient to the real logits."""
        if real_logits is None:
            raise ValueError("RelativisticAverage's generator term needs the logits of the real images")
        real = real_logits.detach()
        return (_fake(real - global_mean(fake_logits)) + _real(fake_logits - global_mean(real))) / 2

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """(-log D_Ra(real, fake) - log(1 - D_Ra(fake, real))) / 2 (ESRGAN eqs. 1, 2)."""
        real = real_logits - global_mean(fake_logits)
        fake = fake_logits - global_mean(real_logits)
        return (_real(real) + _fake(fake)) / 2

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Real above the average fake, fake below the average real: the logits' level means nothing here."""
        return _share(real_logits > fake_logits.mean(), fake_logits < real_logits.mean())
