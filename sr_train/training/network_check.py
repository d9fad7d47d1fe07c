"""Test of a stage's network before training starts.

The network is written to a weights file in memory, read back as sr-eval reads a file, and run on one patch. Without
this test, errors of a user's network would appear at the first save or validation, or after training. A network of more
than ``LARGE`` numbers is not built a second time and its tensors are not copied; only names, types and shapes are
compared. On one core, the test takes 0.6 s for an EDSR of 43 M parameters and for RRDBNet, and 0.07 s for an EDSR of
1.4 M parameters.
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

_SIDE = 16  # side of the patch in LR pixels; rounded up to a multiple that the network accepts


def try_network(stage: Stage) -> list[str]:
    """Test a stage's network on one patch. Raise ValueError for the first problem that is found.

    Return the names of trainable parameters that get no gradient, because plain ddp would wait for their gradients. On
    one device, return an empty list.
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
                    f"{where}: the output changes when the network is read back from a weights file: all that affects the "
                    "output must be in parameters, in buffers (persistent=True), or in the constructor's arguments"
                )
        if on_one_device(config["trainer"]) or len(stage.scales) > 1:
            return []
        return _unused(network, lr, config["task"].get("trainable") or ["*"])


def _read_back(network: nn.Module, config: Mapping[str, Any], where: str) -> nn.Module | None:
    """Write a network to a weights file in memory, and return the network that is built from this file.

    For a large network only names and shapes are compared, and None is returned. Raise ValueError if the file cannot be
    written or does not fit the network.
    """
    state = dict(network.state_dict())
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"{where}: the state_dict must contain only tensors; other values: {', '.join(odd[:5])}")
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
        raise ValueError(f"{error} (this network cannot be written to a weights file; see docs/extending.md)") from None
    return None


def _patch(network: nn.Module, lr_patch: int, where: str) -> torch.Tensor:
    """Return a small random patch [1, C, h, w], or window [1, T, C, h, w], of a size that the network accepts."""
    contract.check(network, where)
    multiple = contract.multiple_of(network)
    side = min(-(-_SIDE // multiple) * multiple, lr_patch)
    return torch.rand(contract.input_shape(network, side, side))


def _call(network: nn.Module, lr: torch.Tensor, scale: int) -> Any:
    return network(lr, scale) if contract.branches(network) else network(lr)


def _run(network: nn.Module, lr: torch.Tensor, scale: int, where: str) -> torch.Tensor:
    """Return a network's output for a patch, in eval mode. Raise ValueError unless it is an image of the right size."""
    torch.manual_seed(0)  # so that random numbers in forward are equal in both networks
    try:
        with torch.enable_grad(), advising_less_memory():
            sr = _call(network.eval(), lr, scale)
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        raise ValueError(f"{where} fails on {_shape(lr)}: {reason} (SR_DEBUG=1 shows where)") from error
    height, width = lr.shape[-2:]
    expected = [1, lr.shape[-3], height * scale, width * scale]
    if not isinstance(sr, torch.Tensor):
        raise ValueError(
            f"{where} returns a {type(sr).__name__} for {_shape(lr)}, expected only the image, a tensor {expected}"
        )
    if list(sr.shape) != expected or not sr.is_floating_point():
        kind = str(sr.dtype).removeprefix("torch.")
        raise ValueError(
            f"{where} returns {kind} {list(sr.shape)} for {_shape(lr)}, expected floats {expected} (x{scale})"
        )
    if not sr.requires_grad and any(p.requires_grad for p in network.parameters()):
        raise ValueError(
            f"{where} returns an output without a gradient, so the network cannot be trained: remove torch.no_grad() or "
            "detach() from its method forward"
        )
    sr = sr.detach()
    if not torch.isfinite(sr).all():
        raise ValueError(f"{where} returns NaN or infinity for {_shape(lr)} in [0, 1] with its initial weights")
    return sr


def _shape(lr: torch.Tensor) -> str:
    return f"{'a patch' if lr.ndim == 4 else 'a window'} {list(lr.shape)}"


def _unused(network: nn.Module, lr: torch.Tensor, trainable: Sequence[str]) -> list[str]:
    """Return the names of trainable parameters that get no gradient from a loss on the output."""
    freeze(network, trainable)
    network(lr).float().sum().backward()
    return [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
