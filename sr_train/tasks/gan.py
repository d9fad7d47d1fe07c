"""GAN training (SRGAN, ESRGAN): generator and discriminator in one step, with one optimizer of two parameter groups."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sr_train.batch import Batch, to_float
from sr_train.losses.gan import AdversarialLoss
from sr_train.tasks.base import SRTask
from sr_train.tasks.curves import Curve
from sr_train.tasks.gan_watch import Watch


@contextmanager
def frozen(network: nn.Module) -> Generator[None, None, None]:
    """Freeze the parameters of ``network`` inside the ``with`` block.

    For an autograd graph that is built inside the block, gradients flow through the network, but not to its parameters.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class GANTask(SRTask):
    """Training of a generator G against a discriminator D: both are updated once per step, on the same generated images.

    G and D are updated at the same time. The result is bit for bit equal to two optimizers that step one after the
    other on one batch (``tests/tasks/test_gan.py``). One optimizer contains the parameters of both, so Lightning counts
    a step once, and accumulation, clipping and plain ddp work. Two optimizers in Lightning's manual mode would count
    each step twice, and accumulation, clipping and plain ddp would not work. There is one backward pass over the sum of
    both losses. This pass keeps the graphs of G, of the features, and of three calls of D. At the sizes of
    ``esrgan_x4`` this needs 6 % more memory than one backward pass per loss (``scripts/bench/gan_memory.py``).

    The averages in a relativistic loss and in BatchNorm are computed over one micro-batch of all devices together. If a
    step has several micro-batches (accumulation), they are not averages over the whole batch of the step. With
    ``trainer.sync_batchnorm=false``, the averages in BatchNorm are computed over one device only.

    Args:
        discriminator: network D: [B, C, H, W] in [0, 1] -> logits [B, 1]. D is newly initialized in every stage,
            and saved only in checkpoints.
        loss: an :class:`sr_train.losses.gan.AdversarialLoss`, e.g. a ``GANLoss``.
        discriminator_rate: base learning rate of D; default: the base learning rate of G.
        discriminator_curve: schedule of D's learning rate; default: the schedule of G.
        options: arguments of :class:`~sr_train.tasks.base.SRTask`; they apply to G. All parameters of D are trained.
    """

    shown = ("pixel", "perceptual", "adversarial", "discriminator", "accuracy")

    def __init__(
        self,
        *,
        discriminator: nn.Module,
        loss: nn.Module,
        discriminator_rate: float | None = None,
        discriminator_curve: Curve | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(loss, AdversarialLoss):
            raise ValueError(
                f"task=gan needs a loss for two networks, not {type(loss).__name__}: loss=gan, srgan or esrgan"
            )
        if discriminator_rate is not None and not discriminator_rate > 0:
            raise ValueError(f"task.discriminator_rate={discriminator_rate} must be positive, or null for task.rate")
        self.discriminator = discriminator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.loss: AdversarialLoss = loss
        self.discriminator_rate = self.rate if discriminator_rate is None else discriminator_rate
        self.discriminator_curve = self.options.curve if discriminator_curve is None else discriminator_curve
        self.watch = Watch(lambda logits: self.loss.discriminator(logits, logits)[0])

    # -- optimization --------------------------------------------------------------------------------------------

    def networks(self) -> list[nn.Module]:
        """Return the generator and the discriminator."""
        return [self.model, self.discriminator]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: first the groups of the generator, then one group of the discriminator."""
        own = {"params": list(self.discriminator.parameters()), "lr": self.rate_of("_d", 0), "suffix": "_d"}
        return [*super().parameter_groups(), own]

    def rate_of(self, suffix: str, step: int) -> float:
        """Return the learning rate of a parameter group at a step; the suffix ``_d`` stands for the discriminator."""
        if suffix == "_d":
            return self.discriminator_rate * self.discriminator_curve(step)
        return super().rate_of(suffix, step)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the sum of two losses: the generator's loss with a frozen discriminator, and the discriminator's loss.

        Generated images are detached for the discriminator's loss.
        """
        hr = to_float(batch["hr"])
        target = to_float(batch["target"]) if "target" in batch else hr  # D sees HR, the other terms the target
        sr = self.model(to_float(batch["lr"])).float()
        # Real and fake images go through D separately, because its BatchNorm must not average over both. D does not change
        # before the end of the step, so its logits for HR are valid for both losses.
        real = self.discriminator(hr)
        torch.clear_autocast_cache()  # it may hold D's parameters as cast above, which ignores the freezing
        with frozen(self.discriminator):
            logits = real.detach() if self.loss.needs_real else None
            g_loss, g_parts = self.loss.generator(sr, target, real_logits=logits, fake_logits=self.discriminator(sr))
        torch.clear_autocast_cache()
        d_loss, d_parts = self.loss.discriminator(real, self.discriminator(sr.detach()))
        shift = self._watch(d_loss, d_parts["accuracy"], sr, hr)
        return self.note(g_loss + d_loss, generator=g_loss, **g_parts, **d_parts, color_shift=shift)

    def _watch(self, d_loss: torch.Tensor, accuracy: torch.Tensor, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Keep the numbers of a micro-batch, warn if they call for it, and return the largest difference of mean colors."""
        shift = (sr.detach() - hr).mean((0, 2, 3))
        step, share = self.global_step + 1, 1 / max(1, self.trainer.accumulate_grad_batches)
        self.watch.add(step, share, accuracy, d_loss, shift)
        warning = self.watch.look(step)
        if warning is not None and self.trainer.is_global_zero:
            warnings.warn(warning, stacklevel=2)
        return shift.abs().max() * 255

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint all values of :class:`.base.SRTask` and the sliding window of :class:`.gan_watch.Watch`."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["guard"]["watch"] = self.watch.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore all values of :class:`.base.SRTask` and the sliding window of :class:`.gan_watch.Watch`."""
        super().on_load_checkpoint(checkpoint)
        guard = checkpoint.get("guard", {})
        earlier = {"said": ["won"] if guard.get("warned") else []}  # of an earlier version
        self.watch.load_state_dict(guard.get("watch", earlier))
