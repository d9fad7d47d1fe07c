"""Interpolation of networks' weights (ESRGAN section 3.4), and the checks before it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch

from sr_train.weights.file import CHANNELS, Weights, not_finite
from sr_train.weights.foreign.base import WeightsError


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of a network's tensors: their names and values.

    The digest does not depend on the file or the memory format.
    """
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].contiguous().float().numpy().tobytes())
    return found.hexdigest()


def family(weights: Weights) -> set[str]:
    """Return the digests of a network and of its ancestors, the networks from whose weights it was trained.

    Two networks with a common digest have a common ancestor.
    """
    return {digest(weights.state), *(str(a) for a in weights.origin.get("ancestors", []))}


def check_mix(sources: Mapping[str, Weights], mix: Sequence[float]) -> None:
    """Raise WeightsError that lists all reasons if networks cannot be mixed with the factors ``mix``.

    ``sources`` is {name: network}.
    """
    problems = [f"mix={list(mix)}: {len(mix)} factors for {len(sources)} networks"] if len(mix) != len(sources) else []
    problems += [f"mix={list(mix)}: factors must be between 0 and 1"] if not all(0 <= m <= 1 for m in mix) else []
    problems += [f"mix={list(mix)}: factors sum to {sum(mix):g}, expected 1"] if not abs(sum(mix) - 1) <= 1e-6 else []
    (first, a), *others = sources.items()
    for name, b in others:
        keys = dict.fromkeys((*a.model, *b.model))
        problems += [
            f"{name}: model.{k}={b.model.get(k)!r}, {first} has {a.model.get(k)!r}"
            for k in keys
            if k != CHANNELS and a.model.get(k) != b.model.get(k)
        ]
        if a.channels != b.channels:
            problems.append(f"{name}: takes images of {b.channels} channels, {first} those of {a.channels}")
        problems += [f"{name}: {k}: missing" for k in a.state if k not in b.state]
        problems += [f"{name}: {k}: not in {first}" for k in b.state if k not in a.state]
        problems += [
            f"{name}: {k}: {list(b.state[k].shape)}, {first} has {list(v.shape)}"
            for k, v in a.state.items()
            if k in b.state and b.state[k].shape != v.shape
        ]
    for name, weights in sources.items():
        problems += [f"{name}: {k}: contains NaN or infinity" for k in not_finite(weights.state)]
    if problems:
        raise WeightsError("\n  ".join(["these networks cannot be mixed:", *problems]))


def interpolate(states: Sequence[Mapping[str, torch.Tensor]], mix: Sequence[float]) -> dict[str, torch.Tensor]:
    """Return for each tensor the sum of factor * tensor over the networks, computed in float64.

    The sum is ESRGAN's eq. 4 for the factors 1 - alpha and alpha. A network with the factor 1 is reproduced bit for
    bit. Running statistics of BatchNorm are mixed too. BatchNorm's integer counters are taken from the network with the
    largest factor. The networks must pass :func:`check_mix`.
    """
    nearest = states[max(range(len(mix)), key=mix.__getitem__)]
    used = [(state, factor) for state, factor in zip(states, mix, strict=True) if factor]
    result: dict[str, torch.Tensor] = {}
    for name, value in nearest.items():
        if len(used) == 1 or not value.is_floating_point():
            result[name] = value.clone()
        else:
            parts = [state[name].double() * factor for state, factor in used]
            result[name] = torch.stack(parts).sum(0).to(value.dtype)
    return result
