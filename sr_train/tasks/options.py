"""Options of all tasks, and the keywords of a task's constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sr_train.config.type_hints import hints_of
from sr_train.tasks.curves import Curve

OptimizerFactory = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every task (``task.NAME=VALUE``).

    A new option needs a field here and a line in ``conf/task/base.yaml``.
    """

    optimizer: OptimizerFactory
    """Function that builds the optimizer. The task calls it with (parameter groups, lr=rate)."""
    rate: float
    """Base learning rate."""
    curve: Curve
    """Schedule of the rate."""
    ema: float | None = 0.999
    """Decay of the exponential moving average that is evaluated and exported; ``None`` disables it."""
    ema_device: Literal["same", "cpu"] = "same"
    """``cpu`` keeps the average in the memory of the host, so that a GPU needs less; ``same``: the network's device."""
    protocols: Sequence[str] = ("y", "rgb")
    """Names of the validation protocols, see :mod:`sr_train.metrics.protocol`."""
    tile: int | str | None = "auto"
    """Tiles of validation images: ``auto`` where the memory is too small, ``None`` for none, or a side in LR pixels."""
    patience: int = 10
    """Number of refused steps in a row (loss or gradient not finite) that ends the run."""
    compile: bool = False
    """True to compile the network's blocks with ``torch.compile`` for training; a network without blocks is compiled whole."""
    recompute: bool = False
    """True for activation checkpointing, which needs less memory, but one more forward pass per step."""
    parts: int | Literal["auto"] = "auto"
    """Number of parts of a batch, each computed by one thread of the CPU (:mod:`sr_train.tasks.parts`).

    The command replaces ``auto`` by a number (:mod:`sr_train.training.parts`). A task built in Python has one part then."""
    trainable: Sequence[str] = ("*",)
    """Glob patterns of parameter names; parameters of the network that match no pattern are frozen."""
    rate_scale: Mapping[str, float] | None = None
    """{glob pattern of parameter names: factor of the learning rate}; the first pattern that matches a parameter is used."""

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"task.rate={self.rate} must be positive")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"task.ema={self.ema} must lie between 0 and 1, or be null")
        if self.ema_device not in ("same", "cpu"):
            raise ValueError(f"task.ema_device={self.ema_device}: choose from same, cpu")
        if self.ema_device == "cpu" and self.ema is None:
            raise ValueError("task.ema_device=cpu has no effect with task.ema=null, which trains without an EMA")
        if self.tile not in (None, "auto") and not (isinstance(self.tile, int) and self.tile > 0):
            raise ValueError(
                f"validate.tile={self.tile}: expected auto, null or an integer of at least 1, in LR pixels"
            )
        if self.patience < 1:
            raise ValueError(f"task.patience={self.patience} must be at least 1")
        if self.parts != "auto" and self.parts < 1:
            raise ValueError(f"task.parts={self.parts}: expected auto or an integer of at least 1")
        if self.parts != "auto" and self.parts > 1 and self.compile:
            raise ValueError(f"task.parts={self.parts}: compiled blocks need task.parts=1")


def joined(classes: Iterable[type]) -> inspect.Signature:
    """Return a signature with all keywords of several constructors, each of which passes ``**options`` on to the next one.

    Annotations that are strings are resolved.
    """
    found: dict[str, inspect.Parameter] = {}
    for constructor in (vars(c)["__init__"] for c in classes if "__init__" in vars(c)):
        hints = hints_of(constructor)
        _, *parameters = inspect.signature(constructor).parameters.values()  # the first is self
        kinds = {p.kind for p in parameters}
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p.replace(kind=p.KEYWORD_ONLY, annotation=hints.get(p.name, Any)))
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return inspect.Signature(list(found.values()))
