"""Memory of a training step by the bytes of its tensors, counted without the memory itself."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sr_train.batch import Batch
from sr_train.config.build import build
from sr_train.models import contract
from sr_train.models.deform import DeformableConv
from sr_train.models.features import FeatureExtractor
from sr_train.tasks.base import SRTask
from sr_train.tasks.gan import GANTask

GPUS = (8, 12, 16, 24)  #: sizes of common GPUs, in GB of 10^9 bytes

#: What a process needs on a GPU besides its tensors: CUDA's context and kernels, and the share of the allocator and of
#: cuDNN's workspaces. Assumed, not measured.
CONTEXT, SLACK = 0.7e9, 1.15

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class LiveBytes(TorchDispatchMode):
    """Counter of the bytes of storages that operations have made and that still exist: ``now``, and the maximum ``most``.

    Temporary memory inside an operation is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata)
        self.most = max(self.most, self.now)
        return out

    def _freed(self, storage: int) -> None:
        self.now -= self.known.pop(storage)


class StepMemory(NamedTuple):
    """Bytes of the tensors of a training step."""

    kept: int  #: between two steps: weights, the EMA and the state of the optimizer
    most: int  #: largest sum in a step
    graphs: dict[str, int]  #: {network: what its forward passes leave for the backward pass}

    @property
    def on_gpu(self) -> float:
        """Estimated need of the process on a GPU, with :data:`CONTEXT` and :data:`SLACK`."""
        return self.most * SLACK + CONTEXT


def outline_task(config: Mapping[str, Any], **options: Any) -> SRTask:
    """Build a stage's task on the meta device, with other values for some options of the task. No file of weights is read.

    The task is attached to a stand-in for the trainer, so that ``training_step`` can be called.
    """
    with torch.device("meta"):
        parts = {name: build(config[name]) for name in ("model", "loss", "curve")}
        task = build({**config["task"], **options}, **parts)
    step = getattr(getattr(task, "penalty", None), "every", 1) - 1  # a step with the penalty, which needs most
    trainer = SimpleNamespace(
        accumulate_grad_batches=1, world_size=1, global_rank=0, global_step=step, is_global_zero=True, optimizers=[]
    )
    task._trainer = cast("Any", trainer)
    for module in task.modules():
        if isinstance(module, DeformableConv) and module.way == "auto":
            module.way = "torchvision"  # likely the choice on a GPU; a CPU computes pieces one after the other
    return task


def make_fake(network: nn.Module, device: str) -> None:
    """Replace all parameters and buffers by fake ones on ``device``, as ``to(device)`` would. Call it in a FakeTensorMode."""
    for module in network.modules():
        for name, old in module._parameters.items():
            if old is not None:
                fake = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=device)
                module._parameters[name] = nn.Parameter(fake, requires_grad=old.requires_grad)
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=device)


def empty_batch(config: Mapping[str, Any], device: str, scale: int | None = None) -> Batch:
    """Return a micro-batch as the loader makes it for this stage and ``scale``, by default the largest, without values."""
    data, scale = config["data"], scale or max(config["scales"] or [config["scale"]])
    count = max(1, data["batch"] // int(config["trainer"].get("accumulate_grad_batches") or 1))
    side, channels = data["lr_patch"], config["channels"]
    window = () if data.get("frames") is None else (data["frames"],)
    lr = torch.empty(count, *window, channels, side, side, dtype=torch.uint8, device=device)
    hr = torch.empty(count, channels, side * scale, side * scale, dtype=torch.uint8, device=device)
    batch: dict[str, Any] = {"lr": lr, "hr": hr, "key": ["image"] * count, "scale": scale}
    if data.get("usm"):
        batch["target"] = torch.empty_like(hr)
    return cast("Batch", batch)


def _watched(task: SRTask, live: LiveBytes) -> dict[str, int]:
    """Count what forward passes of the task's networks leave in memory. Return {network: bytes}, filled during the step."""
    networks: dict[str, nn.Module] = {"generator" if isinstance(task, GANTask) else "network": task.model}
    if isinstance(task, GANTask):
        networks["discriminator"] = task.discriminator
    extractors = [m for m in task.modules() if isinstance(m, FeatureExtractor)]
    networks |= {f"features{number or ''}": m for number, m in enumerate(extractors)}
    graphs = dict.fromkeys(networks, 0)
    for name, network in networks.items():
        before: list[int] = []

        def enter(module: nn.Module, args: Any, before: list[int] = before) -> None:
            before.append(live.now)

        def leave(module: nn.Module, args: Any, out: Any, name: str = name, before: list[int] = before) -> None:
            graphs[name] += live.now - before.pop()

        network.register_forward_pre_hook(enter)
        network.register_forward_hook(leave)
    return graphs


def count_step(config: Mapping[str, Any], precision: str | None = None, **options: Any) -> StepMemory:
    """Count the bytes of the tensors in a step of a stage at its real size: forward, losses, backward, optimizer, EMA.

    torch's fake tensors have shapes and no values, so nothing is computed, and the result is the same on every machine.
    They stand for tensors of one device. With several devices or micro-batches, ``data.batch`` is divided by the
    micro-batches only.

    Args:
        config: config of the stage.
        precision: Lightning's name of the precision; default: that of the config.
        options: other values for options of the task, e.g. ``recompute=True``.
    """
    precision = str(precision or config["trainer"]["precision"])
    task = outline_task(config, **options)
    if task.options.ema_device == "cpu":
        task.ema = None
    cast_to = _AUTOCAST.get(precision)
    live = LiveBytes()
    with FakeTensorMode(), live:
        make_fake(task, "cpu")
        task.train()
        optimizer: Any = task.configure_optimizers()
        _fill_gradients(optimizer)
        optimizer.step()  # makes its state
        optimizer.zero_grad()
        kept = live.most = live.now
        if int(config["trainer"].get("accumulate_grad_batches") or 1) > 1:
            _fill_gradients(optimizer)  # of the micro-batch before
        graphs = _watched(task, live)
        batch = empty_batch(config, "cpu")
        task.guard.begin(batch, task.networks())
        with nullcontext() if cast_to is None else torch.autocast("cpu", cast_to):
            loss = task.training_step(batch, 0)
        cast("torch.Tensor", loss).backward()
        optimizer.step()
        if task.ema is not None:
            task.ema._updates = 1
            task.ema.update_parameters(task.model)
    return StepMemory(kept, live.most, graphs)


def _fill_gradients(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)


def fits(memory: StepMemory) -> str:
    """Return a text: the smallest common GPU for a step."""
    size = next((gb for gb in GPUS if memory.on_gpu <= gb * 1e9), None)
    return f"more than {GPUS[-1]} GB" if size is None else f"{size} GB"


def _mb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def describe_step(config: Mapping[str, Any]) -> list[str]:
    """Return lines for ``check=true``: bytes of a step's tensors, with and without recomputation, and the GPU that holds them.

    If a network of the user cannot be run without values, return a line that says so.
    """
    try:
        found = {True: None, False: None} | {
            recompute: count_step(config, recompute=recompute) for recompute in _choices(config)
        }
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [f"of a step cannot be counted, because a part of it needs values or memory ({reason[:120]})"]
    chosen = bool(config["task"].get("recompute"))
    memory, other = found[chosen], found[not chosen]
    assert memory is not None
    graphs = ", ".join(f"{name} {_mb(size)}" for name, size in memory.graphs.items())
    parts = f"{_mb(memory.kept)} weights, EMA and optimizer; graphs: {graphs}"
    first = f"{_mb(memory.most)} in a step of {config['data']['batch']}: {parts}"
    rest = "" if other is None else f"; {_mb(other.most)} with task.recompute={str(not chosen).lower()}, {fits(other)}"
    return [first, f"a GPU needs {fits(memory)}{rest}"]


def _choices(config: Mapping[str, Any]) -> list[bool]:
    """Return the values of ``task.recompute`` that the network allows."""
    blocks = contract.checkpoint_units(outline_task(config, recompute=False).model)
    return [False, True] if blocks else [False]
