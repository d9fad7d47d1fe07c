"""Networks built from the config in a weights file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sr_train.weights.file import ANY, Weights, check_model_config
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.mixing import family


def build_model(model: Mapping[str, Any], *, where: str, allow: Sequence[str] = ()) -> nn.Module:
    """Build a network from its config, checked by :func:`check_model_config` first."""
    check_model_config(dict(model), where=where, allow=[package for package in allow if package != ANY])
    module_name, _, class_name = model["_target_"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise WeightsError(f"{where}: there is no network {model['_target_']!r} in this version") from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module_name):
        raise WeightsError(f"{where}: {model['_target_']!r} is not a network")
    try:
        return cls(**{k: v for k, v in model.items() if k != "_target_"})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {class_name} cannot be built from its arguments: {error}") from None


def outline(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, without memory for its tensors.

    A constructor that reads the values of tensors it makes (``torch.linspace(...).tolist()``) cannot do that there; its network
    is built on the CPU.
    """
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()


def check_fits(weights: Weights, *, where: str, allow: Sequence[str] = ()) -> None:
    """Compare tensors with the network that is to hold them, by names and shapes. Raises WeightsError with the differences."""
    expected = outline(lambda: build_model(weights.model, where=where, allow=allow)).state_dict()
    problems = [f"{k}: missing" for k in expected.keys() - weights.state.keys()]
    problems += [f"{k}: unknown" for k in weights.state.keys() - expected.keys()]
    problems += [
        f"{k}: {list(weights.state[k].shape)}, expected {list(v.shape)}"
        for k, v in expected.items()
        if k in weights.state and weights.state[k].shape != v.shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:8])
        raise WeightsError(f"{where}: {len(problems)} tensors do not fit {weights.model['_target_']}: {shown}")


def build_network(weights: Weights, *, where: str, allow: Sequence[str] = ()) -> nn.Module:
    """The network with its weights, in eval mode. Sizes are compared before memory is taken for them."""
    check_fits(weights, where=where, allow=allow)
    network = build_model(weights.model, where=where, allow=allow)
    network.load_state_dict(weights.state)
    return network.eval()


def one_scale(weights: Weights, scale: int, *, where: str, allow: Sequence[str] = ()) -> Weights:
    """The branch of one scale as a network of its own; of a network that has only this scale, the same.

    Scores of sets that are named after the scale (``set5_x3/y/psnr``) go along under the sets' own names.
    """
    if scale not in weights.scales:
        raise WeightsError(f"{where}: is a network for {', '.join(f'x{s}' for s in weights.scales)}, not for x{scale}")
    if len(weights.scales) == 1:
        return weights
    model = {**weights.model, "scales": [scale]}
    branch = outline(lambda: build_model(model, where=where, allow=allow)).state_dict()
    missing = [name for name in branch if name not in weights.state]
    if missing:
        raise WeightsError(f"{where}: {len(missing)} tensors of x{scale} are missing: {', '.join(missing[:5])}")
    scores: dict[str, float] = {}
    for name, value in weights.scores.items():
        set_name, _, rest = name.partition("/")
        if set_name.endswith(f"_x{scale}"):
            scores[f"{set_name.removesuffix(f'_x{scale}')}/{rest}"] = value
    origin = {**weights.origin, "scale_of": list(weights.scales), "ancestors": sorted(family(weights))}
    return Weights(model, {name: weights.state[name] for name in branch}, origin, scores)
