"""Operators that PyTorch dispatches in a training step, by part: sr-train's tasks against BasicSR's loop.

    python scripts/bench/dispatch.py [--basicsr-python bsr/bin/python] [--tasks pixel gan]

On a GPU the host has to start every operator. If it needs longer for that than the GPU for the work, the GPU waits. This
counts the operators by a dispatch mode, on the CPU, in the third step of the real loop: Lightning's Trainer, the guard, the
optimizer and the EMA of sr-train; ``feed_data`` and ``optimize_parameters`` with the EMA of BasicSR 1.4.2 (see loader.py for
its venv). A list operator (``_foreach_``, ``_fused_adam_``) counts once: on a GPU it is one to a few kernels. Networks have
their real depth and few channels, because the count does not depend on channels, batch and patch.

- step: forward, losses and backward
- optimizer: Adam's step
- EMA: update of the averaged weights
- guard: norms of the gradients, the decision on a step that is not finite, copies of BatchNorm's statistics
- reads: operators that make the host wait for the device. BasicSR reads every loss in every step for its log. The optimizer
  is left out, whose numbers of steps are on the host. BasicSR's Adam runs by list operators, as torch chooses on a GPU.

Goal: optimizer, EMA and guard together below 5 % of the operators of a step.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from basicsr_step import write_vgg
from peer import child, esrgan_options, options, stand_in
from torch.utils._python_dispatch import TorchDispatchMode

if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
    Callback: Any = object  # BasicSR's venv has no Lightning
else:
    from lightning import Callback


GOAL = 0.05
#: Command lines of the tasks. BasicSR has no training of several scales.
TASKS = {
    "pixel": ("experiment=edsr_baseline_x2", "data.lr_patch=16"),
    "gan": ("experiment=esrgan_x4", "stage=gan", "model.growth=8", "task.discriminator.channels=8", "data.lr_patch=32"),
    "video": ("experiment=edvr_m_x4", "stage=full", "data.lr_patch=16"),
    "multiscale": ("experiment=mdsr_baseline", "data.lr_patch=16"),
}
COMMON = (
    "model.channels=8", "data.batch=2", "trainer.accelerator=cpu", "trainer.precision=32", "trainer.max_steps=3",
    "logger=none",
)  # fmt: skip
NO_WORK = ("detach", "empty", "empty_like", "empty_strided", "_unsafe_view", "new_empty", "lift_fresh")


class Dispatches(TorchDispatchMode):
    """Count the operators of each part. ``part`` is the part that runs now; None outside of the counted step."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.part: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.part is not None and not _is_view(func):
            self.found[self.part] += 1
            if self.part != "optimizer" and func in (
                torch.ops.aten._local_scalar_dense.default,
                torch.ops.aten.is_nonzero.default,
            ):
                self.found["reads"] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def within(self, part: str | None) -> Iterator[None]:
        """Count operators inside the ``with`` block for a part, if a step is counted."""
        before, self.part = self.part, None if self.part is None else part
        try:
            yield
        finally:
            self.part = before

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose operators are counted for a part."""

        def counted(*args: Any, **more: Any) -> Any:
            with self.within(part):
                return function(*args, **more)

        return counted


def _is_view(func: Any) -> bool:
    """Return true for an operator that starts no work on the device, e.g. a view, detach or a new empty tensor."""
    name = func.overloadpacket.__name__
    return func.namespace == "profiler" or func.is_view or name in NO_WORK


def watch(task: Any, mode: Dispatches) -> None:
    """Let ``mode`` tell the guard, the EMA and the optimizer of a task from the other parts of its step."""
    task.on_before_optimizer_step = mode.wrapped("guard", task.on_before_optimizer_step)
    task.guard.begin = mode.wrapped("guard", task.guard.begin)
    if task.ema is not None:
        task.ema.update_parameters = mode.wrapped("EMA", task.ema.update_parameters)
    (optimizer,) = task.trainer.optimizers
    step = optimizer.step

    def stepped(closure: Callable[[], Any] | None = None) -> Any:
        with mode.within("optimizer"):
            return step(closure if closure is None else mode.wrapped("step", closure))

    optimizer.step = stepped


class Count(Callback):
    """Callback that counts the operators of the third step."""

    def __init__(self) -> None:
        self.mode = Dispatches()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        watch(pl_module, self.mode)
        self.mode.__enter__()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.mode.part = "step" if trainer.global_step == 2 else None

    def on_train_batch_end(self, *_: Any) -> None:
        self.mode.part = None

    def on_train_end(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)


def count_ours(typed: Sequence[str], folder: Path) -> dict[str, int]:
    """Train three steps of a command line in this process. Return {part: operators in the third step}."""
    from sr_train.config.plan import plan
    from sr_train.training.stage import build_task
    from sr_train.training.step_memory import empty_batch
    from sr_train.training.trainer import build_trainer

    (stage,) = plan([*typed, *COMMON, f"paths.runs={folder}"]).stages[-1:]
    count, task = Count(), build_task(stage.config, stage.name, None)
    batches = [empty_batch(stage.config, "cpu") for _ in range(3)]
    for batch in batches:
        for name in ("lr", "hr"):
            batch[name].random_(0, 256)
    trainer = build_trainer(stage.config, [count], folder)
    trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))  # pyright: ignore[reportArgumentType]
    return dict(count.mode.found)


def peer_options(task: str) -> dict[str, Any]:
    """Return BasicSR's options of the same networks."""
    common = {"ema": 0.999, "gpus": 0, "steps": 10, "rate": 1e-4, "betas": [0.9, 0.99], "milestone": 5, "gamma": 0.5}
    if task == "gan":
        opt = esrgan_options({**common, "blocks_of_net": 23, "patch": 32})
        opt["network_g"] |= {"num_feat": 8, "num_grow_ch": 8}
        opt["network_d"]["num_feat"] = 8
    else:
        opt = options({**common, "channels": 8, "blocks": 16})
    if task == "video":
        net = {"type": "EDVR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_frame": 5, "deformable_groups": 8}
        opt["network_g"] = {**net, "num_extract_block": 5, "num_reconstruct_block": 10, "with_tsa": True}
        opt["model_type"], opt["scale"] = "EDVRModel", 4
        opt["train"] |= {"dcn_lr_mul": 1, "tsa_iter": None}
        opt["train"]["pixel_opt"] = {"type": "CharbonnierLoss", "loss_weight": 1.0, "reduction": "sum"}
    return {**opt, "dist": False, "is_train": True, "rank": 0, "world_size": 1}


def count_theirs(job: dict[str, Any]) -> dict[str, int]:
    """Train three steps of BasicSR's model. Return {part: operators in the third step}."""
    torch.set_num_threads(1)
    stand_in()
    importlib.import_module("basicsr.archs")
    vgg: Any = importlib.import_module("torchvision.models.vgg")
    build = vgg.vgg19
    vgg.vgg19 = lambda **_: build(weights=None, init_weights=False)
    model: Any = importlib.import_module("basicsr.models").build_model(job["options"])
    side = 32 if job["task"] == "gan" else 16
    scale = job["options"]["scale"]
    window = (5,) if job["task"] == "video" else ()
    images = {"lq": torch.rand(2, *window, 3, side, side), "gt": torch.rand(2, 3, side * scale, side * scale)}
    mode = Dispatches()
    for name in ("optimizer_g", "optimizer_d"):
        if hasattr(model, name):
            optimizer = getattr(model, name)
            for group in optimizer.param_groups:
                group["foreach"] = True  # Adam's own choice on a GPU
            optimizer.step = mode.wrapped("optimizer", optimizer.step)
    model.model_ema = mode.wrapped("EMA", model.model_ema)
    with mode:
        for number in (1, 2, 3):
            mode.part = "step" if number == 3 else None
            model.feed_data(images)
            model.optimize_parameters(number)
        mode.part = None
    return dict(mode.found)


def row(who: str, found: dict[str, int]) -> tuple[str, float]:
    """Return a line of the table, and the share of optimizer, EMA and guard."""
    parts = {name: found.get(name, 0) for name in ("step", "optimizer", "EMA", "guard")}
    whole = sum(parts.values())
    share = 1 - parts["step"] / whole
    cells = "".join(f"{parts[name]:11,}" for name in parts)
    return f"{who:24}{whole:9,}{cells}{found.get('reads', 0):8}{share:10.1%}", share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    missed: list[str] = []
    heads = "".join(f"{name:>11}" for name in ("step", "optimizer", "EMA", "guard"))
    print(f"{'operators a step':24}{'all':>9}{heads}{'reads':>8}{'not step':>10}")
    with tempfile.TemporaryDirectory() as folder:
        vgg = Path(folder, "vgg19.pth")
        write_vgg(vgg)
        for task in args.tasks:
            more = [f"loss.perceptual.extractor.weights={vgg}"] if task == "gan" else []
            line, share = row(f"{task}: sr-train", count_ours([*TASKS[task], *more], Path(folder)))
            print(line, flush=True)
            missed += [task] if share >= GOAL else []
            if args.basicsr_python and task != "multiscale":
                job = {"task": task, "options": peer_options(task)}
                print(row(f"{task}: BasicSR", child(args.basicsr_python, __file__, job))[0], flush=True)
    print(f"optimizer, EMA, guard below {GOAL:.0%}: {'MISSED by ' + ', '.join(missed) if missed else 'reached by all'}")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(count_theirs(json.loads(sys.argv[1]))))
    else:
        main()
