"""Learning-rate curves as pure functions of the step: nothing to save, nothing to restore, exact at any resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol


class Curve(Protocol):
    """Step (0 is the first) -> factor of the group's base rate."""

    def __call__(self, step: int) -> float:
        """The factor at ``step``."""
        ...


class Constant:
    """The base rate throughout."""

    def __call__(self, step: int) -> float:  # noqa: D102 - see Curve
        return 1.0


class MultiStep:
    """Times ``gamma`` from each milestone on: EDSR halves at 200k, ESRGAN's GAN stage at 50k, 100k, 200k, 300k.

    Args:
        milestones: steps, rising.
        gamma: factor at each.
    """

    def __init__(self, *, milestones: Sequence[int], gamma: float = 0.5) -> None:
        if list(milestones) != sorted(set(milestones)) or any(m < 1 for m in milestones):
            raise ValueError(f"curve.milestones={list(milestones)} must be rising steps, from 1 on")
        self.milestones = list(milestones)
        self.gamma = gamma

    def __call__(self, step: int) -> float:  # noqa: D102
        return self.gamma ** sum(step >= m for m in self.milestones)


class CosineRestarts:
    """Cosine from weight to floor in each period, then again (SGDR, Loshchilov and Hutter 2017), as EDVR trains.

    Args:
        periods: lengths in steps; after the last the rate stays at the floor.
        weights: the factor each period starts from; 1 for all when not given.
        floor: lowest factor (BasicSR's eta_min divided by the base rate).
    """

    def __init__(self, *, periods: Sequence[int], weights: Sequence[float] | None = None, floor: float = 0.0) -> None:
        weights = [1.0] * len(periods) if weights is None else list(weights)
        if not periods or any(p < 1 for p in periods) or len(weights) != len(periods):
            raise ValueError(
                f"curve.periods={list(periods)} and curve.weights={weights} must be equally many, from 1 on"
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
