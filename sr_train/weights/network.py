"""Building of networks from the config in a weights file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sr_train.console import listed
from sr_train.weights.file import ANY, Weights, check_model_config, load_weights
from sr_train.weights.foreign.base import WeightsError, count_tensors
from sr_train.weights.mixing import family


def build_model(model: Mapping[str, Any], *, where: str, allow: Sequence[str] = ()) -> nn.Module:
    """Build a network from its config, after :func:`check_model_config` has checked the config."""
    check_model_config(dict(model), where=where, allow=[package for package in allow if package != ANY])
    module_name, _, class_name = model["_target_"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise WeightsError(f"{where}: this version of sr-train has no network {model['_target_']!r}") from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module_name):
        raise WeightsError(f"{where}: {model['_target_']!r} is not the name of a network class")
    try:
        return cls(**{k: v for k, v in model.items() if k != "_target_"})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {class_name} cannot be built from its arguments: {error}") from None


def from_file(*, file: str, scale: int) -> nn.Module:
    """Return the network in a file of another program with its weights, for ``model=spandrel``.

    On the meta device the weights are left out. Raises ValueError if the file's network has another scale.
    """
    with torch.device("cpu"):
        weights = load_weights(file, scale=scale)
    if weights.scales != (scale,):
        raise ValueError(f"model.file={file} is a network for {listed(weights.scales)}; give scale={weights.scales[0]}")
    network = build_model(weights.model, where=file)
    if not any(value.is_meta for value in network.state_dict().values()):
        network.load_state_dict(weights.state)
    return network


def outline(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, without memory for its tensors.

    A constructor that reads values of its tensors (``torch.linspace(...).tolist()``) fails on the meta device. In this
    case, the network is built on the CPU.
    """
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()


def check_fits(weights: Weights, *, where: str, allow: Sequence[str] = ()) -> None:
    """Raise WeightsError that lists the differences if names or shapes of the tensors do not match the network's class."""
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
        count = count_tensors(len(problems), "does not", "do not")
        raise WeightsError(f"{where}: {count} match {weights.model['_target_']}: {shown}")


def build_network(weights: Weights, *, where: str, allow: Sequence[str] = ()) -> nn.Module:
    """Return the network with its weights, in eval mode. Shapes are compared before memory is allocated."""
    check_fits(weights, where=where, allow=allow)
    network = build_model(weights.model, where=where, allow=allow)
    network.load_state_dict(weights.state)
    return network.eval()


def one_scale(weights: Weights, scale: int, *, where: str, allow: Sequence[str] = ()) -> Weights:
    """Return the weights of one branch of an MDSR, as a network with one scale.

    A network with only this scale is returned unchanged. Scores of the branch are renamed: ``set5_x3/y/psnr`` becomes
    ``set5/y/psnr``. Scores of other branches are left out.
    """
    if scale not in weights.scales:
        raise WeightsError(f"{where}: is a network for {', '.join(f'x{s}' for s in weights.scales)}, not for x{scale}")
    if len(weights.scales) == 1:
        return weights
    model = {**weights.model, "scales": [scale]}
    branch = outline(lambda: build_model(model, where=where, allow=allow)).state_dict()
    missing = [name for name in branch if name not in weights.state]
    if missing:
        count = count_tensors(len(missing), "is", "are")
        raise WeightsError(f"{where}: {count} missing for x{scale}: {', '.join(missing[:5])}")
    scores: dict[str, float] = {}
    for name, value in weights.scores.items():
        set_name, _, rest = name.partition("/")
        if set_name.endswith(f"_x{scale}"):
            scores[f"{set_name.removesuffix(f'_x{scale}')}/{rest}"] = value
    origin = {**weights.origin, "scale_of": list(weights.scales), "ancestors": sorted(family(weights))}
    return Weights(model, {name: weights.state[name] for name in branch}, origin, scores)
