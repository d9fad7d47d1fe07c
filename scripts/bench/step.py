"""Time of a training step of sr-train, against BasicSR and against the bare step of the same network.

    python scripts/bench/step.py --images DIR --basicsr-python bsr/bin/python

EDSR baseline x2, batch 16, LR patch 48, on a folder of photographs. The programs run in separate processes and alternate
blocks of ``--block`` steps while the others wait; the first block of each is not counted. The table shows the median of
the blocks, and the median over the rounds of the ratio within a round, because other load on the machine slows all
programs of a round.

- sr-train: ``sr-train experiment=edsr_baseline_x2`` itself on a store, with its default callbacks, loggers, checkpoints,
  guard, EMA of 0.999 and two loader processes; validation off. Precision ``auto`` (bf16 if the CPU has it), then 32.
- BasicSR: ``basicsr.train.train_pipeline``, fp32, with the settings of its train_EDSR_Mx2.yml: folders of PNG for HR and
  LR (481x321 is about the size of its sub-images), no LMDB, six loader processes, TensorBoard; validation off. It
  has an EMA of 0.999, as sr-train (``--basicsr-ema 0``: none).
- bare: forward, L1, backward and Adam of the same network, precision and memory format on one batch in memory, without
  EMA. In sr-train's process, blocks of the loop, of the bare step and of the loop without the guard alternate. The times of
  a checkpoint and of a log entry are measured in the same process and divided by the steps between them
  (checkpoint.every=1000, record.every=100).

BasicSR 1.4.2 needs its own venv, see loader.py; without it, only the times of sr-train are printed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from peer import Program, Turns, child
from torch.nn.functional import l1_loss

from sr_train.batch import Batch, to_float
from sr_train.devices import cpu_name
from sr_train.tasks.base import SRTask
from sr_train.training.callbacks import StepLog
from sr_train.training.checkpointing import CheckpointWriter, dump

MODEL = {"channels": 64, "blocks": 16}  # EDSR baseline
EXPERIMENTS = {"edsr": ("edsr_baseline_x2", 2), "rrdbnet": ("rrdbnet_x4", 4)}  # --network: experiment and its scale
CHECKPOINT_EVERY, RECORD_EVERY = 1000, 100  # conf/train.yaml
RESULT: dict[str, Any] = {}  # results of this process, set by the callbacks below


def now() -> float:
    """Return the time after the device has finished all operations."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock(L.Callback):
    """Callback that alternates blocks of steps with other programs.

    Args:
        block: steps per block.
        blocks: number of blocks.
    """

    def __init__(self, *, block: int, blocks: int) -> None:
        self.turns = Turns(block, blocks)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.turns.begin()


class Bare:
    """Run forward, L1, backward and Adam of a copy of the network, on one batch in memory."""

    def __init__(self, trainer: L.Trainer, task: SRTask, batch: Batch) -> None:
        self.network = copy.deepcopy(task.model)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=task.rate)
        self.lr, self.hr = (to_float(batch[k]).to(memory_format=torch.channels_last) for k in ("lr", "hr"))
        kind = task.device.type
        self.cast = lambda: torch.autocast(kind, torch.bfloat16, enabled=trainer.precision == "bf16-mixed")

    def step(self) -> None:
        self.adam.zero_grad()
        with self.cast():
            loss = l1_loss(self.network(self.lr), self.hr)
        loss.backward()
        self.adam.step()


class Costs(L.Callback):
    """Callback that alternates blocks of the loop, the bare step and the loop without its guard, and times a step of each.

    Between the blocks, the wait for a checkpoint and a log entry are timed. The time of the loop does not contain them.

    Args:
        block: steps per block.
        blocks: blocks of each kind.
    """

    def __init__(self, *, block: int, blocks: int) -> None:
        self.block, self.blocks = block, blocks

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SRTask)
        self.guard = pl_module.on_before_optimizer_step
        self.guarding = self.averaging = 0.0  # seconds in a block
        pl_module.on_before_optimizer_step = self._timed(self.guard, "guarding")
        if pl_module.ema is not None:
            pl_module.ema.update_parameters = self._timed(pl_module.ema.update_parameters, "averaging")
        self.writer = CheckpointWriter(Path(trainer.default_root_dir, "checkpoints"), 3)
        self.kind, self.left = "warm", self.block
        self.bare: Bare | None = None
        RESULT.update({k: [] for k in ("warm", "loop", "bare", "unguarded", "guard", "ema", "checkpoint", "record")})

    def _timed(self, function: Callable[..., Any], counter: str) -> Callable[..., Any]:
        def timed(*args: Any) -> None:
            start = now()
            function(*args)
            setattr(self, counter, getattr(self, counter) + now() - start)

        return timed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SRTask)
        if self.bare is None:
            self.bare = Bare(trainer, pl_module, batch)
        elif self.left > 1:
            self.left -= 1
            return
        else:
            RESULT[self.kind].append((now() - self.since) / self.block)
            self._between(trainer, pl_module)
        self.left, self.guarding, self.averaging = self.block, 0.0, 0.0
        self.since = now()

    def _between(self, trainer: L.Trainer, task: SRTask) -> None:
        if self.kind == "loop":
            RESULT["guard"].append(self.guarding / self.block)
            RESULT["ema"].append(self.averaging / self.block)
            start = now()
            for _ in range(self.block):
                assert self.bare is not None
                self.bare.step()
            RESULT["bare"].append((now() - start) / self.block)
            self.kind = "unguarded"
            task.on_before_optimizer_step = lambda optimizer: None
            return
        self.kind = "loop"
        task.on_before_optimizer_step = self._timed(self.guard, "guarding")
        start = now()
        self.writer.start(dump(trainer), trainer.global_step)
        RESULT["checkpoint"].append(now() - start)
        self.writer.collect(wait=True)
        record = next(c for c in trainer.callbacks if isinstance(c, StepLog))  # pyright: ignore[reportAttributeAccessIssue]
        start = now()
        record._log(trainer, task, trainer.global_step)
        RESULT["record"].append(now() - start)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Run the command in this process."""
    from sr_train import train

    store = Path(job["folder"], "pairs.lmdb")
    clock = f"{{_target_: __main__.{job['callback']}, block: {job['block']}, blocks: {job['blocks']}}}"
    code = train(
        [
            f"experiment={EXPERIMENTS[job['network']][0]}",
            f"callbacks.clock={clock}",
            f"name={job['callback']}_{job['precision']}",
            f"data.train=[{{hr: '{store}', lr: '{store}'}}]",
            "sets=[]",
            f"paths.runs={job['folder']}/runs",
            "resume=never",
            f"data.batch={job['batch']}",
            f"data.lr_patch={job['patch']}",
            f"trainer.max_steps={job['steps']}",
            f"trainer.precision={job['precision']}",
        ]
    )
    assert code == 0
    return RESULT


def prepare(images: Path | None, folder: Path, scale: int = 2) -> int:
    """Write PNG files of HR and LR and a store of both, and return the number of images."""
    from sr_train.data.degrade import reduce_image
    from sr_train.data.images import list_images, read_image, to_rgb, to_uint8, write_image
    from sr_train.data.store.builder import StoreBuilder
    from sr_train.data.toy import toy_files

    for name in ("hr", "lr"):
        (folder / name).mkdir()
    files = (list_images(images) if images else toy_files()).values()
    for number, file in enumerate(files):
        image = to_uint8(to_rgb(read_image(file)))
        # BasicSR needs HR of exactly scale * LR.
        image = image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
        write_image(folder / "hr" / f"{number:04}.png", image)
        write_image(folder / "lr" / f"{number:04}.png", reduce_image(image, scale))
    StoreBuilder(folder / "hr", folder / "pairs.lmdb", scales=[scale]).build()
    return len(files)


def verdict(reached: bool, aim: str) -> str:
    return f"{aim}: {'reached' if reached else 'MISSED'}"


def report_loops(seconds: dict[str, list[float]], version: str) -> None:
    """Print the milliseconds per step of both programs."""

    def cell(name: str) -> str:
        values = [1000 * v for v in seconds[name]]
        return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"

    print(f"\n{'ms per step, median (lowest-highest)':36}{'sr-train':>24}{version:>24}{'ratio':>8}  aim")
    for mine, name, aim in (("auto", "both at their defaults", 2.5), ("32", "fp32 against fp32", 1.0)):
        if "basicsr" in seconds:
            ratio = statistics.median(b / a for a, b in zip(seconds[mine], seconds["basicsr"], strict=True))
            words = verdict(ratio >= aim, f">= {aim} x as fast")
            print(f"{name:36}{cell(mine):>24}{cell('basicsr'):>24}{ratio:8.2f}  {words}")
        else:
            print(f"{name:36}{cell(mine):>24}{'-':>24}")


def loops(args: argparse.Namespace, job: dict[str, Any]) -> tuple[dict[str, list[float]], str]:
    """Run the programs alternating. Return the seconds per step of every block except the first, and BasicSR's name."""
    sides = {p: (sys.executable, __file__, {**job, "callback": "Clock", "precision": p}) for p in ("auto", "32")}
    if args.basicsr_python:
        theirs = {"kind": "loop", **job, **MODEL, "workers": args.basicsr_workers, "gpus": torch.cuda.device_count()}
        theirs |= {"recipe": job["network"], "scale": EXPERIMENTS[job["network"]][1]}
        theirs |= {"ema": args.basicsr_ema, "rate": 1e-4, "betas": [0.9, 0.99], "milestone": 200_000, "gamma": 0.5}
        sides["basicsr"] = (args.basicsr_python, str(Path(__file__).with_name("peer.py")), theirs)
    programs = {name: Program(*side, Path(job["folder"], f"{name}.log")) for name, side in sides.items()}
    rounds = [{name: p.turn() / args.block for name, p in programs.items()} for _ in range(job["blocks"])]
    results = {name: program.end() for name, program in programs.items()}
    version = f"BasicSR {results['basicsr']['version']}" if args.basicsr_python else "BasicSR"
    return {name: [r[name] for r in rounds[1:]] for name in sides}, version


def report_costs(precision: str, costs: dict[str, list[float]]) -> None:
    """Print the overhead of the loop over the bare step, and the shares of checkpoints, logs, EMA and guard."""
    median = {name: statistics.median(values) for name, values in costs.items() if values}
    over = statistics.median(a / b - 1 for a, b in zip(costs["loop"], costs["bare"], strict=False))
    unguarded = statistics.median(a / b - 1 for a, b in zip(costs["loop"], costs["unguarded"], strict=False))
    saved, logged = median["checkpoint"] / CHECKPOINT_EVERY, median["record"] / RECORD_EVERY
    share = {n: v / median["loop"] for n, v in (("guard", median["guard"]), ("saved", saved), ("logged", logged))}
    both = share["guard"] + share["saved"]
    print(f"\nprecision {precision}, {len(costs['unguarded'])} blocks each  ms per step   of the loop's step   aim")
    print(f"{'bare step':32}{1000 * median['bare']:12.1f}")
    print(f"{'the loop':32}{1000 * median['loop']:12.1f}     {over:+8.2%} of bare   {verdict(over <= 0.05, '<= 5 %')}")
    print(f"{'  its EMA':32}{1000 * median['ema']:12.2f}{median['ema'] / median['loop']:15.2%}")
    print(f"{'  its guard':32}{1000 * median['guard']:12.2f}{share['guard']:15.2%}")
    print(f"{'  loop against loop without it':44}{unguarded:+15.2%}   (differences of whole steps: noisy)")
    print(
        f"{'a checkpoint / 1000 steps':32}{1000 * saved:12.3f}{share['saved']:15.2%}   ({median['checkpoint']:.3f} s)"
    )
    print(f"{'a log entry / 100 steps':32}{1000 * logged:12.3f}{share['logged']:15.2%}   ({median['record']:.4f} s)")
    print(f"{'checkpoints and guard together':32}{'':12}{both:15.2%}   {verdict(both <= 0.02, '<= 2 %')}")


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print("\n" + json.dumps(ours(json.loads(sys.argv[1]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs (default: the toy photographs)")
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument(
        "--basicsr-workers", type=int, default=6, help="loader processes of BasicSR (default: %(default)s)"
    )
    parser.add_argument(
        "--basicsr-ema", type=float, default=0.999, help="EMA of BasicSR; 0: none (default: %(default)s)"
    )
    parser.add_argument("--block", type=int, default=4, help="steps per block (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of each kind (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, help="threads per program; 1 if others use the cores (default: all cores)"
    )
    parser.add_argument("--batch", type=int, default=16, help="pairs per step (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=48, help="LR patch (default: %(default)s)")
    parser.add_argument("--network", choices=list(EXPERIMENTS), default="edsr", help="default: %(default)s")
    parser.add_argument("--loops-only", action="store_true", help="do not measure the parts of sr-train's loop")
    parser.add_argument("--folder", type=Path, help="folder for temporary files (default: the system's)")
    args = parser.parse_args()
    if args.threads:
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads)))
    print(f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-step-") as folder:
        count = prepare(args.images, Path(folder), EXPERIMENTS[args.network][1])
        threads = f"{args.threads} threads per program" if args.threads else "all cores for each program"
        print(f"{count} photographs; {args.blocks} blocks of {args.block} steps each, {threads}")
        job = {"folder": folder, **{k: getattr(args, k) for k in ("batch", "patch", "block", "network")}}
        report_loops(*loops(args, {**job, "blocks": args.blocks + 1, "steps": args.block * (args.blocks + 1) + 1}))
        for precision in () if args.loops_only else ("auto", "32"):
            more = {"callback": "Costs", "precision": precision, "blocks": args.blocks}
            more["steps"] = args.block * (2 * args.blocks + 1) + 1
            report_costs(precision, child(sys.executable, __file__, {**job, **more}))


if __name__ == "__main__":
    main()
