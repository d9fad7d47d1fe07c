"""Contract for reading other programs' weights.

A key format is the scheme by which one program names a network's tensors. Each family of networks has a file with its
``KEY_FORMATS``; :func:`sr_train.weights.foreign.recognize.recognize` tries all of them. To add a key format, write two
functions of names and shapes and add a :class:`KeyFormat` with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Shapes = Mapping[str, "tuple[int, ...]"]


class WeightsError(ValueError):
    """Error for a weights file that cannot be used. The message contains the reason."""


def count_tensors(count: int, one: str, many: str) -> str:
    """Return "1 tensor ONE" or "COUNT tensors MANY", e.g. "2 tensors contain"."""
    return f"1 tensor {one}" if count == 1 else f"{count} tensors {many}"


class Foreign(NamedTuple):
    """Network read from another program's file."""

    model: dict[str, Any]  #: ``_target_`` and the constructor's arguments
    state: dict[str, torch.Tensor]
    origin: dict[str, Any]


def same_names(shapes: Shapes) -> Mapping[str, str | None]:
    """Return all names unchanged, for a program that uses the same names of tensors as sr-train."""
    return {name: name for name in shapes}


def _any_values(tensors: Mapping[str, torch.Tensor]) -> None:
    """Accept all values."""


def _unchanged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state


def stated(channels: int) -> dict[str, int]:
    """Return a network's argument for images of other numbers of channels than 3, the default."""
    return {} if channels == 3 else {"image_channels": channels}


@dataclass(frozen=True, kw_only=True)
class KeyFormat:
    """Scheme by which one program names a network's tensors. The functions have no side effects and copy no tensor."""

    name: str  #: for messages and a file's origin, e.g. ``BasicSR's EDSR``
    #: (shapes by the file's names) -> sr-train's name of each tensor, None for a tensor that sr-train's network lacks.
    #: Tensors that the network computes itself are left out. The result is None if the names belong to another network.
    names: Callable[[Shapes], Mapping[str, str | None] | None] = same_names
    #: (shapes by sr-train's names, scale that the user gave) -> ``_target_`` and arguments of the network. The result is
    #: None if the shapes belong to another network. Raises ValueError if ``scale`` is needed. All shapes are compared
    #: before building.
    match: Callable[[Shapes, int | None], dict[str, Any] | None]
    #: (tensors by the file's names) -> None. Called if names and shapes match. Raises ValueError for unusable values.
    check: Callable[[Mapping[str, torch.Tensor]], None] = _any_values
    #: (tensors by our names) -> tensors with the values that our network needs, for a program that scales images otherwise
    convert: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = _unchanged
    assumed: str = ""  #: settings that the file does not contain, as a format string with the network's arguments
