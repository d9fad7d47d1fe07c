"""Time of a training step of EDVR-M on clips: sr-train's task in its trainer against BasicSR's EDVRModel.

    python scripts/bench/clips.py --basicsr-python bsr/bin/python

Batch 1, 5 frames, LR patch 64, on one clip in memory: the steps are compared, not the loaders. The programs run in
separate processes and alternate blocks of ``--block`` steps while the others wait; the first block of each is not counted.
The table shows the median of the blocks, and the median over the rounds of the ratio within a round, because other load on
the machine slows all programs of a round.

- sr-train: PixelTask in Lightning's trainer, with EMA of 0.999, guard, summed Charbonnier and the logged mean offsets;
  precision ``auto`` (bf16 if the CPU has it), then 32.
- BasicSR: the network and training settings of its train_EDVR_M_x4_SR_REDS.yml, EMA of 0.999 included, fp32.

BasicSR 1.4.2 needs its own venv, see loader.py; without it, only the times of sr-train are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from peer import Program, Turns

from sr_train.devices import resolve_precision
from sr_train.losses.pixel import CharbonnierLoss
from sr_train.models.edvr import EDVR
from sr_train.tasks.curves import Constant
from sr_train.tasks.pixel import PixelTask

MODEL = {"channels": 64, "frames": 5, "blocks": 10}  # EDVR-M
AIMS = (("auto", "both at their defaults", 3.0), ("32", "fp32 against fp32", 1.5))


class Clock(L.Callback):
    """Callback that alternates blocks of steps with other programs."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.turns.begin()


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Run steps of our task in this process."""
    torch.manual_seed(0)
    model = EDVR(channels=job["channels"], frames=job["frames"], back_blocks=job["blocks"])
    task = PixelTask(
        model=model,
        loss=CharbonnierLoss(reduction="sum"),
        optimizer=torch.optim.Adam,
        rate=4e-4,
        curve=Constant(),
    )
    side = job["patch"]
    lr = torch.rand(job["batch"] * job["frames"], 3, side, side).contiguous(memory_format=torch.channels_last)
    hr = torch.rand(job["batch"], 3, 4 * side, 4 * side).contiguous(memory_format=torch.channels_last)
    batch = {"lr": lr.unflatten(0, (job["batch"], -1)), "hr": hr, "key": ["clip"] * job["batch"], "scale": 4}
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=resolve_precision(job["precision"], accelerator),  # pyright: ignore[reportArgumentType]
        max_steps=job["steps"],
        max_epochs=-1,
        callbacks=[Clock(Turns(job["block"], job["blocks_of_steps"]))],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, torch.utils.data.DataLoader([batch] * job["steps"], batch_size=None))
    return {"precision": trainer.precision}


def report(rounds: list[dict[str, float]], version: str) -> None:
    """Print the milliseconds per step of both programs."""

    def cell(name: str) -> str:
        values = [1000 * r[name] for r in rounds]
        return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"

    print(f"\n{'ms per step, median (lowest-highest)':36}{'sr-train':>24}{version:>24}{'ratio':>8}  aim")
    for mine, name, aim in AIMS:
        if "basicsr" not in rounds[0]:
            print(f"{name:36}{cell(mine):>24}{'-':>24}")
            continue
        ratio = statistics.median(r["basicsr"] / r[mine] for r in rounds)
        words = f">= {aim} x as fast: {'reached' if ratio >= aim else 'MISSED'}"
        print(f"{name:36}{cell(mine):>24}{cell('basicsr'):>24}{ratio:8.2f}  {words}")


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print("\n" + json.dumps(ours(json.loads(sys.argv[1]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument(
        "--basicsr-ema", type=float, default=0.999, help="EMA of BasicSR; 0: none (default: %(default)s)"
    )
    parser.add_argument("--block", type=int, default=2, help="steps per block (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=6, help="blocks per program (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="clips per step (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=64, help="LR patch (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, help="threads per program; 1 if others use the cores (default: all cores)"
    )
    args = parser.parse_args()
    if args.threads:
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads)))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}")
    job = {**MODEL, "batch": args.batch, "patch": args.patch, "block": args.block, "blocks_of_steps": args.blocks + 1}
    job["steps"] = args.block * (args.blocks + 1) + 1
    sides = {p: (sys.executable, __file__, {**job, "precision": p}) for p in ("auto", "32")}
    if args.basicsr_python:
        theirs = {**job, "kind": "video", "ema": args.basicsr_ema, "gpus": torch.cuda.device_count()}
        sides["basicsr"] = (args.basicsr_python, str(Path(__file__).with_name("peer.py")), theirs)
    with tempfile.TemporaryDirectory(prefix="bench-clips-") as folder:
        programs = {name: Program(*side, Path(folder, f"{name}.log")) for name, side in sides.items()}
        rounds = [{n: p.turn() / args.block for n, p in programs.items()} for _ in range(args.blocks + 1)]
        results = {name: program.end() for name, program in programs.items()}
    print(f"precision auto is {results['auto']['precision']}; {args.blocks} blocks of {args.block} steps")
    report(rounds[1:], f"BasicSR {results['basicsr']['version']}" if args.basicsr_python else "BasicSR")


if __name__ == "__main__":
    main()
