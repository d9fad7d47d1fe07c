"""Training steps of recipes on one device, for gpu.py: correctness, waits, time, memory."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from basicsr_step import write_vgg
from lightning import Callback
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.devices import full_fp32, peak_memory
from sr_train.tasks.base import SRTask
from sr_train.training.stage import build_task
from sr_train.training.step_memory import count_step, empty_batch, make_fake, outline_task
from sr_train.training.trainer import build_trainer

#: (number format, channels-last memory), the most important first; compiling needs minutes
KINDS = (("bf16", True), ("fp32", True), ("tf32", True), ("bf16", False), ("fp32", False), ("bf16+compile", True))
TASKS = {"pixel": "edsr_baseline_x2", "gan": "esrgan_x4", "video": "edvr_m_x4", "multiscale": "mdsr_baseline"}


class Recipe(NamedTuple):
    """A stage of an experiment at its real size."""

    name: str
    config: dict[str, Any]


class Sizes(NamedTuple):
    """Amounts that are measured."""

    tiny: bool
    seconds: float  #: of the timed steps of a row
    product: int  #: side of the matrix product whose speed is the roofline


FULL, TINY = Sizes(False, 2.0, 4096), Sizes(True, 0.0, 256)


def _small(config: Mapping[str, Any]) -> list[str]:
    """Return arguments that make a recipe tiny."""
    typed = ["model.channels=8", "data.batch=1", "data.lr_patch=16"]
    if config["data"].get("frames") is None:
        return [*typed, "model.blocks=1", *_small_gan(config)]
    return [*typed, "model.groups=2", "model.front_blocks=1", "model.back_blocks=1"]


def _small_gan(config: Mapping[str, Any]) -> list[str]:
    judge = config["task"].get("discriminator")
    if judge is None:
        return []
    size = ["task.discriminator.size=64"] if "size" in judge else []
    return ["loss.perceptual=null", "task.discriminator.channels=4", *size]


def recipes(sizes: Sizes, folder: Path) -> list[Recipe]:
    """Return every stage of every experiment whose step differs from those before; for tiny sizes one of each task."""
    names = sorted(p.stem for p in (conf_folder() / "experiment").rglob("*.yaml"))
    wanted = list(TASKS.values()) if sizes.tiny else [n for n in names if not n.startswith("quickstart")]
    vgg, found, seen = folder / "vgg19.pth", list[Recipe](), set[str]()
    if not sizes.tiny:
        write_vgg(vgg)
    for name in wanted:
        stages = plan([f"experiment={name}"]).stages
        for stage in stages[-1:] if sizes.tiny else stages:
            config = copy.deepcopy(dict(stage.config))
            if sizes.tiny:
                typed = [f"experiment={name}", f"stage={stage.name}", *_small(config)]
                config = dict(next(s for s in plan(typed).stages if s.name == stage.name).config)
            elif config["loss"].get("perceptual") is not None:
                config["loss"]["perceptual"]["extractor"]["weights"] = str(vgg)
            task = {k: v for k, v in config["task"].items() if k not in ("rate", "optimizer")}
            key = repr((config["model"], task, config["loss"], config["data"]["lr_patch"], config["data"]["batch"]))
            if key not in seen:
                seen.add(key)
                found.append(Recipe(name if len(stages) == 1 else f"{name} {stage.name}", config))
    return found


def random_batch(config: Mapping[str, Any]) -> Any:
    """Return a batch of random pixels on the CPU, equal in each call."""
    batch: dict[str, Any] = dict(empty_batch(config, "cpu"))
    generator = torch.Generator().manual_seed(1)
    for name in ("lr", "hr", "target"):
        if name in batch:
            batch[name] = torch.randint(0, 256, batch[name].shape, generator=generator, dtype=torch.uint8)
    return batch


def moved(batch: Mapping[str, Any], device: torch.device, layout: torch.memory_format) -> Any:
    """Return a batch on a device; images in the memory format ``layout``, as the loader makes them."""

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        images = value.flatten(0, -4).contiguous(memory_format=layout)
        return images.unflatten(0, value.shape[:-3]).to(device)

    return {name: move(value) for name, value in batch.items()}


def new_task(config: Mapping[str, Any], **options: Any) -> SRTask:
    """Build a recipe's task with a stand-in for the trainer, so that steps can be called one by one."""
    changed = {**config, "task": {**config["task"], **options}}
    task = build_task(changed, "bench", None)
    task._trainer = outline_task(config)._trainer
    return task.train()


def step(task: SRTask, optimizer: torch.optim.Optimizer, batch: Any, cast: torch.dtype | None = None) -> torch.Tensor:
    """Take a step as the training loop does: loss, backward, guard, optimizer, EMA. Return the loss."""
    optimizer.zero_grad()
    task.guard.begin(batch, task.networks())
    with nullcontext() if cast is None else torch.autocast(batch["lr"].device.type, cast):
        loss: Any = task.training_step(batch, 0)
    loss.backward()
    task.on_before_optimizer_step(optimizer)
    optimizer.step()
    if task.ema is not None:
        task.ema.update_parameters(task.model)
    task.guard.end()
    return loss.detach()


def compare(config: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """Compare a forward pass of the network and a step of the task on a device with the CPU, in fp32 without TF32.

    Return relative differences in the L2 norm: of the network's output, of the loss and of all gradients.
    """
    torch.manual_seed(0)
    fixed = (config["task"].get("discriminator") or {}).get("size")  # a CPU needs long for a whole batch
    side = config["data"]["lr_patch"] if fixed else min(32, config["data"]["lr_patch"])
    config = {**config, "data": {**config["data"], "batch": 1, "lr_patch": side}}
    mine = new_task(config)
    with torch.no_grad():  # EDVR's offsets are 0 at the start: a convolution that reads other pixels would not be seen
        for name, parameter in mine.model.named_parameters():
            if "conv_offset" in name:
                parameter.normal_(0, 0.02)
    other = copy.deepcopy(mine).to(device)
    other._trainer = mine._trainer  # Lightning does not copy it
    batch = random_batch(config)
    scale = batch["scale"] if not mine.uses_all else None
    results = []
    with full_fp32():
        for task, where in ((mine, torch.device("cpu")), (other, device)):
            given = moved(batch, where, torch.channels_last)
            x = given["lr"].float() / 255
            with torch.no_grad():
                out = task.model(x) if scale is None else task.model(x, scale)
            loss: Any = task.training_step(given, 0)
            loss.backward()
            gradients = [p.grad.flatten().cpu() for p in task.parameters() if p.grad is not None]
            results.append((out.cpu(), loss.detach().cpu().reshape(1), torch.cat(gradients)))
    names, pairs = ("forward", "loss", "gradient"), zip(*results, strict=True)
    return {name: float((a - b).norm() / a.norm()) for name, (a, b) in zip(names, pairs, strict=True)}


class _Synchronizations(Callback):
    """Let torch warn of calls that wait for the GPU in steps 4 and 5, which write no log."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _mode(self, mode: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._mode("warn" if trainer.global_step in (3, 4) else "default")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._mode("default")


def waits(config: Mapping[str, Any], device: torch.device) -> list[str]:
    """Train six steps in Lightning's Trainer. Return what waited for the device between log entries: file and line."""
    count = _Synchronizations(device)
    trainer_config = {**config["trainer"], "max_steps": 6, "precision": "32-true", "devices": 1}
    trainer_config["accelerator"] = "gpu" if device.type == "cuda" else "cpu"
    few = {**config, "trainer": trainer_config, "logger": {}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = build_trainer(few, [count], Path(folder))
        batches: Any = [random_batch(config) for _ in range(6)]
        loader = torch.utils.data.DataLoader(batches, batch_size=None, pin_memory=device.type == "cuda")
        trainer.fit(build_task(few, "bench", None), loader)
        assert trainer.global_step == 6
    found = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    return sorted({f"{Path(w.filename).name}:{w.lineno}" for w in found})


@contextmanager
def numbers(mode: str) -> Iterator[torch.dtype | None]:
    """Set the number format of a mode: TF32 or full fp32 for products; return the type of autocast, or None."""
    if mode in ("fp32", "tf32"):
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "tf32"
        try:
            yield None
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    else:
        yield torch.bfloat16


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed(config: Mapping[str, Any], mode: str, device: torch.device, sizes: Sizes, *, last: bool) -> dict[str, float]:
    """Time steps of a recipe. Return steps/s, the peak memory, and operations per second.

    ``last`` chooses channels-last memory, which sr-train uses, instead of NCHW.
    """
    layout = torch.channels_last if last else torch.contiguous_format
    task: Any = new_task(config, compile=mode.endswith("compile")).to(device).to(memory_format=layout)
    optimizer = task.configure_optimizers()
    batch = moved(random_batch(config), device, layout)
    with numbers(mode) as cast:
        for _ in range(1 if sizes.tiny else 4):
            step(task, optimizer, batch, cast)
        wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        done, start = 0, time.perf_counter()
        while done < 1 or time.perf_counter() - start < sizes.seconds:
            for _ in range(1 if sizes.tiny else 5):
                step(task, optimizer, batch, cast)
                done += 1
            wait(device)
        rate = done / (time.perf_counter() - start)
    task.guard.look()
    flops = operations(config)
    return {
        "steps_per_s": rate,
        "peak_bytes": peak_memory(device),
        "flops_per_s": rate * flops,
        "refused": task.refused,
    }


def operations(config: Mapping[str, Any]) -> float:
    """Return the floating-point operations of products and convolutions in a step, counted on fake tensors."""
    task = outline_task(config)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        make_fake(task, "cpu")
        loss: Any = task.train().training_step(empty_batch(config, "cpu"), 0)
        loss.backward()
    return float(counter.get_total_flops())


def product(mode: str, device: torch.device, sizes: Sizes) -> float:
    """Return the operations per second of a large matrix product in a mode: the roofline."""
    with numbers(mode) as cast:
        a, b = (torch.randn(sizes.product, sizes.product, device=device, dtype=cast or torch.float32) for _ in range(2))
        best = 0.0
        for _ in range(2 if sizes.tiny else 10):
            wait(device)
            start = time.perf_counter()
            torch.mm(a, b)
            wait(device)
            best = max(best, 2 * sizes.product**3 / (time.perf_counter() - start))
    return best


def counted(config: Mapping[str, Any], mode: str) -> int:
    """Return the bytes of a step's tensors as :mod:`sr_train.training.step_memory` counts them."""
    return count_step(config, "bf16-mixed" if mode.startswith("bf16") else "32-true").most
