"""Choice of the kernel that computes 3x3 convolutions of float32 inference on a CPU.

``exact`` is torch's own choice (oneDNN). ``winograd`` is torch's NNPACK kernel, which needs fewer multiplications; its
relative error is about 1e-5. Only convolutions with stride 1, padding 1, one group and more than three input and output
channels can use it. Networks are not changed: the choice holds inside a ``with`` block only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from sr_train.models.fastest import fastest

CHOICES = ("exact", "winograd", "auto")

_FEW = 3  # with as few channels Winograd is slower
_SIDE = 128  # longest side of the maps on which kernels are measured


@functools.cache
def winograd_is_available() -> bool:
    """Return true if torch can compute a convolution by NNPACK on this machine."""
    backend: Any = getattr(torch.backends, "nnpack", None)
    if backend is None or not hasattr(torch.ops.aten, "_nnpack_spatial_convolution") or not backend.is_available():
        return False
    try:
        winograd(torch.zeros(1, 4, 8, 8), torch.zeros(4, 4, 3, 3), None)
    except RuntimeError:
        return False
    return True


def winograd(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Apply a 3x3 convolution with padding 1 by Winograd's method: [B, C, h, w] -> [B, C', h, w]."""
    run = torch.ops.aten._nnpack_spatial_convolution.default
    return run(x.contiguous(), weight.contiguous(), bias, [1, 1], [1, 1])


def _exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def _is_pair(value: object, number: int) -> bool:
    return value in (number, (number,), (number, number), [number], [number, number])


def _suits(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> bool:
    """Return true for arguments of ``conv2d`` with which Winograd gives the same result, to rounding."""
    tensors = [t for t in (x, weight, bias) if t is not None]
    return (
        x.ndim == 4
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) > _FEW
        and x.shape[1] == weight.shape[1]
        and x.numel() > 0
        and groups == 1
        and _is_pair(stride, 1)
        and _is_pair(dilation, 1)
        and (padding == "same" or _is_pair(padding, 1))
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and not torch.is_autocast_enabled("cpu")
    )


def _faster(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
    """Return the faster kernel for these channels and threads; it is measured once, on at most 128x128 pixels."""
    name = f"conv3x3 {tuple(weight.shape[:2])}, {torch.get_num_threads()} threads"
    part = x[:1, :, :_SIDE, :_SIDE]
    tensors = (part, weight) if bias is None else (part, weight, bias)
    ways = {"exact": _exact, "winograd": winograd}
    return fastest(name, {k: functools.partial(_call, run) for k, run in ways.items()}, tensors, x.dtype)


def _call(run: Callable[..., torch.Tensor], x: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
    return run(x, weight, bias[0] if bias else None)


class _Kernels(TorchFunctionMode):
    """Replacement of ``conv2d`` by Winograd, for the arguments that it suits."""

    def __init__(self, choice: str) -> None:
        super().__init__()
        self.choice = choice

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.conv2d or len(args) < 2 or not _suits(*args, **kwargs):
            return func(*args, **kwargs)
        x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias")
        if self.choice == "auto" and _faster(x, weight, bias) == "exact":
            return func(*args, **kwargs)
        return winograd(x, weight, bias)


def kernels(choice: str, model: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which 3x3 convolutions use the chosen kernel.

    Args:
        choice: ``exact``, ``winograd``, or ``auto`` for the faster one of both by a measurement on this machine. Without
            NNPACK, every choice computes as ``exact``.
        model: network that is called; compiled networks are not changed.
    """
    compiled = any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if choice == "exact" or compiled or traced or not winograd_is_available():
        return nullcontext()
    return _Kernels(choice)
