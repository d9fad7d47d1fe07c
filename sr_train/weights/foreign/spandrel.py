"""Networks that spandrel recognizes and we do not, for ``weights=`` and ``model=spandrel``. Only spandrel's MIT part is used.

A file is read by our own reader, which runs nothing from it; spandrel gets plain tensors.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sr_train.models.spandrel import MISSING, SpandrelNetwork, arguments
from sr_train.torch_files import check_numbers, check_tensors
from sr_train.weights.foreign.base import Foreign, WeightsError
from sr_train.weights.foreign.unwrap import Part

HINT = f"spandrel may recognize it ({MISSING})"  #: end of the message for an unknown network


def spandrel() -> Any:
    """Return the package spandrel; None if it is not installed."""
    try:
        return importlib.import_module("spandrel")
    except ModuleNotFoundError as error:
        if error.name not in ("spandrel", "einops"):
            raise
        return None


def recognize_by_spandrel(path: Path, part: Part) -> Foreign | None:
    """Return the network in a part of a file; None if spandrel does not recognize it or is not installed.

    Raises WeightsError for a network that is not for SR of RGB images or does not fit our contract, with the reason.
    """
    package = spandrel()
    if package is None:
        return None
    check_tensors(path, part.tensors)
    tensors = {k: v.detach().float().clone() if v.is_floating_point() else v.clone() for k, v in part.tensors.items()}
    try:
        with torch.device("cpu"):
            found = package.MAIN_REGISTRY.load(tensors)
    except package.UnsupportedModelError:
        return None
    except Exception as error:  # its networks raise any exception for tensors that do not fit
        raise WeightsError(
            f"{path}: spandrel cannot load this network ({' '.join(str(error).split())[:200]})"
        ) from None
    where = f"{path}: spandrel recognizes {found.architecture.name}"
    reason = _unusable(found, package)
    if reason is not None:
        raise WeightsError(f"{where}, which {reason}")
    model = _described(found, where)
    state = {name: value.contiguous() for name, value in found.model.state_dict().items()}
    check_numbers(path, {k: v for k, v in state.items() if v.is_floating_point()})
    _compare(model, state, found, where)
    origin = {"file": path.name, "layout": f"spandrel's {found.architecture.name}", "wrapper": part.where}
    return Foreign(model, state, {k: v for k, v in origin.items() if v})


def _unusable(found: Any, package: Any) -> str | None:
    """Return why a network cannot be used; None if it can."""
    if not isinstance(found, package.ImageModelDescriptor) or found.purpose != "SR":
        return f"is a network for {found.purpose} and not for SR"
    if (found.input_channels, found.output_channels) != (3, 3):
        return f"has {found.input_channels} input and {found.output_channels} output channels; only RGB is supported"
    if found.size_requirements.square:
        return "takes square images only"
    return None


def _described(found: Any, where: str) -> dict[str, Any]:
    """Return the config that rebuilds a network. Arguments that are no plain values keep their defaults."""
    given: Mapping[str, Any] | None = getattr(found.model, "hyperparameters", None)
    if given is None:
        raise WeightsError(
            f"{where}, which does not store its arguments, so that it cannot be written to a weights file"
        )
    kind = cast("type[nn.Module]", type(found.model))
    needs = found.size_requirements
    return arguments(
        {
            "scale": int(found.scale),
            "network": f"{kind.__module__}.{kind.__qualname__}",
            "hyperparameters": {k: json.loads(json.dumps(v)) for k, v in given.items() if _plain(v)},
            "multiple_of": int(needs.multiple_of),
            "minimum": int(needs.minimum),
        }
    )


def _plain(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@torch.no_grad()
def _compare(model: Mapping[str, Any], state: Mapping[str, torch.Tensor], found: Any, where: str) -> None:
    """Raise WeightsError unless the network that a weights file rebuilds gives what spandrel's own call gives."""
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            network: nn.Module = SpandrelNetwork(**{k: v for k, v in model.items() if k != "_target_"}).eval()
            network.load_state_dict(state)
        side = -(-max(16, model["minimum"]) // model["multiple_of"]) * model["multiple_of"]
        image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        ours, theirs = network(image), found(image)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{where}, which cannot be rebuilt ({' '.join(str(error).split())[:200]})") from None
    if ours.shape != theirs.shape or not torch.allclose(ours.clamp(0, 1), theirs, atol=1e-5):
        raise WeightsError(f"{where}, whose output needs more than a call of the network; it is not supported")
