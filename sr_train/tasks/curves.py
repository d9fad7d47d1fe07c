"""Learning-rate schedules as pure functions of the step: they have no state, so a resume is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn


class Curve(Protocol):
    """Schedule: step (0 is the first) -> factor of the group's base rate."""

    def __call__(self, step: int) -> float:
        """Return the factor at ``step``."""
        ...


class Constant:
    """Constant rate: the factor is 1."""

    def __call__(self, step: int) -> float:  # noqa: D102 - see Curve
        return 1.0


class MultiStep:
    """Multiplication by ``gamma`` at each milestone: EDSR at 200k, ESRGAN's GAN stage at 50k, 100k, 200k and 300k.

    Args:
        milestones: steps in increasing order.
        gamma: factor at each.
    """

    def __init__(self, *, milestones: Sequence[int], gamma: float = 0.5) -> None:
        if list(milestones) != sorted(set(milestones)) or any(m < 1 for m in milestones):
            raise ValueError(f"curve.milestones={list(milestones)} must be increasing steps of at least 1")
        self.milestones = list(milestones)
        self.gamma = gamma

    def __call__(self, step: int) -> float:  # noqa: D102
        return self.gamma ** sum(step >= m for m in self.milestones)


class CosineRestarts:
    """Cosine from weight to floor in each period (SGDR, Loshchilov and Hutter 2017), used by EDVR.

    Args:
        periods: lengths in steps; after the last period the rate stays at the floor.
        weights: factor at the start of each period; default: 1 for all.
        floor: lowest factor (BasicSR's eta_min divided by the base rate).
    """

    def __init__(self, *, periods: Sequence[int], weights: Sequence[float] | None = None, floor: float = 0.0) -> None:
        weights = [1.0] * len(periods) if weights is None else list(weights)
        if not periods or any(p < 1 for p in periods) or len(weights) != len(periods):
            raise ValueError(
                f"curve.periods={list(periods)} and curve.weights={weights}: expected lists of the same length, with "
                "periods of at least 1"
            )
        self.periods = list(periods)
        self.weights = weights
        self.floor = floor

    def __call__(self, step: int) -> float:  # noqa: D102
        for period, weight in zip(self.periods, self.weights, strict=True):
            if step < period:
                return self.floor + weight * 0.5 * (1 - self.floor) * (1 + math.cos(math.pi * step / period))
            step -= period
        return self.floor


def check_covers(curve: Curve, steps: int, *, key: str = "curve") -> None:
    """Check that the periods of a schedule cover all steps of a stage; after them the rate would stay at the floor.

    Raise ValueError if they do not. The message contains the sum of the periods, and periods that cover the stage.
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
    """Build an optimizer as a run does, and take a step with another one that has the same arguments.

    The first gets parameters with the real shapes, expanded from one number each to save memory. The second gets parameters of
    one number on ``device``. Errors of the optimizer are not caught.
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
