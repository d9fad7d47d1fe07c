"""Checks of the arguments of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast


def _numbers(value: object) -> bool:
    """Return true for a list of numbers."""
    items = cast("Sequence[object]", value) if isinstance(value, Sequence) else [None]
    return all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items)


def check_probability(name: str, value: float) -> float:
    """Return a probability; raise a ValueError unless it is in [0, 1]."""
    if not _numbers([value]) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected a probability from 0 to 1")
    return float(value)


def interval(name: str, value: Sequence[float], least: float, most: float = float("inf")) -> tuple[float, float]:
    """Return [low, high] as a tuple; raise a ValueError unless ``least`` <= low <= high <= ``most``."""
    if not _numbers(value) or len(value) != 2 or not least <= value[0] <= value[1] <= most:
        bounds = f"at least {least:g}" if most == float("inf") else f"from {least:g} to {most:g}"
        raise ValueError(f"{name}={value}: expected [LOW, HIGH] with LOW not above HIGH, {bounds}")
    return float(value[0]), float(value[1])


def integers(name: str, value: Sequence[int], least: int, most: int) -> tuple[int, int]:
    """Return [low, high] as integers; raise a ValueError as :func:`interval` does, or if they are not integers."""
    low, high = interval(name, value, least, most)
    if low != int(low) or high != int(high):
        raise ValueError(f"{name}={list(value)}: expected integers")
    return int(low), int(high)


def odd_sizes(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Return [smallest, largest] size of a kernel; raise a ValueError unless both are odd and from 1 to 101."""
    low, high = integers(name, value, 1, 101)
    if low % 2 == 0 or high % 2 == 0:
        raise ValueError(f"{name}={list(value)}: sizes of kernels are odd")
    return low, high


def weights(name: str, value: Mapping[str, float], known: Sequence[str]) -> dict[str, float]:
    """Return {choice: relative frequency}; raise a ValueError for an unknown choice, a negative number, or only zeros."""
    if not isinstance(cast("object", value), Mapping) or not _numbers(list(value.values())):
        raise ValueError(f"{name}={value}: expected a mapping to numbers; choose from {', '.join(known)}")
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ValueError(f"{name}: {unknown[0]!r} is unknown; choose from {', '.join(known)}")
    if not value or min(value.values()) < 0 or not 0 < sum(value.values()) < float("inf"):
        raise ValueError(f"{name}={dict(value)}: expected numbers that are not negative, and at least one above 0")
    return {key: float(number) for key, number in value.items()}


def names(name: str, value: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Return a list of choices; raise a ValueError if it is empty or contains an unknown choice."""
    if isinstance(value, str) or not isinstance(cast("object", value), Sequence):
        raise ValueError(f"{name}={value}: expected a list; choose from {', '.join(known)}")
    unknown = [key for key in value if key not in known]
    if unknown or not value:
        what = f"{unknown[0]!r} is unknown" if unknown else "the list is empty"
        raise ValueError(f"{name}: {what}; choose from {', '.join(known)}")
    return list(value)
