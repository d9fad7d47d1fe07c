"""Base class of tasks: network and EMA, learning rate, refused steps, scores."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from sr_train.batch import Batch
from sr_train.data.dataset import EvalImage
from sr_train.inference.images import TilesIfNeeded
from sr_train.inference.tiling import TileError
from sr_train.metrics.protocol import get_protocols, score
from sr_train.models import contract
from sr_train.tasks.averaging import Average, averaged_copy
from sr_train.tasks.compiling import compile_network, recompute_activations, uncompiled
from sr_train.tasks.guard import Event, Guard, skip_step, spread, total
from sr_train.tasks.optimizer_options import apply_options, options_of
from sr_train.tasks.options import Options, joined
from sr_train.tasks.parameters import freeze, split, suffixes
from sr_train.tasks.parts import BatchParts, checked_parts, several_processes


class SRTask(L.LightningModule):
    """Base class of all tasks. One call of ``training_step`` handles one micro-batch.

    Subclasses define ``training_step``. Subclasses with a second network extend ``networks`` and ``parameter_groups``.

    Args:
        model: network with the attributes that :mod:`sr_train.models.contract` describes.
        options: fields of :class:`~sr_train.tasks.options.Options`, as keyword arguments.
    """

    __signature__: ClassVar[inspect.Signature]
    shown: tuple[str, ...] = ("loss",)  #: numbers on the progress bar, without ``train/``
    uses_all = True  #: every step uses every parameter; if false, ddp has to find the unused ones
    may_freeze_all = False  #: true if there is something to train without any parameter of the network

    def __init__(self, *, model: nn.Module, **options: Any) -> None:
        super().__init__()
        branches = contract.branches(model)
        if self.uses_all and len(branches) > 1:
            raise ValueError(
                f"{type(model).__name__} has branches for the scales {list(branches)}: give task=multiscale"
            )
        self.options = Options(**options)
        self.model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        decay, on_host = self.options.ema, self.options.ema_device == "cpu"
        self.ema: Average | None = None if decay is None else averaged_copy(self.model, decay, on_host=on_host)
        if self.options.recompute:
            recompute_activations(self.model)
        if self.options.compile:
            compile_network(self.model)
        freeze(self.model, self.options.trainable, may_freeze_all=self.may_freeze_all)
        self.parts = BatchParts(self.model, checked_parts(self.options.parts, self.model))
        self._scales = dict(self.options.rate_scale or {})
        self._suffixes = suffixes(self._scales)
        split(self.model, self._scales)  # raises errors of task.rate_scale now
        self.rate = self.options.rate
        self.protocols = get_protocols(self.options.protocols)
        self.guard = Guard(self.options.patience)
        self.numbers: dict[str, torch.Tensor] = {}  #: numbers of the newest step by name, for the logs
        self._alarmed = False
        self._whole = TilesIfNeeded(partial(warnings.warn, stacklevel=2), self.options.tile)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set ``__signature__`` to all keywords of the constructor.

        Keys of YAML files are checked against this signature.
        """
        super().__init_subclass__(**kwargs)
        cls.__signature__ = joined([*cls.__mro__[: cls.__mro__.index(SRTask) + 1], Options])

    @property
    def refused(self) -> int:
        """Number of steps refused so far, as far as the host knows. The number is exact after :meth:`look`."""
        return self.guard.refused

    @property
    def events(self) -> list[Event]:
        """Events that are not yet written to events.csv."""
        return self.guard.events

    # -- evaluated network ---------------------------------------------------------------------------------------

    def averaged(self) -> nn.Module:
        """Return the network that is evaluated and exported: the EMA, or the trained network if there is no EMA."""
        if self.ema is None:
            return self.model
        self.ema.settle()
        return self.ema.module

    def evaluated(self, scale: int) -> nn.Module:
        """Return the evaluated network for images of ``scale``.

        For a network with several scales, return the scale's branch.
        """
        return self.averaged()

    def progress(self) -> dict[str, torch.Tensor]:
        """Return {name: value} of the numbers that the progress display shows."""
        return {k: self.numbers[f"train/{k}"] for k in self.shown if f"train/{k}" in self.numbers}

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Run the trained network: [B, C, h, w] or [B, T, C, h, w] in [0, 1] -> [B, C, H, W]."""
        return self.model(lr)

    def run(self, lr: torch.Tensor, *arguments: Any) -> torch.Tensor:
        """Run the trained network on a batch of a training step, in parts if ``task.parts`` says so.

        Several processes are parts already: each runs the network on its whole batch.
        """
        return self.model(lr, *arguments) if several_processes() else self.parts(lr, *arguments)

    # -- optimization --------------------------------------------------------------------------------------------

    def networks(self) -> list[nn.Module]:
        """Return the networks whose weights an optimizer step changes."""
        return [self.model]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; ``suffix`` identifies a group in logs and in :meth:`rate_of`."""
        groups = [(self._suffixes.get(glob, ""), chosen) for glob, chosen in split(self.model, self._scales)]
        return [{"params": chosen, "lr": self.rate_of(suffix, 0), "suffix": suffix} for suffix, chosen in groups]

    def trained(self) -> list[list[str]]:
        """Return the names of the parameters in each of the optimizer's groups."""
        names = {parameter: name for name, parameter in self.named_parameters()}
        return [[names[parameter] for parameter in group["params"]] for group in self.parameter_groups()]

    def rate_of(self, suffix: str, step: int) -> float:
        """Return the learning rate at a step, from the current options, for the parameter group with this ``suffix``."""
        factors = {name: self._scales[glob] for glob, name in self._suffixes.items()}
        return self.rate * factors.get(suffix, 1.0) * self.options.curve(step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build one optimizer for :meth:`parameter_groups`."""
        return self.options.optimizer(self.parameter_groups(), lr=self.rate)

    def set_rate(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Set the learning rate of each parameter group for the current step."""
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate_of(group["suffix"], self.global_step)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, store the image names for the guard, and clear gradients at a step's first micro-batch."""
        self.set_rate(self.trainer.optimizers)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:  # Lightning drops them after the forward pass
            for network in self.networks():
                network.zero_grad(set_to_none=True)
        self.guard.begin(batch, self.networks())

    def note(self, loss: torch.Tensor, /, **numbers: torch.Tensor) -> torch.Tensor:
        """Store a micro-batch's loss for the guard, which refuses steps, and the parts of the loss for the logs.

        A number named ``loss`` is logged instead of the loss. Return the loss. Raise ValueError for a loss that is not a
        single number or has no gradient.
        """
        if loss.ndim or not loss.requires_grad:
            have = "no gradient" if not loss.ndim else f"the shape {list(loss.shape)}"
            raise ValueError(
                f"loss: the result of the loss has {have}; expected one number (a mean or sum) with a gradient"
            )
        self.guard.see(loss)
        if several_processes():
            spread(loss)
        own = self.parts.numbers()
        self.numbers.update({f"train/{k}": v.detach() for k, v in {"loss": loss, **own, **numbers}.items()})
        return loss

    def setup(self, stage: str) -> None:
        """Raise ValueError for an EMA on the host with several GPUs: ddp needs all tensors of a task on one kind of device."""
        several = self.trainer.world_size > 1 and self.trainer.strategy.root_device.type != "cpu"
        if several and self.ema is not None and self.ema.on_host:
            raise ValueError(
                "task.ema_device=cpu: needs a run on one GPU; give task.ema_device=same, or trainer.devices=1"
            )

    def on_train_start(self) -> None:
        """Let the gradient scaler of 16-mixed unscale the gradients before the guard checks them for NaN, and before clipping.

        Without this, a fused optimizer would unscale the gradients only in its own step.
        """
        for optimizer in self.trainer.optimizers:
            if hasattr(optimizer, "_step_supports_amp_scaling"):  # else it leaves that to the optimizer's step
                optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse the step (change no weights) if its loss or gradient is not finite.

        With a fused Adam, the device decides this and the host does not wait.
        """
        norms = {
            f"train/grad_norm{group.get('suffix', '')}": get_total_norm(gradients)
            for group in optimizer.param_groups
            if (gradients := [p.grad for p in group["params"] if p.grad is not None])
        }
        self.numbers.update(norms)
        norm = total(list(norms.values()))
        refused = self.guard.judge(self.global_step + 1, norm, alone=self.trainer.world_size == 1)
        skip_step(optimizer, refused)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of each network separately, so that a large gradient of one network does not affect another."""
        clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
        for network in self.networks():
            if limit := self.clip_of(network, gradient_clip_val):
                clip(network.parameters(), limit)

    def clip_of(self, network: nn.Module, limit: float | None) -> float | None:
        """Return the largest norm (or value) of a network's gradient; ``limit`` is ``trainer.gradient_clip_val``."""
        return limit

    def averages(self) -> bool:
        """Return true if the step that ends has updated the network, so that the EMA is updated, too."""
        return True

    def described(self) -> list[str]:
        """Return lines about options for the start of a run."""
        if self.options.parts in ("auto", 1):
            return []
        return [f"on a CPU, each batch is computed in {self.options.parts} parts, one thread per part (task.parts)"]

    def shorten(self) -> None:
        """Prepare for a test of a few steps, which must contain all kinds of steps."""

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take one step and update the EMA, so that checkpoints and validations after step t use the EMA of t steps."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None and self.averages():
            self.ema.update_parameters(self.model)
        self.guard.end()
        self.guard.follow(self.global_step + 1)  # Lightning counts the step after this hook

    def look(self) -> None:
        """Wait for the device and count the refused steps; raise NonFiniteError after too many refused steps in a row.

        This method is called at logging steps, before a checkpoint and at the end of training.
        """
        self.guard.look()

    def listen(self, step: int) -> None:
        """Print the warning that the network's method ``alarm`` returns, once per run.

        This method waits for the device, so it is called only at logging steps.
        """
        if self._alarmed or not isinstance(self.model, contract.Watched):
            return
        alarm = self.parts.alarm()
        if alarm is not None:
            self._alarmed = True
            if self.trainer.is_global_zero:
                warnings.warn(f"step {step}: {alarm}", stacklevel=2)

    def on_train_end(self) -> None:
        """At the end of training, count the refused steps that the host does not know of yet."""
        self.look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the guard's counters, whether the network's warning was printed, and the names of trained parameters."""
        self.look()
        checkpoint["trained"] = self.trained()
        checkpoint["optimizer_options"] = options_of(self.configure_optimizers())
        checkpoint["guard"] = {**self.guard.state_dict(), "alarmed": self._alarmed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the guard's counters of refused steps, and whether the network's warning (``alarm``) has been printed.

        The options of the optimizer are those of this command. Changed options, which ``resume=force`` allows, are written to
        events.csv.
        """
        own = options_of(self.configure_optimizers())
        changes: list[str] = []
        for state in checkpoint.get("optimizer_states", ()):
            changes += apply_options(state["param_groups"], checkpoint.get("optimizer_options"), own)
        guard = checkpoint.get("guard", {})
        self.guard.load_state_dict(guard)
        if changes:
            what = f"task.optimizer: {'; '.join(changes)}".replace(",", "")  # events.csv has three fields
            self.events.append(Event(int(checkpoint["global_step"]) + 1, what, ""))
        self._alarmed = bool(guard.get("alarmed", False))

    # -- evaluation ----------------------------------------------------------------------------------------------

    @contextmanager
    def _evaluating(self, scale: int) -> Generator[nn.Module, None, None]:
        network = self.evaluated(scale)
        training = network.training
        network.eval()
        visits = self.ema is not None and self.ema.on_host  # only for the time of the evaluation
        if visits:
            network.to(self.device)
        try:
            with uncompiled(network):
                yield network
        finally:
            network.train(training)
            if visits:
                network.to("cpu")

    def upscale(self, image: EvalImage) -> torch.Tensor:
        """Upscale the LR image or window of ``image`` with the evaluated network in fp32 -> [C, H, W] in [0, 1], on the CPU.

        The option ``tile`` says when tiles are used. Raise MemoryFullError if even the smallest tile does not
        fit.
        """
        with self._evaluating(image.scale) as network:
            return self._whole(network, image.lr.to(self.device), f"validation: {image.set}: {image.key}").cpu()

    def check_tiles(self, scale: int) -> None:
        """Raise ValueError if the given tiles of validation are too small for the network. Measure the network once."""
        if self.options.tile in (None, "auto"):
            return
        try:
            with self._evaluating(scale) as network:
                self._whole.plan(network)
        except TileError as error:
            raise ValueError(f"validate.{error}") from None

    def score(self, image: EvalImage, sr: torch.Tensor) -> dict[str, dict[str, float]]:
        """Return {protocol: {metric: score}} of one upscaled image ``sr``, compared with the HR image; empty without HR."""
        if image.hr is None:
            return {}
        wanted = [p for p in self.protocols if image.centered or not p.center]
        return {p.name: score(sr, image.target, p, image.scale, from_gray=image.from_gray) for p in wanted}
