"""Choice of the fastest of several functions that compute the same result.

The times are measured once on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

Run = Callable[..., torch.Tensor]

_chosen: dict[tuple[str, str, torch.dtype, bool], str] = {}

_TIMES = 3


def fastest(name: str, ways: Mapping[str, Run], tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> str:
    """Return the name of the fastest function in ``ways``.

    The first call for a kind of device and a dtype measures all functions, with the backward pass if gradients are
    computed. Later calls return the same choice. While torch traces a program, nothing is measured; without an earlier
    measurement, the first name is returned. The same is true for tensors without values, e.g. torch's fake tensors.

    Args:
        name: name of the computation.
        ways: {name: function of ``tensors``}.
        tensors: inputs on one device.
        dtype: dtype of the computation.
    """
    key = (name, tensors[0].device.type, dtype, torch.is_grad_enabled())
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    real = all(type(t) in (torch.Tensor, torch.nn.Parameter) and not t.is_meta for t in tensors)
    if key not in _chosen and not traced and real:
        seconds = {way: measure(run, tensors) for way, run in ways.items()}
        _chosen[key] = min(seconds, key=seconds.__getitem__)
    return _chosen.get(key, next(iter(ways)))


def measure(run: Run, tensors: Sequence[torch.Tensor]) -> float:
    """Call a function a few times, and return the seconds of the fastest call; infinity if a call does not fit into memory."""
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
