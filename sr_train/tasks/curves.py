"""Learning-rate schedules as pure functions of the step.

Schedules have no state, so a resumed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn


class Curve(Protocol):
    """Protocol of a learning-rate schedule: a function from the step (0 is the first) to a factor of the base rate."""

    def __call__(self, step: int) -> float:
        """Return the factor of the base learning rate at ``step``."""
        ...


class _Schedule:
    """Base class of the schedules: a schedule may begin with a linear warm-up.

    In the first ``warmup`` steps, the factor is multiplied by 1 / warmup, 2 / warmup, ..., 1. BasicSR's ``warmup_iter`` has
    the same ramp, but replaces the schedule in these steps.
    """

    def __init__(self, warmup: int) -> None:
        if warmup < 0:
            raise ValueError(f"curve.warmup={warmup} must be a number of steps, at least 0")
        self.warmup = warmup

    def __call__(self, step: int) -> float:
        return self.factor(step) * (min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0)

    def factor(self, step: int) -> float:
        """Return the factor without the warm-up."""
        raise NotImplementedError


class Constant(_Schedule):
    """Schedule of a constant learning rate: the factor is always 1.

    Args:
        warmup: steps of a linear warm-up at the start.
    """

    def __init__(self, *, warmup: int = 0) -> None:
        super().__init__(warmup)

    def factor(self, step: int) -> float:  # noqa: D102
        return 1.0


class MultiStep(_Schedule):
    """Schedule that multiplies the learning rate by ``gamma`` at each milestone.

    EDSR has one milestone at 200k; ESRGAN's GAN stage has milestones at 50k, 100k, 200k and 300k.

    Args:
        milestones: steps in increasing order.
        gamma: factor at each milestone.
        warmup: steps of a linear warm-up at the start.
    """

    def __init__(self, *, milestones: Sequence[int], gamma: float = 0.5, warmup: int = 0) -> None:
        super().__init__(warmup)
        if list(milestones) != sorted(set(milestones)) or any(m < 1 for m in milestones):
            raise ValueError(f"curve.milestones={list(milestones)} must be increasing steps of at least 1")
        self.milestones = list(milestones)
        self.gamma = gamma

    def factor(self, step: int) -> float:  # noqa: D102
        return self.gamma ** sum(step >= m for m in self.milestones)


class CosineRestarts(_Schedule):
    """Schedule of cosine periods (SGDR, Loshchilov and Hutter 2017), used by EDVR.

    In each period the factor falls from a weight to the floor along a cosine.

    Args:
        periods: lengths of the periods in steps. After the last period the rate stays at the floor.
        weights: factor at the start of each period; default: 1 for all periods.
        floor: lowest factor (BasicSR's eta_min divided by the base rate).
        warmup: steps of a linear warm-up at the start.
    """

    def __init__(
        self, *, periods: Sequence[int], weights: Sequence[float] | None = None, floor: float = 0.0, warmup: int = 0
    ) -> None:
        super().__init__(warmup)
        weights = [1.0] * len(periods) if weights is None else list(weights)
        if not periods or any(p < 1 for p in periods) or len(weights) != len(periods):
            raise ValueError(
                f"curve.periods={list(periods)} and curve.weights={weights}: expected lists of the same length, with "
                "periods of at least 1"
            )
        self.periods = list(periods)
        self.weights = weights
        self.floor = floor

    def factor(self, step: int) -> float:  # noqa: D102
        for period, weight in zip(self.periods, self.weights, strict=True):
            if step < period:
                return self.floor + weight * 0.5 * (1 - self.floor) * (1 + math.cos(math.pi * step / period))
            step -= period
        return self.floor


def check_covers(curve: Curve, steps: int, *, key: str = "curve") -> None:
    """Raise ValueError if the periods of a schedule :class:`CosineRestarts` end before the last step of a stage.

    After the last period, the rate would stay at the floor. The message contains the sum of the periods, and longer
    periods that cover the stage.
    """
    if not isinstance(curve, CosineRestarts) or (missing := steps - sum(curve.periods)) <= 0:
        return
    given = f"{key}.periods=[{_listed(curve.periods)}]"
    longer = f"{key}.periods=[{_listed([*curve.periods, missing])}]"
    if len(set(curve.weights)) > 1 or curve.weights[0] != 1:
        longer += f" {key}.weights=[{_listed([*curve.weights, curve.weights[-1]])}]"
    raise ValueError(
        f"{given}: periods sum to {sum(curve.periods)}, trainer.max_steps={steps}: the rate would stay at the floor for the "
        f"last {missing} steps; give {longer} (and resume=force if the stage has started), or "
        f"trainer.max_steps={sum(curve.periods)}"
    )


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{n:g}" if isinstance(n, float) else str(n) for n in numbers)


def try_optimizer(
    make: Callable[..., torch.optim.Optimizer],
    groups: Sequence[Mapping[str, Any]],
    *,
    rate: float,
    device: torch.device,
) -> None:
    """Test the options of an optimizer: build two optimizers with the same arguments, and make a step with the second.

    The first optimizer gets parameters with the real shapes. To save memory, each parameter is one number that is
    expanded to the shape. The second optimizer gets parameters of one number on ``device``. Errors of the optimizers
    are not caught.
    """
    make(_stand_ins(groups, torch.device("cpu"), full=True), lr=rate)
    small = _stand_ins(groups, device, full=False)
    for group in small:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    make(small, lr=rate).step(lambda: 0.0)


def _stand_ins(groups: Sequence[Mapping[str, Any]], device: torch.device, *, full: bool) -> list[dict[str, Any]]:
    def stand_in(parameter: torch.Tensor) -> nn.Parameter:
        one = torch.zeros([1] * parameter.dim(), dtype=parameter.dtype, device=device)
        return nn.Parameter(one.expand(parameter.shape) if full else one)

    return [{**group, "params": [stand_in(p) for p in group["params"]]} for group in groups]
