"""The contract of other programs' weights: a key format names the tensors of a network as some program does.

Each family of networks has a file with its ``KEY_FORMATS``; :func:`sr_train.weights.foreign.recognize.recognize` goes
through all of them. To add one, write two functions of names and shapes and list a :class:`KeyFormat` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Shapes = Mapping[str, "tuple[int, ...]"]


class WeightsError(ValueError):
    """A weights file that cannot be used, and why."""


class Foreign(NamedTuple):
    """A network out of another program's file."""

    model: dict[str, Any]  #: ``_target_`` and the constructor's arguments
    state: dict[str, torch.Tensor]
    origin: dict[str, Any]


def same_names(shapes: Shapes) -> Mapping[str, str | None]:
    """Names of a program whose names are ours."""
    return {name: name for name in shapes}


def _any_values(tensors: Mapping[str, torch.Tensor]) -> None:
    """Accept all values."""


@dataclass(frozen=True, kw_only=True)
class KeyFormat:
    """A network's tensors as some program names them. All functions are pure, and none copies a tensor."""

    name: str  #: for messages and a file's origin, e.g. ``BasicSR's EDSR``
    #: (shapes by the file's names) -> our name of each tensor, None for one that the network does not have. A tensor that
    #: our network computes itself is left out. The result is None where the names are another network's.
    names: Callable[[Shapes], Mapping[str, str | None] | None] = same_names
    #: (shapes by our names, scale that the user gave) -> ``_target_`` and arguments of the network. The result is None where
    #: the shapes are another network's. Raises ValueError where ``scale`` is needed. Building compares every tensor later.
    match: Callable[[Shapes, int | None], dict[str, Any] | None]
    #: (tensors by the file's names) -> None, once names and shapes match. Raises ValueError for values that cannot be used.
    check: Callable[[Mapping[str, torch.Tensor]], None] = _any_values
    assumed: str = ""  #: what the file does not hold, a format string with the network's arguments
