"""GAN training (SRGAN, ESRGAN): generator and discriminator in one step, with one optimizer of two parameter groups."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sr_train.batch import Batch, to_float
from sr_train.losses.gan import AdversarialLoss
from sr_train.losses.penalties import Penalty
from sr_train.models.batchnorm import synchronized_buffers
from sr_train.tasks.base import SRTask
from sr_train.tasks.curves import Curve
from sr_train.tasks.gan_discriminator import (
    Schedule,
    Update,
    average_gradients,
    check_options,
    check_penalty,
    frozen,
    kept_buffers,
    uniform,
)
from sr_train.tasks.gan_watch import Watch
from sr_train.tasks.parameters import freeze


class GANTask(SRTask):
    """Training of a generator G against a discriminator D: both are updated once per step, on the same generated images.

    With ``discriminator_steps`` and ``discriminator_first``, D is also updated alone, see :class:`.gan_discriminator.Schedule`.
    In these updates G runs as in its own, but its buffers do not change.

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
        discriminator: network D: [B, C, H, W] in [0, 1] -> logits [B, 1]. D is newly initialized, unless
            ``init.discriminator`` is given.
        loss: an :class:`sr_train.losses.gan.AdversarialLoss`, e.g. a ``GANLoss``.
        discriminator_rate: base learning rate of D; default: the base learning rate of G.
        discriminator_curve: schedule of D's learning rate; default: the schedule of G.
        discriminator_steps: updates of D per step of G, each on a batch of its own.
        discriminator_first: number of steps at the start in which D alone is updated.
        discriminator_trainable: glob patterns of parameter names; parameters of D that match no pattern are frozen. With
            ``[]``, D is fixed, and runs in eval mode.
        discriminator_optimizer: options of the optimizer that differ for D, e.g. ``{"betas": [0, 0.99]}``.
        discriminator_clip: largest norm (or value) of D's gradient; default: ``trainer.gradient_clip_val``; 0: no limit.
        penalty: term of D's loss that sees images and D, e.g. :class:`sr_train.losses.penalties.R1`.
        options: arguments of :class:`~sr_train.tasks.base.SRTask`; they apply to G.
    """

    shown = ("pixel", "perceptual", "adversarial", "discriminator", "accuracy")
    may_freeze_all = True

    def __init__(
        self,
        *,
        discriminator: nn.Module,
        loss: nn.Module,
        discriminator_rate: float | None = None,
        discriminator_curve: Curve | None = None,
        discriminator_steps: int = 1,
        discriminator_first: int = 0,
        discriminator_trainable: Sequence[str] = ("*",),
        discriminator_optimizer: Mapping[str, Any] | None = None,
        discriminator_clip: float | None = None,
        penalty: Penalty | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(loss, AdversarialLoss):
            raise ValueError(
                f"task=gan needs a loss for two networks, not {type(loss).__name__}: loss=gan, srgan or esrgan"
            )
        if discriminator_rate is not None and not discriminator_rate > 0:
            raise ValueError(f"task.discriminator_rate={discriminator_rate} must be positive, or null for task.rate")
        if discriminator_clip is not None and not discriminator_clip >= 0:
            raise ValueError(
                f"task.discriminator_clip={discriminator_clip} must be positive, 0 for no limit, or null for "
                "trainer.gradient_clip_val"
            )
        freeze(discriminator, discriminator_trainable, key="task.discriminator_trainable", may_freeze_all=True)
        self.discriminator = discriminator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.loss: AdversarialLoss = loss
        self.schedule = Schedule(
            steps=discriminator_steps,
            first=discriminator_first,
            generator=any(p.requires_grad for p in self.model.parameters()),
            discriminator=any(p.requires_grad for p in discriminator.parameters()),
        )
        check_penalty(penalty, discriminator, trained=self.schedule.discriminator)
        self.penalty = penalty
        self.discriminator_rate = self.rate if discriminator_rate is None else discriminator_rate
        self.discriminator_curve = self.options.curve if discriminator_curve is None else discriminator_curve
        self.discriminator_clip = discriminator_clip
        own = discriminator_optimizer or {}
        self.discriminator_optimizer = check_options(own, self.options.optimizer, self.rate) if own else {}
        trained = self.schedule.discriminator
        if not trained and (own or discriminator_clip is not None):
            key = "discriminator_optimizer" if own else "discriminator_clip"
            raise ValueError(
                f"task.{key} has no effect with task.discriminator_trainable=[], which freezes the discriminator"
            )
        self.watch = Watch(
            lambda logits: self.loss.discriminator(logits, logits)[0], discriminator_first, judged=trained
        )
        self._update = Update()
        if not trained:
            discriminator.eval()

    def train(self, mode: bool = True) -> GANTask:
        """Set train or eval mode. A frozen D stays in eval mode, so that it is a fixed function of each image."""
        super().train(mode)
        if not self.schedule.discriminator:
            self.discriminator.eval()
        return self

    # -- optimization --------------------------------------------------------------------------------------------

    def networks(self) -> list[nn.Module]:
        """Return the generator and the discriminator."""
        return [self.model, self.discriminator]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: first the groups of the generator, then one group of the discriminator.

        A network whose parameters are all frozen has no group.
        """
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        own = {"params": trained, "lr": self.rate_of("_d", 0), "suffix": "_d", **self.discriminator_optimizer}
        return [*super().parameter_groups(), *([own] if trained else [])]

    def clip_of(self, network: nn.Module, limit: float | None) -> float | None:
        """Return the largest norm (or value) of a network's gradient: ``discriminator_clip`` for D, if it is given."""
        own = self.discriminator_clip
        return own if network is self.discriminator and own is not None else limit

    def rate_of(self, suffix: str, step: int) -> float:
        """Return the learning rate of a parameter group at a step; the suffix ``_d`` stands for the discriminator."""
        if suffix == "_d":
            return self.discriminator_rate * self.discriminator_curve(step)
        return super().rate_of(suffix, step)

    def described(self) -> list[str]:
        """Return lines for the start of a run: the updates of D, and the penalty."""
        updates = self.schedule.described()
        lines = super().described() + ([] if updates is None else [f"discriminator: {updates}"])
        return [*lines, *([] if self.penalty is None else [f"penalty {self.penalty!r}"])]

    def shorten(self) -> None:
        """Prepare for a test of a few steps, which must contain updates of both networks."""
        self.schedule.first = min(self.schedule.first, 1)

    def on_train_start(self) -> None:
        """Raise ValueError for a penalty whose gradient cannot be computed."""
        super().on_train_start()
        if self.penalty is not None and synchronized_buffers(self.discriminator):
            raise ValueError(
                f"task.penalty with {self.trainer.world_size} processes: no gradient of a gradient is computed through "
                f"BatchNorm over several processes, which {type(self.discriminator).__name__} has: give "
                "trainer.sync_batchnorm=false, or a discriminator without BatchNorm"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Find the update that a micro-batch belongs to. In an update of D alone, ddp exchanges no gradients."""
        super().on_train_batch_start(batch, batch_idx)
        self._update = self.schedule.place(self.global_step, batch_idx, self.trainer.accumulate_grad_batches)
        if self._update.micro == 0:
            self.numbers.clear()  # some steps have others than the step before, e.g. a penalty; a resumed run has none of it
        wrapped = self.trainer.strategy.model
        if isinstance(wrapped, DistributedDataParallel):  # it would wait for gradients of G
            wrapped.require_backward_grad_sync = not self._update.alone

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the sum of two losses: the generator's loss with a frozen discriminator, and the discriminator's loss.

        Generated images are detached for the discriminator's loss. In an update of D alone, return the discriminator's loss.
        """
        hr, lr = to_float(batch["hr"]), to_float(batch["lr"])
        target = to_float(batch["target"]) if "target" in batch else hr  # D sees HR, the other terms the target
        if self._update.alone:
            with torch.no_grad(), kept_buffers(self.model):
                sr = self.run(lr).float()
            loss, parts = self._discriminator_loss(self.discriminator(hr), hr, sr)
            return self._scaled(self.note(loss, **parts))
        sr = self.run(lr).float()
        # Real and fake images go through D separately, because its BatchNorm must not average over both. D does not change
        # before the end of the step, so its logits for HR are valid for both losses.
        with torch.set_grad_enabled(self.schedule.discriminator):
            real = self.discriminator(hr)
        torch.clear_autocast_cache()  # it may hold D's parameters as cast above, which ignores the freezing
        with frozen(self.discriminator):
            logits = real.detach() if self.loss.needs_real else None
            g_loss, g_parts = self.loss.generator(sr, target, real_logits=logits, fake_logits=self.discriminator(sr))
        torch.clear_autocast_cache()
        with torch.set_grad_enabled(self.schedule.discriminator):
            d_loss, d_parts = self._discriminator_loss(real, hr, sr.detach())
        shift = self._watch(d_parts["loss"], d_parts["accuracy"], sr, hr)
        if self.schedule.discriminator:
            loss, d_parts["loss"] = g_loss + d_loss, g_loss + d_parts["loss"]
        else:
            loss = d_parts["loss"] = g_loss
        return self._scaled(self.note(loss, generator=g_loss, **g_parts, **d_parts, color_shift=shift))

    def _discriminator_loss(
        self, real: torch.Tensor, hr: torch.Tensor, sr: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return D's loss with the penalty, and numbers for the logs; ``loss`` is without the penalty, which fluctuates.

        ``real`` are D's logits of HR, ``sr`` are detached.
        """
        loss, parts = self.loss.discriminator(real, self.discriminator(sr))
        penalty, numbers = self.penalty, {**parts, "loss": loss.detach()}
        if penalty is not None and (self.global_step + 1) % penalty.every == 0:
            with torch.autocast(sr.device.type, enabled=False):
                numbers["penalty"] = found = penalty(self.discriminator, hr, sr, self._uniform(sr))
            loss = loss + penalty.weight * penalty.every * found
        return loss, numbers

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Scale a loss to a mean over the micro-batches of its update; Lightning divides by those of the whole step."""
        return loss * self.schedule.steps if self.schedule.steps > 1 else loss

    def _uniform(self, images: torch.Tensor) -> torch.Tensor:
        """Return a number in [0, 1) for each image of a micro-batch. Positions are those of :mod:`sr_train.data.draws`."""
        trainer, count = self.trainer, len(images)
        micro = self.global_step * trainer.accumulate_grad_batches + self._update.micro
        start = (micro * trainer.world_size + trainer.global_rank) * count
        data: Any = getattr(trainer, "datamodule", None)
        seed, stage = getattr(data, "seed", 0), getattr(data, "stage_name", "main")
        found = uniform(seed, stage, range(start, start + count))
        return (found.pin_memory() if images.is_cuda else found).to(images.device, non_blocking=True)

    def on_after_backward(self) -> None:
        """At the end of an update of D alone, average its gradients over the processes, and update it.

        Lightning makes the last update of a step.
        """
        if not (self._update.alone and self._update.ends):
            return
        average_gradients(list(self.discriminator.parameters()))
        if self._update.last:
            return
        (optimizer,) = self.trainer.optimizers
        # The gradient scaler, the guard's decision, clipping and the optimizer's step, as at the end of a step. Parameters of G
        # have no gradients, so the optimizer skips them.
        self.trainer.precision_plugin.optimizer_step(optimizer, model=self, closure=lambda: 0.0)  # pyright: ignore[reportArgumentType]
        self.discriminator.zero_grad(set_to_none=True)
        self.guard.end()

    def averages(self) -> bool:
        """Return true if the step that ends has updated G, so that the EMA is updated, too."""
        return not self._update.alone

    def _watch(self, d_loss: torch.Tensor, accuracy: torch.Tensor, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Keep the numbers of a micro-batch, warn if they call for it, and return the largest difference of mean colors."""
        shift = (sr.detach() - hr).mean((0, 2, 3))
        step, share = self.global_step + 1, self.schedule.steps / max(1, self.trainer.accumulate_grad_batches)
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
