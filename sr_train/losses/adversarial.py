"""Adversarial losses of SRGAN and ESRGAN. Inputs are logits [B, 1] of a discriminator (D), positive for real images.

Each loss has three methods with the arguments (real_logits, fake_logits). ``generator`` and ``discriminator`` return a
scalar, the mean over this process's batch. ``accuracy`` returns the share of this batch that D classifies correctly. If
all processes have the same number of samples, ddp's average of the gradients over processes is the gradient of the
global batch.
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
    """Return the share of true values in two boolean tensors, with equal weight for real and fake images."""
    return (real.float().mean() + fake.float().mean()) / 2


class _MeanOverProcesses(torch.autograd.Function):
    """Mean over processes of one number of each process.

    The loss of every process contains this mean. Therefore the backward pass also averages the gradients over
    processes.
    """

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
    """Return the mean of logits over the batches of all processes, in float32, with gradients: [B, ...] -> scalar.

    The processes communicate in this function and in its backward pass. So all processes must call both the same number
    of times, with the same number of samples.
    """
    mean = logits.float().mean()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return mean
    averaged = _MeanOverProcesses.apply(mean)
    assert isinstance(averaged, torch.Tensor)
    return averaged


class StandardGAN(nn.Module):
    """Binary cross-entropy (Goodfellow et al. 2014), as SRGAN uses it.

    The generator's loss does not depend on the logits of real images (``needs_real`` is false), so they may be
    ``None``.
    """

    needs_real = False

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss: the batch mean of -log D(G(LR)) (SRGAN eq. 6).

        The paper has a sum instead of the mean.
        """
        return _real(fake_logits)

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's loss: the batch mean of -log D(HR) - log(1 - D(G(LR))) (SRGAN eq. 2)."""
        return _real(real_logits) + _fake(fake_logits)

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of correct logits.

        Logits are correct if positive for real images and negative for fake images.
        """
        return _share(real_logits > 0, fake_logits < 0)


class RelativisticAverage(nn.Module):
    """Relativistic average GAN (ESRGAN section 3.2): each logit is compared with the average logit of the other kind.

    The averages are over the global batch. In the losses of G and of D, gradients also flow through the averages, as in
    the authors' code of 2018 and 2019; BasicSR detaches the averages in D's loss. Both losses are the mean of two
    terms, as in all public code. The paper has the sum of the terms, so the paper's weight of 5e-3 has half the effect
    here.
    """

    needs_real = True

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return G's loss, a scalar: half of the batch mean of -log(1 - D_Ra(real, fake)) - log D_Ra(fake, real).

        D_Ra(x, y) is the sigmoid of the logit of x minus the mean logit of y (ESRGAN eqs. 1, 3). ``real_logits`` are
        detached, so only the fake logits get gradients. Gradients also flow through the average of the fake logits.
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
        """Return the share of correct logits.

        A real image's logit is correct above the mean fake logit; a fake image's logit is correct below the mean real
        logit.
        """
        return _share(real_logits > fake_logits.mean(), fake_logits < real_logits.mean())
