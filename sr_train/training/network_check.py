"""The network of a stage, tried out at every start: written to memory, read back as sr-eval reads a file, run on one patch.

What is wrong with a network of the user's own would otherwise be told at the first save or validation, or after training.
Networks of more than ``LARGE`` numbers are not built a second time for it, and their tensors are not copied: names, types and
shapes are compared. An EDSR of 43 M parameters costs 0.6 s of one core, RRDBNet 0.6 s, an EDSR of 1.4 M 0.07 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sr_train.config.build import build
from sr_train.config.plan import Stage
from sr_train.models import contract
from sr_train.tasks.parameters import freeze
from sr_train.training.trainer import advising_less_memory, on_one_device
from sr_train.weights.file import Weights, check_finite, pack, unpack
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network, check_fits
from sr_train.weights.open import full_arguments, own_packages

LARGE = 4_000_000

_SIDE = 16  # LR pixels of the patch, or the least multiple of what the network takes above it


def try_network(stage: Stage) -> list[str]:
    """Try a stage's network out; raises ValueError with what is wrong with it.

    Returns the names of parameters that the loss does not reach, for which plain ddp would wait; none on one device.
    """
    config = stage.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(config["model"])
        where = f"stage {stage.name}: {type(network).__name__}"
        rebuilt = _read_back(network, config, where)
        lr = _patch(network, int(config["data"]["lr_patch"]), where)
        for scale in stage.scales:
            found = _run(network, lr, scale, where)
            if rebuilt is not None and not torch.equal(found, _run(rebuilt, lr, scale, where)):
                raise ValueError(
                    f"{where} computes something else when it is read back from a weights file: what decides about its output "
                    "must be in parameters, in buffers (persistent=True), or follow from the constructor's arguments"
                )
        if on_one_device(config["trainer"]) or len(stage.scales) > 1:
            return []
        return _unused(network, lr, config["task"].get("trainable") or ["*"])


def _read_back(network: nn.Module, config: Mapping[str, Any], where: str) -> nn.Module | None:
    """Write a network to memory and read it: rebuilt, or None for a large one that was compared by names and shapes."""
    state = dict(network.state_dict())
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"{where}: a weights file holds tensors alone, and its state has others: {', '.join(odd[:5])}")
    allow = own_packages(config)
    large = sum(value.numel() for value in state.values()) > LARGE
    written = {k: v.as_strided((1,), (1,)) if large and v.numel() else v for k, v in state.items()}
    try:
        loaded = unpack(pack(Weights(full_arguments(config["model"]), written), where=where), where=where, allow=allow)
        if not large:
            return build_network(loaded, where=where, allow=allow)
        check_fits(Weights(loaded.model, {k: state[k] for k in loaded.state}), where=where, allow=allow)
        check_finite(state, where=where)
    except WeightsError as error:
        raise ValueError(f"{error} (a weights file could not hold this network: docs/extending.md)") from None
    return None


def _patch(network: nn.Module, lr_patch: int, where: str) -> torch.Tensor:
    """Return a small patch [1, 3, h, w], or window [1, T, 3, h, w], of sides that the network takes."""
    contract.check(network, where)
    multiple = contract.multiple_of(network)
    side = min(-(-_SIDE // multiple) * multiple, lr_patch)
    return torch.rand(contract.input_shape(network, side, side))


def _call(network: nn.Module, lr: torch.Tensor, scale: int) -> Any:
    return network(lr, scale) if contract.branches(network) else network(lr)


def _run(network: nn.Module, lr: torch.Tensor, scale: int, where: str) -> torch.Tensor:
    """Return what a network in eval mode makes of a patch. Raises ValueError where that is no image of the right size."""
    torch.manual_seed(0)  # what is drawn in forward is the same in the network that was read back
    try:
        with torch.enable_grad(), advising_less_memory():
            sr = _call(network.eval(), lr, scale)
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        raise ValueError(f"{where} fails on {_shape(lr)}: {reason} (SR_DEBUG=1 shows where)") from error
    height, width = lr.shape[-2:]
    expected = [1, 3, height * scale, width * scale]
    if not isinstance(sr, torch.Tensor):
        raise ValueError(
            f"{where} returns a {type(sr).__name__} for {_shape(lr)}, expected a tensor {expected}: the image alone"
        )
    if list(sr.shape) != expected or not sr.is_floating_point():
        kind = str(sr.dtype).removeprefix("torch.")
        raise ValueError(
            f"{where} returns {kind} {list(sr.shape)} for {_shape(lr)}, expected floats {expected} (x{scale})"
        )
    if not sr.requires_grad and any(p.requires_grad for p in network.parameters()):
        raise ValueError(
            f"{where} returns an output without a gradient, so it cannot be trained: its forward runs under torch.no_grad(), "
            "or detaches"
        )
    sr = sr.detach()
    if not torch.isfinite(sr).all():
        raise ValueError(f"{where} returns NaN or infinity for {_shape(lr)} in [0, 1], as it is initialized")
    return sr


def _shape(lr: torch.Tensor) -> str:
    return f"{'a patch' if lr.ndim == 4 else 'a window'} {list(lr.shape)}"


def _unused(network: nn.Module, lr: torch.Tensor, trainable: Sequence[str]) -> list[str]:
    """Return the names of the parameters to be trained that a loss of the output does not reach."""
    freeze(network, trainable)
    network(lr).float().sum().backward()
    return [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
