"""A batch divided into parts, each of which one thread of the CPU computes forward and backward (``task.parts``).

Threads that share the work of every operation wait for each other several hundred times per step. Threads that have parts of
the batch wait twice per step. So a step is faster, and another program that uses a core makes it slower in proportion only.

Gradients of the parts are added in the order of the parts. So the result depends on the number of parts, but not on the number
of threads that compute them: a machine with one core gets the same bits as a machine with many cores.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable

from sr_train.models import contract
from sr_train.tasks.tensors import places

_torch: Any = torch  # its functions for lists of tensors have no types

_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


def undividable(network: nn.Module) -> str | None:
    """Return the reason why a batch cannot be divided into parts for a network; None if it can."""
    for name, module in cast("Iterator[tuple[str, nn.Module]]", network.named_modules()):
        if isinstance(module, _NORMS) and ("Batch" in type(module).__name__ or module.track_running_stats):
            return f"{name} ({type(module).__name__}) computes statistics of the whole batch"
        if isinstance(module, _DROPOUTS):
            return f"{name} ({type(module).__name__}) draws random numbers, whose order threads would change"
    return None


def checked_parts(parts: int | Literal["auto"], network: nn.Module) -> int:
    """Return the number of parts of a batch; 1 for ``auto``. Raise ValueError if the network cannot compute parts."""
    count = 1 if parts == "auto" else parts
    reason = undividable(network) if count > 1 else None
    if reason is not None:
        raise ValueError(f"task.parts={count}: {type(network).__name__}'s layer {reason}; give task.parts=1 or auto")
    return count


def several_processes() -> bool:
    """Return true if the run has several processes, each with batches of its own."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Graph(NamedTuple):
    """Result of one part: the leaves of its graph (the image last, if it needs a gradient), and the output."""

    leaves: list[torch.Tensor]
    output: torch.Tensor


class BatchParts:
    """A network that is called with a batch and computes it in parts.

    The call returns the output for the whole batch, so a loss may depend on all images. The parts have copies of the network
    that share its parameters and buffers, because one module cannot be called by two threads at the same time.

    Args:
        network: network to call. It must not change its buffers.
        parts: number of parts, at least 1. A batch of fewer images has one part per image.
        threads: number of threads that compute the parts; default: as many as torch uses, at most ``parts``.
    """

    def __init__(self, network: nn.Module, parts: int, threads: int | None = None) -> None:
        self._network, self._parts, self._threads = network, parts, threads
        self._copies: list[nn.Module] = []
        self._used: list[tuple[nn.Module, float]] = []
        self._pool: ThreadPoolExecutor | None = None

    def divides(self, lr: torch.Tensor) -> bool:
        """Return true if a batch is computed in parts: it has several images, in the memory of the CPU."""
        return self._parts > 1 and len(lr) > 1 and lr.device.type == "cpu"

    def numbers(self) -> dict[str, torch.Tensor]:
        """Return the numbers for the logs of a network that is :class:`.contract.Watched`: means over the newest batch."""
        if not isinstance(self._network, contract.Watched):
            return {}
        if not self._used:
            return self._network.numbers()
        found = [(cast("contract.Watched", network).numbers(), share) for network, share in self._used]
        return {name: torch.stack([share * own[name] for own, share in found]).sum(0) for name in found[0][0]}

    def alarm(self) -> str | None:
        """Return the first warning of a network that is :class:`.contract.Watched`, if it has one."""
        networks = [network for network, _ in self._used] or [self._network]
        alarms = (network.alarm() for network in networks if isinstance(network, contract.Watched))
        return next((alarm for alarm in alarms if alarm is not None), None)

    def __call__(self, lr: torch.Tensor, *arguments: Any) -> torch.Tensor:
        """Run the network: the arguments are those of the network, the first is the batch of images or windows."""
        self._used = []
        if not self.divides(lr):
            return self._network(lr, *arguments)
        count = min(self._parts, len(lr))
        self._prepare(count)
        images = lr.tensor_split(count)
        self._used = [(c, len(x) / len(lr)) for c, x in zip(self._copies, images, strict=False)]
        trained = [p for p in self._network.parameters() if p.requires_grad]
        if not torch.is_grad_enabled():
            return torch.cat([graph.output for graph in self.forward(lr, arguments, leaves=False, image=False)])
        return cast("Any", _Divided).apply(self, arguments, lr, *trained)

    def forward(self, lr: torch.Tensor, arguments: Sequence[Any], *, leaves: bool, image: bool) -> list[_Graph]:
        """Compute the parts of a batch.

        Args:
            lr: the batch.
            arguments: other arguments of the network.
            leaves: true to keep the graphs for the backward pass.
            image: true if the batch needs a gradient, too.
        """
        images = lr.detach().tensor_split(len(self._used))
        # autocast belongs to a thread; without its cache, which all threads would share
        cast_to = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        networks = [network for network, _ in self._used]
        before = [(store[name], store[name]._version) for store, name in _buffers(self._network)]
        graphs = self.run(
            [
                partial(_compute, n, x, arguments, leaves=leaves, image=image, cast_to=cast_to)
                for n, x in zip(networks, images, strict=True)
            ]
        )
        for network in (self._network, *networks):
            now = [(store[name], store[name]._version) for store, name in _buffers(network)]
            if any(a is not b or v != w for (a, v), (b, w) in zip(before, now, strict=True)):
                raise ValueError(
                    f"task.parts={self._parts}: {type(network).__name__} changes its buffers when it is called, which the "
                    "parts of a batch cannot do together; give task.parts=1"
                )
        return graphs

    def run(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Call functions in the threads. Return their results in order, or raise the first error after all have ended."""
        futures = self.start(work)
        wait(futures)
        return [future.result() for future in futures]

    def start(self, work: Sequence[Callable[[], Any]]) -> list[Future[Any]]:
        """Start functions in the threads."""
        if self._pool is None:
            self._pool = _pool(self._threads or min(self._parts, torch.get_num_threads()))
        return [self._pool.submit(call) for call in work]

    def _prepare(self, count: int) -> None:
        """Make the copies, and let them have the network's current parameters, buffers and modes."""
        while len(self._copies) < count:
            self._copies.append(_sharing_copy(self._network, self._parts))
        for network in self._copies[:count]:
            for its, own in zip(network.modules(), self._network.modules(), strict=True):
                its.training = own.training
            for (its, name), (own, _) in zip(places(network), places(self._network), strict=True):
                mine, current = its[name], own[name]
                if not isinstance(mine, nn.Parameter):
                    its[name] = current
                    continue
                mine.requires_grad_(current.requires_grad)
                if mine.data_ptr() != current.data_ptr():
                    mine.data = current.data


class _Divided(torch.autograd.Function):
    """A network on a batch, computed in parts: an operation whose gradients for the parameters are sums over the parts."""

    @staticmethod
    def forward(
        ctx: Any, parts: BatchParts, arguments: Sequence[Any], lr: torch.Tensor, *trained: torch.Tensor
    ) -> torch.Tensor:
        """Return the output for the whole batch."""
        ctx.parts, ctx.count, ctx.image = parts, len(trained), ctx.needs_input_grad[2]
        ctx.graphs = parts.forward(lr, arguments, leaves=True, image=ctx.image)
        return torch.cat([graph.output.detach() for graph in ctx.graphs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of the batch and of each parameter; None for a parameter that no part used."""
        graphs, ctx.graphs = ctx.graphs, None
        if graphs is None:
            raise RuntimeError("task.parts: the graph of a batch is freed after its backward pass")
        outer = gradients[0].tensor_split(len(graphs))
        futures = ctx.parts.start([partial(_differentiate, g, o) for g, o in zip(graphs, outer, strict=True)])
        wait(futures)
        images: list[torch.Tensor] = []
        total: list[torch.Tensor | None] = [None] * ctx.count
        for future in futures:
            found = future.result()
            if ctx.image:
                images.append(found.pop())
            total = _sum(total, found)
        return None, None, torch.cat(images) if images else None, *total


def _compute(
    network: nn.Module,
    lr: torch.Tensor,
    arguments: Sequence[Any],
    *,
    leaves: bool,
    image: bool,
    cast_to: torch.dtype | None,
) -> _Graph:
    if image:
        lr = lr.clone().requires_grad_()
    enabled = cast_to is not None
    with torch.set_grad_enabled(leaves), torch.autocast("cpu", cast_to, enabled=enabled, cache_enabled=False):
        output = network(lr, *arguments)
    trained: list[torch.Tensor] = [p for p in network.parameters() if p.requires_grad]
    return _Graph([*trained, lr] if image else trained, output)


def _differentiate(graph: _Graph, outer: torch.Tensor) -> list[torch.Tensor | None]:
    if not graph.output.requires_grad:
        return [None] * len(graph.leaves)
    return list(torch.autograd.grad(graph.output, graph.leaves, outer, allow_unused=True))


def _sum(total: list[torch.Tensor | None], more: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    pairs = [(a, b) for a, b in zip(total, more, strict=True) if a is not None and b is not None]
    if pairs:
        _torch._foreach_add_([a for a, _ in pairs], [b for _, b in pairs])
    return [b if a is None else a for a, b in zip(total, more, strict=True)]


def _buffers(network: nn.Module) -> list[tuple[dict[str, Any], str]]:
    return [(store, name) for store, name in places(network) if not isinstance(store[name], nn.Parameter)]


def _sharing_copy(network: nn.Module, parts: int) -> nn.Module:
    """Return a copy of a network that has its own graph, but the memory of the network's parameters and buffers."""
    shared: dict[int, Any] = {}
    for store, name in places(network):
        tensor = store[name]
        is_parameter = isinstance(tensor, nn.Parameter)
        shared[id(tensor)] = nn.Parameter(tensor.detach(), tensor.requires_grad) if is_parameter else tensor
    try:
        return copy.deepcopy(network, shared)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"task.parts={parts}: {type(network).__name__} cannot be copied ({reason}); give task.parts=1"
        ) from error


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads in which torch uses one thread for an operation.

    torch keeps this number for each thread, but also remembers the last one for threads that begin later.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sr-train-part")
    own, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # this thread has read the number now and does not read it again
        ready.wait()

    begun = [pool.submit(begin) for _ in range(threads)]
    ready.wait()
    wait(begun)
    torch.set_num_threads(own)
    return pool
