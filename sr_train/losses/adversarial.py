"""Adversarial losses. Inputs are logits of a discriminator (D), positive for real images.

Logits are [B, 1], one per image, or [B, 1, h, w], one per pixel or region; means are over images and pixels. Each loss
has three methods with the arguments (real_logits, fake_logits). ``generator`` and ``discriminator`` return a scalar, the
mean over this process's batch. ``accuracy`` returns the share of this batch that D classifies correctly. If all processes
have the same number of samples, ddp's average of the gradients over processes is the gradient of the global batch.

In the formulas, r are the logits of real images, f those of generated images, and E is the mean.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def _full(logits: torch.Tensor) -> torch.Tensor:
    """Return logits in float32, or in float64 if they are in float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _real(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log sigmoid(logits), which is small for logits that mean real."""
    return F.softplus(-_full(logits)).mean()


def _fake(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log (1 - sigmoid(logits)), which is small for logits that mean fake."""
    return F.softplus(_full(logits)).mean()


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
    mean = _full(logits).mean()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return mean
    averaged = _MeanOverProcesses.apply(mean)
    assert isinstance(averaged, torch.Tensor)
    return averaged


def _check_label(real_label: float) -> None:
    if not 0.5 < real_label <= 1:
        raise ValueError(
            f"loss.adversarial.real_label={real_label} must be above 0.5 and at most 1: 1 for the paper's loss, e.g. 0.9 for "
            "label smoothing"
        )


class StandardGAN(nn.Module):
    """Binary cross-entropy (Goodfellow et al. 2014, section 3), as SRGAN and Real-ESRGAN use it.

    D: E[-log s(r)] + E[-log(1 - s(f))], G: E[-log s(f)], the form that does not saturate; s is the sigmoid. G's loss does
    not depend on the logits of real images (``needs_real`` is false), so they may be ``None``.

    Args:
        real_label: target t of D for real images. Below 1 it is one-sided label smoothing (Salimans et al. 2016, section
            3.4): D's first term is E[-t log s(r) - (1 - t) log(1 - s(r))]. G's loss does not change; with BasicSR's
            ``real_label_val`` it does.
    """

    needs_real = False

    def __init__(self, *, real_label: float = 1.0) -> None:
        super().__init__()
        _check_label(real_label)
        self.real_label = real_label

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss: the batch mean of -log D(G(LR)) (SRGAN eq. 6).

        The paper has a sum instead of the mean.
        """
        return _real(fake_logits)

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's loss: the batch mean of -log D(HR) - log(1 - D(G(LR))) (SRGAN eq. 2)."""
        real = _real(real_logits)
        if self.real_label != 1:
            real = self.real_label * real + (1 - self.real_label) * _fake(real_logits)
        return real + _fake(fake_logits)

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of correct logits.

        Logits are correct if positive for real images and negative for fake images.
        """
        return _share(real_logits > 0, fake_logits < 0)


class RelativisticAverage(nn.Module):
    """Relativistic average GAN (Jolicoeur-Martineau 2018; ESRGAN section 3.2).

    Each logit is compared with the average logit of the other kind. D: (E[-log s(r - E f)] + E[-log(1 - s(f - E r))]) / 2,
    G: (E[-log(1 - s(r - E f))] + E[-log s(f - E r)]) / 2; s is the sigmoid. The averages are over the global batch, and
    over all pixels of logits [B, 1, h, w]. In the losses of G and of D, gradients also flow through the averages, as in
    the authors' code of 2018 and 2019. Both losses are the mean of two terms, as in all public code. The paper has the
    sum of the terms, so the paper's weight of 5e-3 has half the effect here.

    Args:
        detach_means: true to detach the averages in D's loss, as BasicSR does. Its gradients are then about half as
            large. G's loss does not change.
    """

    needs_real = True

    def __init__(self, *, detach_means: bool = False) -> None:
        super().__init__()
        self.detach_means = detach_means

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
        real_mean, fake_mean = global_mean(real_logits), global_mean(fake_logits)
        if self.detach_means:
            real_mean, fake_mean = real_mean.detach(), fake_mean.detach()
        return (_real(real_logits - fake_mean) + _fake(fake_logits - real_mean)) / 2

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of correct logits.

        A real image's logit is correct above the mean fake logit; a fake image's logit is correct below the mean real
        logit.
        """
        return _share(real_logits > fake_logits.mean(), fake_logits < real_logits.mean())


class LeastSquares(nn.Module):
    """Least squares GAN (Mao et al. 2017, with a = 0 and b = c = 1): logits are compared with the labels 1 (real) and 0 (fake).

    D: E[(r - t)^2] + E[f^2], G: E[(f - 1)^2]. The paper has half of both; public code has no factor, nor has this class.

    Args:
        real_label: target t of D for real images, 1 in the paper; below 1 it is one-sided label smoothing. G's target
            stays 1.
    """

    needs_real = False

    def __init__(self, *, real_label: float = 1.0) -> None:
        super().__init__()
        _check_label(real_label)
        self.real_label = real_label

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss, the mean of (D(G(LR)) - 1)^2."""
        return (_full(fake_logits) - 1).square().mean()

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's loss, the mean of (D(HR) - real_label)^2 plus the mean of D(G(LR))^2."""
        return (_full(real_logits) - self.real_label).square().mean() + _full(fake_logits).square().mean()

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of logits that are nearer to the label of their own kind than to the other label."""
        return _share(real_logits > self.real_label / 2, fake_logits < self.real_label / 2)


class Hinge(nn.Module):
    """Hinge loss (Lim and Ye 2017; Miyato et al. 2018).

    D: E[max(0, 1 - r)] + E[max(0, 1 + f)], G: -E[f]. Logits beyond the margins of 1 and -1 have no effect on D.
    """

    needs_real = False

    def __init__(self) -> None:
        super().__init__()

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss, minus the mean of D(G(LR))."""
        return -_full(fake_logits).mean()

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's loss, the mean of max(0, 1 - D(HR)) plus the mean of max(0, 1 + D(G(LR)))."""
        return F.relu(1 - _full(real_logits)).mean() + F.relu(1 + _full(fake_logits)).mean()

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of correct logits: positive for real images, negative for fake images."""
        return _share(real_logits > 0, fake_logits < 0)


class Wasserstein(nn.Module):
    """Wasserstein GAN (Arjovsky et al. 2017, section 3): D's loss is minus an estimate of the distance of two distributions.

    D: E[f] - E[r], G: -E[f]. This is an estimate only if D is Lipschitz continuous: use spectral normalization
    (``discriminator=unet_sn``) or a gradient penalty. The clipping of D's weights, as in the paper, is not built in. Logits
    have no zero point, and a D that is far ahead does not harm G.
    """

    needs_real = False

    def __init__(self) -> None:
        super().__init__()

    def generator(self, real_logits: torch.Tensor | None, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss, minus the mean of D(G(LR))."""
        return -_full(fake_logits).mean()

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's loss, the mean of D(G(LR)) minus the mean of D(HR)."""
        return _full(fake_logits).mean() - _full(real_logits).mean()

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the share of logits that lie on the right side of the midpoint between the two means."""
        middle = (_full(real_logits).mean() + _full(fake_logits).mean()) / 2
        return _share(real_logits > middle, fake_logits < middle)
