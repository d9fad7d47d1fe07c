"""Time until a held-out PSNR is reached: BasicSR's recipe in BasicSR against experiment=edsr_fast_x2 in sr-train.

    python scripts/bench/time_to_psnr.py --images DIR --set5 set5/image_SRF_2 --basicsr-python bsr/bin/python

For every seed, BasicSR's SRModel trains a small EDSR x2 in fp32 with the recipe of its options files: L1, Adam (0.9, 0.99) at
1e-4, constant, 2,000 steps of 16 pairs. The mean PSNR of its raw weights on the held-out set (protocol y) is the target. Then
sr-train trains the same network from the same weights on the same images with Muon at 0.02 and a cosine to 0, in fp32, with a
quarter of the steps of --lengths, a half, ...: a schedule has an end, so every length is a training of its own. The result is
the time of the first length that reaches the target; times of the lengths before it are printed and not added.

Seconds are those of the training loop: its first steps are counted, imports, set-up, checkpoints and scores are not. BasicSR's
crops are in memory, so its loop loads nothing; sr-train's loop reads its store. Both programs use all cores, one after the
other. BasicSR 1.4.2 needs its own venv, see loader.py. Without it, sr-train's papers' recipe takes its place (--own).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from learning import arguments, prepare, psnr
from peer import child

from sr_train import load_weights, train
from sr_train.data.dataset import EvalImages
from sr_train.data.pairs import Pairs
from sr_train.data.store.builder import StoreBuilder

SECONDS = [0.0, 0.0]  # when the loop of this process started, and how long it took


class Witness(L.Callback):
    """Callback that measures the seconds of the training loop."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not SECONDS[0]:
            SECONDS[0] = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        SECONDS[1] = time.perf_counter() - SECONDS[0]


def command(job: dict[str, Any]) -> list[str]:
    """Return the command line of sr-train for a job."""
    given = [a for a in arguments(job) if not a.startswith(("experiment=", "callbacks.", "curve.", "task.rate="))]
    own = ["callbacks.witness={_target_: __main__.Witness}", f"checkpoint.every={job['steps']}"]
    if job["recipe"] == "fast":
        return ["experiment=edsr_fast_x2", f"task.rate={job['fast_rate']}", *given, *own]
    rate = [f"task.rate={job['rate']}", "curve=constant"]
    return ["experiment=edsr_baseline_x2", *rate, *given, *own]


def ours(job: dict[str, Any], images: EvalImages) -> tuple[float, float]:
    """Train with sr-train. Return (seconds of the loop, PSNR of the raw weights)."""
    seconds = child(sys.executable, __file__, job)["seconds"]
    state = load_weights(Path(job["folder"]) / "runs" / job["name"] / "x2" / "weights.safetensors").state
    return seconds, psnr(job, state, images)


def target_of(job: dict[str, Any], images: EvalImages, basicsr: str | None) -> tuple[float, float]:
    """Train by BasicSR's recipe. Return (seconds of the loop, PSNR of the raw weights)."""
    prepare(job)
    if basicsr is None:
        return ours({**job, "recipe": "papers", "name": f"{job['name']}_papers"}, images)
    folder = Path(job["folder"])
    options = {
        **job,
        "kind": "learn",
        "ema": 0,
        "betas": [0.9, 0.99],
        "gpus": torch.cuda.device_count(),
        "recipe": None,
    }
    files = {"start": str(folder / "start.pth"), "out": str(folder / "trained.pth")}
    seconds = child(basicsr, str(Path(__file__).with_name("peer.py")), {**options, **files})["seconds"]
    return seconds, psnr(job, torch.load(folder / "trained.pth", weights_only=True), images)


def one_seed(job: dict[str, Any], lengths: list[int], images: EvalImages, basicsr: str | None) -> float:
    """Print the times of both programs for one seed. Return ours as a fraction of BasicSR's; infinity if none reaches it."""
    seconds, target = target_of(job, images, basicsr)
    print(
        f"seed {job['seed']}: {(basicsr and 'BasicSR') or 'papers'}: {job['steps']} steps, {seconds:.1f} s, {target:.3f} dB"
    )
    for steps in lengths:
        mine = {**job, "recipe": "fast", "steps": steps, "name": f"{job['name']}_{steps}"}
        took, score = ours(mine, images)
        reached = score >= target
        print(
            f"  edsr_fast_x2: {steps} steps, {took:.1f} s, {score:.3f} dB{', reached' if reached else ''}", flush=True
        )
        if reached:
            return took / seconds
    return float("inf")


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        assert train(command(json.loads(sys.argv[1]))) == 0
        print("\n" + json.dumps({"seconds": SECONDS[1]}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--set5", type=Path, required=True, help="folder of Set5 x2, HR and LR (*_SRF_2_{HR,LR}.png)")
    parser.add_argument("--set5-lr", type=Path, help="folder of the LR images, if they are in another folder")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    place.add_argument("--own", action="store_true", help="without BasicSR: the papers' recipe in sr-train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[100, 200, 300, 400, 600], help="steps of our trainings"
    )
    for name, value in {"steps": 2000, "batch": 16, "patch": 24, "blocks": 4, "channels": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=1e-4, help="BasicSR's rate of Adam (default: %(default)s)")
    parser.add_argument("--fast-rate", type=float, default=0.02, help="our rate of Muon (default: %(default)s)")
    args = parser.parse_args()
    print(
        f"EDSR x2, {args.blocks} blocks of {args.channels} channels, batch {args.batch}, LR patch {args.patch}, fp32, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    )
    images = EvalImages({"set5": Pairs(str(args.set5), scale=2, lr=str(args.set5_lr or args.set5))})
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-time-") as folder:
        source = Path(folder, "pairs.lmdb")
        StoreBuilder(args.images, source, scales=[2]).build()
        for seed in args.seeds:
            keys = ("steps", "batch", "patch", "blocks", "channels", "rate", "fast_rate")
            job = {k: getattr(args, k) for k in keys}
            job |= {"milestone": args.steps, "gamma": 1.0, "precision": "32"}
            job |= {"seed": seed, "name": f"seed{seed}", "folder": folder, "source": str(source)}
            ratios.append(one_seed(job, args.lengths, images, args.basicsr_python))
    each = ", ".join(f"{r:.3f}" for r in ratios)
    print(
        f"our time as a fraction of theirs: median {statistics.median(ratios):.3f} (by seed {each}); aim: at most 0.333"
    )


if __name__ == "__main__":
    main()
