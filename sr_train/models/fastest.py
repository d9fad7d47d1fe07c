"""Choice between ways to compute the same thing, measured once on the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

Run = Callable[..., torch.Tensor]

_chosen: dict[tuple[str, str, torch.dtype, bool], str] = {}

_TIMES = 3


def fastest(name: str, ways: Mapping[str, Run], tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> str:
    """Return the name of the fastest of ``ways`` for tensors of this size.

    The first call on a kind of device with a dtype measures, with the backward pass if gradients are computed. Later calls
    return its choice. While a program is traced, nothing is measured, and the first way is the default.

    Args:
        name: name of the computation.
        ways: functions of ``tensors`` by name.
        tensors: inputs on one device.
        dtype: dtype of the computation.
    """
    key = (name, tensors[0].device.type, dtype, torch.is_grad_enabled())
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if key not in _chosen and not traced:
        seconds = {way: measure(run, tensors) for way, run in ways.items()}
        _chosen[key] = min(seconds, key=seconds.__getitem__)
    return _chosen.get(key, next(iter(ways)))


def measure(run: Run, tensors: Sequence[torch.Tensor]) -> float:
    """Return the seconds of the fastest of a few runs; infinity if one does not fit into memory."""
    device, gradients = tensors[0].device, torch.is_grad_enabled()
    leaves = [t.detach().clone().requires_grad_(gradients) for t in tensors]
    seconds: list[float] = []
    try:
        for _ in range(1 + _TIMES):
            _wait(device)
            start = time.perf_counter()
            out = run(*leaves)
            if gradients:
                torch.autograd.grad(out.sum(), leaves)
            _wait(device)
            seconds.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return float("inf")
    return min(seconds[1:])  # the first one is a warm-up


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
