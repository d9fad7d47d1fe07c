"""BatchNorm whose statistics are over the images of all processes, on CPU and CUDA.

``torch.nn.SyncBatchNorm`` is not used, because it refuses tensors on the CPU, and waits for the GPU in every forward
pass. Parameters and buffers have the same names, shapes and values as in BatchNorm, so checkpoints, the EMA and
exported files are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

P = ParamSpec("P")
R = TypeVar("R")

Statistics = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  #: mean [C], variance [C], number of values


def _over_processes(x: torch.Tensor) -> Statistics:
    """Return mean [C], biased variance [C] and number of values per channel (a scalar), over the batches of all processes.

    Processes may have different numbers of values. All processes add the parts in the order of ranks, so they get the
    same bits.
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    blank = torch.zeros(2, x.shape[1], dtype=kind, device=x.device)  # makes the statistics of bf16 float32, too
    mean, variance = torch.batch_norm_update_stats(x, blank[0], blank[1], 0.0)
    count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
    mine = torch.cat((mean.double(), variance.double(), count))
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    table, channels = torch.stack(every), len(mean)
    means, variances, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    variance = ((variances + (means - mean).square()) * counts).sum(0) / total
    return mean.to(kind), variance.to(kind), total.to(kind)


class _Normalized(torch.autograd.Function):
    """Function (x - mean) / sqrt(variance + eps) * weight + bias.

    Mean and variance are over the batches of all processes. The gradient of ``x`` depends on the losses of all
    processes, because mean and variance do. Its formula (Ioffe and Szegedy 2015, section 3) contains sums over the
    batch; these are added over all processes. The gradients of weight and bias are sums over the batch of this process
    only, because ddp averages them over the processes later.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, statistics: Statistics, eps: float
    ) -> torch.Tensor:
        mean, variance, total = statistics
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, variance, total = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            of_out, x, weight, mean, variance, mean, inverse, False, ctx.eps, [False, True, True]
        )
        if not ctx.needs_input_grad[0]:
            return None, of_weight, of_bias, None, None
        sums = torch.stack((of_bias, of_weight)).to(mean.dtype)  # of dL/dy, and of dL/dy times the normalized x
        dist.all_reduce(sums)
        shift, slope = sums / total
        scale, shape = weight * inverse, (-1, *(1,) * (x.ndim - 2))
        # scale (dL/dy - shift - slope (x - mean) inverse): one pass over x, one over dL/dy
        constant = (scale * (slope * mean * inverse - shift)).view(shape)
        of_x = torch.addcmul(constant, x.to(mean.dtype), (-scale * slope * inverse).view(shape))
        return of_x.addcmul_(of_out.to(mean.dtype), scale.view(shape)).to(x.dtype), of_weight, of_bias, None, None


def _not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Exclude a function from ``torch.compile``, which cannot trace communication between processes."""
    return cast("Any", torch.compiler).disable(function)


class _Synchronized(_BatchNorm):
    """Mixin of the classes that :func:`synchronize` uses: BatchNorm with statistics over the batches of all processes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize [B, C, ...]. In eval mode, and with one process, this is plain BatchNorm without communication."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        return self._normalize(input)

    @_not_compiled
    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(x)  # pyright: ignore[reportUnknownMemberType]
        with torch.no_grad():
            mean, variance, total = statistics = _over_processes(x)
            self._track(mean, variance * (total / (total - 1)))
        weight, bias = (self._parameters.get(name) for name in ("weight", "bias"))
        weight = mean.new_ones(len(mean)) if weight is None else weight
        bias = mean.new_zeros(len(mean)) if bias is None else bias
        normalized = _Normalized.apply(x, weight, bias, statistics, self.eps)
        assert isinstance(normalized, torch.Tensor)
        return normalized

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Update BatchNorm's running mean and variance. ``variance`` is the unbiased variance of the batch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, newest in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - share).add_(newest.to(running.dtype), alpha=share)


@cache
def _class_for(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Synchronized{kind.__name__}", (_Synchronized, kind), {})


def synchronize(network: nn.Module) -> int:
    """Let the BatchNorm layers of a network compute statistics over all processes. Return the number of these layers.

    The layers stay the same objects, with the same tensors. A layer whose class has its own ``forward`` is not changed.
    """
    found = [m for m in network.modules() if isinstance(m, _BatchNorm) and type(m).forward is _BatchNorm.forward]
    for module in found:
        module.__class__ = _class_for(type(module))
    return len(found)


def local_layers(network: nn.Module) -> int:
    """Return the number of BatchNorm layers whose statistics are computed over the batch of one process only."""
    return sum(
        isinstance(m, _BatchNorm) and not isinstance(m, (_Synchronized, nn.SyncBatchNorm)) for m in network.modules()
    )


def synchronized_buffers(network: nn.Module) -> set[str]:
    """Return the names of the buffers of synchronized BatchNorm layers. These buffers are equal in all processes."""
    own = {id(b) for m in network.modules() if isinstance(m, _Synchronized) for b in m.buffers(recurse=False)}
    return {name for name, buffer in network.named_buffers() if id(buffer) in own}
