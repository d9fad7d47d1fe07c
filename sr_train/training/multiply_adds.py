"""Multiply-adds of a network, counted as in papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sr_train.config.build import build
from sr_train.models import contract

_SIDE = 96  # side in LR pixels of the input that is counted


def multiply_adds(model: Mapping[str, Any], *, scale: int | None = None, width: int = 1280, height: int = 720) -> float:
    """Return the number of multiply-adds of one forward pass for an output of ``width`` x ``height``, counted as in papers.

    For a network with several scales, the branch for ``scale`` is counted.
    """
    try:
        work, out = _counted(model, scale, "meta")
    except (AttributeError, NotImplementedError, RuntimeError):  # e.g. weight_norm has no kernel without memory
        work, out = _counted(model, scale, "cpu")
    return work * width * height / (_SIDE * out) ** 2


def _counted(model: Mapping[str, Any], scale: int | None, device: str) -> tuple[float, int]:
    """Return the number of multiply-adds of one forward pass for ``_SIDE`` x ``_SIDE`` LR pixels, and the network's scale."""
    with torch.device(device), torch.no_grad():
        network = build(model).eval()
        branch = network if scale is None else contract.branch(network, scale)
        with FlopCounterMode(display=False) as counter:
            branch(torch.empty(contract.input_shape(network, _SIDE, _SIDE)))
    return counter.get_total_flops() / 2, contract.scale(branch)
