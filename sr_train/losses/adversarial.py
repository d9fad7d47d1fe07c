"""Adversarial losses of SRGAN and ESRGAN, on the discriminator's logits, [B, 1], positive for real.

Each has ``generator(real_logits, fake_logits)`` and ``discriminator(real_logits, fake_logits)``, both -> scalar, the mean
over this process's batch, and ``accuracy(real_logits, fake_logits)``, the share of this batch that D classifies correctly.
The average of the gradients over processes, as in ddp, is the gradient of the global batch if all processes have equally
many samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def _real(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log sigmoid(logits), which is small for logits that mean real."""
    return F.softplus(-logits.float()).mean()


def _fake(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log (1 - sigmoid(logits)), which is small for logits that mean fake."""
    return F.softplus(logits.float()).mean()


def _share(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return the share of true values, with equal weight for real and fake images."""
    return (real.float().mean() + fake.float().mean()) / 2


class _MeanOverProcesses(torch.autograd.Function):
    """Mean of one number per process. Backward averages too, as the mean is in the loss of every process."""

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
    """Return the mean over the batches of all processes, in float32, with its gradient: [B, ...] -> scalar.

    It is a collective: all processes must call it and its backward equally often, with equally many samples.
    """
    mean = logits.float().mean()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return mean
    averaged = _MeanOverProcesses.apply(mean)
    assert isinstance(averaged, torch.Tensor)
    return averaged


class StandardGAN(nn.Module):
    """Binary cross-entropy (Goodfellow et al. 2014), as SRGAN uses it.

    Its generator term does not depend on the real images' logits (``needs_real``), so ``None`` may be given for them.
    """

    needs_real = False

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return -log D(G(LR)) (SRGAN eq. 6), averaged although the paper sums."""
        return _real(fake_logits)

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return -log D(HR) - log(1 - D(G(LR))) (SRGAN eq. 2)."""
        return _real(real_logits) + _fake(fake_logits)

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of correct logits: positive for real images, negative for fake ones."""
        return _share(real_logits > 0, fake_logits < 0)


class RelativisticAverage(nn.Module):
    """Relativistic average GAN (ESRGAN section 3.2): each logit is compared with the average logit of the other kind.

    The averages are over the global batch. Gradients flow through them in both steps, as in the authors' code of 2018 and
    2019; BasicSR detaches them in D's step. Both losses are the mean of their two terms, as in all public code. The paper
    has the sum, so its weight of 5e-3 has half the effect here.
    """

    needs_real = True

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return (-log(1 - D_Ra(real, fake)) - log D_Ra(fake, real)) / 2 (ESRGAN eqs. 1, 3).

        The real logits get no gradient.
        """
        if real_logits is None:
            raise ValueError("RelativisticAverage's generator term needs the logits of the real images")
        real = real_logits.detach()
        return (_fake(real - global_mean(fake_logits)) + _real(fake_logits - global_mean(real))) / 2

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return D's loss, a scalar: half of the batch mean of -log D_Ra(real, fake) - log(1 - D_Ra(fake, real)).

        D_Ra(x, y) is the sigmoid of the logit of x minus the mean logit of y (ESRGAN eqs. 1, 2).
        """
        real = real_logits - global_mean(fake_logits)
        fake = fake_logits - global_mean(real_logits)
        return (_real(real) + _fake(fake)) / 2

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of correct logits: real above the average fake, fake below the average real."""
        return _share(real_logits > fake_logits.mean(), fake_logits < real_logits.mean())
