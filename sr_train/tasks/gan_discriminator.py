"""Steps of a GAN's discriminator (D): when D is updated alone, with which options, and numbers drawn for penalties."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import nn

from sr_train.losses.penalties import Penalty
from sr_train.tasks.options import OptimizerFactory
from sr_train.tasks.tensors import Buffers

_NOT_OPTIONS = ("lr", "fused", "foreach", "capturable", "differentiable", "maximize", "decoupled_weight_decay")


class Update(NamedTuple):
    """Place of a micro-batch in its step, and the update that it belongs to."""

    alone: bool = False  #: true if this update changes D only
    ends: bool = True  #: true for the last micro-batch of the update
    last: bool = True  #: true for the last micro-batch of the step
    micro: int = 0  #: number of the micro-batch in its step


class Schedule:
    """Order of the updates of G and D.

    A step consists of ``steps`` updates, each on a batch of its own: the first ``steps - 1`` update D alone, the last one
    updates G and D. In the first ``first`` steps, all of them update D alone. Steps count as steps of G: rates, validations
    and checkpoints follow them.

    Args:
        steps: updates of D per step.
        first: number of steps at the start in which G is not updated.
        generator: false if all parameters of G are frozen, so that G is never updated.
        discriminator: false if all parameters of D are frozen.
    """

    def __init__(self, *, steps: int, first: int, generator: bool, discriminator: bool) -> None:
        if steps < 1:
            raise ValueError(f"task.discriminator_steps={steps}: expected an integer of at least 1")
        if first < 0:
            raise ValueError(f"task.discriminator_first={first}: expected a number of steps, at least 0")
        if not generator and not discriminator:
            raise ValueError(
                "task.trainable=[] and task.discriminator_trainable=[] freeze both networks; give one of them ['*']"
            )
        if not discriminator and (steps > 1 or first):
            key = f"task.discriminator_steps={steps}" if steps > 1 else f"task.discriminator_first={first}"
            raise ValueError(
                f"{key} has no effect with task.discriminator_trainable=[], which freezes the discriminator"
            )
        if not generator and first:
            raise ValueError(
                f"task.discriminator_first={first} has no effect with task.trainable=[], which freezes the generator"
            )
        self.steps = steps
        self.first = first
        self.generator = generator
        self.discriminator = discriminator

    def place(self, step: int, batch_idx: int, accumulate: int) -> Update:
        """Return the place of a micro-batch.

        Args:
            step: number of the step, from 0.
            batch_idx: number of the micro-batch in the run.
            accumulate: micro-batches per step, over all updates of the step.
        """
        micro, each = batch_idx % accumulate, accumulate // self.steps
        number, part = divmod(micro, each)
        alone = not self.generator or step < self.first or number < self.steps - 1
        return Update(alone, part == each - 1, micro == accumulate - 1, micro)

    def described(self) -> str | None:
        """Return a text for the first lines of a run; None for one update of each network per step."""
        texts = [f"{self.steps} updates per step, each on a new batch"] if self.steps > 1 else []
        texts += [f"alone in the first {'step' if self.first == 1 else f'{self.first} steps'}"] if self.first else []
        texts += [] if self.generator else ["trained alone, the generator is frozen"]
        texts += [] if self.discriminator else ["frozen"]
        return ", ".join(texts) or None


def check_options(given: Mapping[str, Any], optimizer: OptimizerFactory, rate: float) -> dict[str, Any]:
    """Return D's options of the optimizer. Raise ValueError for a name that the optimizer does not have, or a wrong value."""
    parameter = nn.Parameter(torch.zeros(1, device="cpu"))
    known = [name for name in optimizer([parameter], lr=rate).defaults if name not in _NOT_OPTIONS]
    for name in given:
        if name not in known:
            hint = "; give task.discriminator_rate" if name == "lr" else ""
            raise ValueError(
                f"task.discriminator_optimizer: the optimizer has no option {name!r} for one network{hint}; "
                f"choose from {', '.join(known)}"
            )
    # torch refuses betas of which one is an integer, as in [0, 0.99].
    options: dict[str, Any] = {
        k: _floats(cast("Iterable[Any]", v)) if isinstance(v, (list, tuple)) else v for k, v in given.items()
    }
    try:
        optimizer([parameter], lr=rate, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"task.discriminator_optimizer={given}: {error}") from None
    return options


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


def check_penalty(penalty: object, discriminator: nn.Module, *, trained: bool) -> None:
    """Raise ValueError if an object is not a penalty, or does not fit the discriminator."""
    if penalty is None:
        return
    if not isinstance(penalty, Penalty):
        raise ValueError(
            f"task.penalty: {type(penalty).__name__} needs attributes weight and every, and a method "
            "__call__(discriminator, real, fake, uniform); see docs/extending.md"
        )
    if not trained:
        raise ValueError(
            "task.penalty has no effect with task.discriminator_trainable=[], which freezes the discriminator"
        )
    check = getattr(penalty, "check", None)
    if check is not None:
        check(discriminator)


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


@contextmanager
def kept_buffers(network: nn.Module) -> Generator[None, None, None]:
    """Restore the buffers of a network, e.g. BatchNorm's statistics, after the ``with`` block."""
    buffers = Buffers([network])
    try:
        yield
    finally:
        buffers.restore(torch.ones((), dtype=torch.bool, device=next(network.parameters()).device))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes. ddp does this only in backward passes that reach all parameters."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    joined = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch.split(joined, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def uniform(seed: int, stage: str, positions: Sequence[int]) -> torch.Tensor:
    """Return a number in [0, 1) for each position (number of a sample in the stage), as float32 on the CPU.

    Args:
        seed: the run's seed.
        stage: the stage's name.
        positions: numbers of samples.
    """
    key = hashlib.blake2b(f"{seed}/{stage}".encode(), digest_size=32).digest()
    words = [
        hashlib.blake2b(struct.pack("<q", position), key=key, person=b"penalty", digest_size=3).digest()
        for position in positions
    ]
    return torch.tensor([int.from_bytes(word, "little") / 2**24 for word in words])  # 24 bits: exact in float32
