"""PSNR after the same training steps: sr-train against BasicSR, with the same initial weights and crops.

    python scripts/bench/learning.py --images DIR --set5 set5/image_SRF_2 --basicsr-python bsr/bin/python

For every seed, one random EDSR x2 is trained four times with Adam (0.9, 0.999) and L1: by BasicSR's SRModel in fp32, by
sr-train in fp32 (trainer.precision=32), by sr-train in bf16-mixed, and again by BasicSR from weights multiplied by
1 + 1e-6 N(0, 1). Training amplifies rounding errors; the last run shows the difference of two equivalent runs. The crops
(images, positions, augmentations) are those of sr-train. They are written to two .npy files, which BasicSR reads in the
same order; a checksum of the batches in sr-train's loop is compared with the files. The raw weights are compared, without
EMA, because BasicSR's EMA has no warm-up. sr-train computes all scores in fp32: mean PSNR of Set5, protocol y.

In both programs, the rate is divided by ten for the last 40 % of the steps (--drop 1: constant). At a constant rate the raw
weights oscillate, and the score of a single step varies by tenths of a dB.

The network is small by default; EDSR baseline: --blocks 16 --channels 64 --patch 48. BasicSR 1.4.2 needs its
own venv, see loader.py; without it, only sr-train's fp32 and bf16 are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from peer import child

from sr_train import Weights, load_weights, plan, save_weights, super_resolve, train
from sr_train.config.build import build
from sr_train.data.dataset import EvalImages
from sr_train.data.pairs import Pairs
from sr_train.metrics.protocol import PROTOCOLS, score
from sr_train.weights.open import full_arguments

State = Mapping[str, torch.Tensor]
SEEN = [0]  # checksum of the batches of this process's loop


def add_checksum(sums: list[int], images: Iterable[np.ndarray]) -> None:
    for image in images:
        sums[0] = zlib.crc32(np.ascontiguousarray(image).tobytes(), sums[0])


class Witness(L.Callback):
    """Callback that updates a checksum with every batch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        add_checksum(SEEN, (batch[name].movedim(1, -1).cpu().numpy() for name in ("lr", "hr")))


def arguments(job: dict[str, Any]) -> list[str]:
    """Return the command line of sr-train for a job."""
    source = f"hr: '{job['source']}'" + (f", lr: '{job['source']}'" if job["source"].endswith(".lmdb") else "")
    return [
        "experiment=edsr_baseline_x2",
        f"name={job['name']}",
        f"paths.runs={job['folder']}/runs",
        f"data.train=[{{{source}}}]",
        "sets=[]",
        "callbacks.witness={_target_: __main__.Witness}",
        f"seed={job['seed']}",
        f"init.weights={job['folder']}/start.safetensors",
        *(f"model.{key}={job[key]}" for key in ("channels", "blocks")),
        f"task.rate={job['rate']}",
        f"curve.milestones=[{job['milestone']}]",
        f"curve.gamma={job['gamma']}",
        "task.ema=null",
        f"data.batch={job['batch']}",
        f"data.lr_patch={job['patch']}",
        f"trainer.max_steps={job['steps']}",
        f"trainer.precision={job['precision']}",
    ]


def prepare(job: dict[str, Any]) -> int:
    """Write the initial weights and the crops of a seed for both programs, and return the checksum of the crops."""
    folder = Path(job["folder"])
    config = plan(arguments(job)).stages[0].config
    torch.manual_seed(job["seed"])
    state = build(config["model"]).state_dict()
    save_weights(folder / "start.safetensors", Weights(full_arguments(config["model"]), state))
    torch.save({"params": state}, folder / "start.pth")
    near = {k: v * (1 + 1e-6 * torch.randn_like(v)) for k, v in state.items()}
    torch.save({"params": near}, folder / "near.pth")

    data = build(config["data"])
    count, side = job["steps"] * job["batch"], job["patch"]
    shapes = {"lr": (count, side, side, 3), "hr": (count, 2 * side, 2 * side, 3)}
    crops = {n: np.lib.format.open_memmap(folder / f"{n}.npy", "w+", np.uint8, s) for n, s in shapes.items()}
    sums = [0]
    for first in range(0, count, job["batch"]):
        part = range(first, first + job["batch"])
        batch: Any = data.dataset.__getitems__(part)
        for name, array in crops.items():
            array[first : first + job["batch"]] = batch[name].movedim(1, -1).numpy()
        add_checksum(sums, (array[first : first + job["batch"]] for array in crops.values()))
    for array in crops.values():
        array.flush()
    return sums[0]


def psnr(job: dict[str, Any], state: State, images: EvalImages) -> float:
    """Return the mean PSNR (protocol y) of an EDSR with these weights on a set."""
    network = build(plan(arguments(job)).stages[0].config["model"])
    network.load_state_dict(dict(state))
    network.eval()
    each = (images[i] for i in range(len(images)))
    return statistics.mean(score(super_resolve(network, i.lr), i.target, PROTOCOLS["y"], 2)["psnr"] for i in each)


def distance(a: State, b: State) -> float:
    """Return the relative L2 distance of the weights of two networks."""
    gap, norm = (torch.cat([x.flatten().double() for x in xs]).norm() for xs in ([a[k] - b[k] for k in a], b.values()))
    return float(gap / norm)


def one_seed(job: dict[str, Any], images: EvalImages, basicsr: str | None) -> tuple[dict[str, float], float | None]:
    """Return the PSNR of each training of one seed, and the distance of the fp32 weights of sr-train and BasicSR."""
    folder = Path(job["folder"])
    expected = prepare(job)
    states: dict[str, State] = {}
    if basicsr:
        options = {**job, "kind": "learn", "ema": 0, "betas": [0.9, 0.999], "gpus": torch.cuda.device_count()}
        for name, start in (("BasicSR fp32", "start"), ("BasicSR again", "near")):
            out = folder / f"{start}_trained.pth"
            files = {"start": str(folder / f"{start}.pth"), "out": str(out)}
            child(basicsr, str(Path(__file__).with_name("peer.py")), {**options, **files})
            states[name] = torch.load(out, weights_only=True)
    for name, precision in (("fp32", "32"), ("bf16", "bf16-mixed")):
        mine = {**job, "name": f"{job['name']}_{name}", "precision": precision}
        seen = child(sys.executable, __file__, mine)["seen"]
        if seen != expected:
            raise SystemExit(f"seed {job['seed']}, {name}: the loop was given other crops than BasicSR")
        states[name] = load_weights(folder / "runs" / mine["name"] / "x2" / "weights.safetensors").state
    apart = distance(states["fp32"], states["BasicSR fp32"]) if basicsr else None
    return {name: psnr(job, state, images) for name, state in states.items()}, apart


def report(rows: dict[int, tuple[dict[str, float], float | None]]) -> None:
    """Print PSNR by seed, means, and reached or missed targets."""
    names = list(next(iter(rows.values()))[0])
    print(f"\n{'PSNR, dB':10}" + "".join(f"{n if ' ' in n else f'sr-train {n}':>16}" for n in names))
    for seed, (scores, apart) in rows.items():
        note = "" if apart is None else f"   relative L2 of the weights, fp32 to BasicSR's: {apart:.1e}"
        print(f"{f'seed {seed}':10}" + "".join(f"{scores[n]:16.3f}" for n in names) + note)
    mean = {n: statistics.mean(scores[n] for scores, _ in rows.values()) for n in names}
    print(f"{'mean':10}" + "".join(f"{mean[n]:16.3f}" for n in names))
    for one, other, aim in (
        ("fp32", "BasicSR fp32", 0.1),
        ("bf16", "fp32", 0.05),
        ("BasicSR again", "BasicSR fp32", 0),
    ):
        if one in mean and other in mean:
            gap = mean[one] - mean[other]
            each = ", ".join(f"{scores[one] - scores[other]:+.3f}" for scores, _ in rows.values())
            words = f"within {aim}: {'reached' if abs(gap) <= aim else 'MISSED'}" if aim else "the yardstick"
            print(f"{one} - {other}: {gap:+.3f} dB (by seed {each})   {words}")
    print(f"y: {PROTOCOLS['y'].definition}")


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        assert train(arguments(json.loads(sys.argv[1]))) == 0
        print("\n" + json.dumps({"seen": SEEN[0]}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs (default: the toy photographs)")
    parser.add_argument("--set5", type=Path, required=True, help="folder of Set5 x2, HR and LR (*_SRF_2_{HR,LR}.png)")
    parser.add_argument("--set5-lr", type=Path, help="folder of the LR images, if they are in another folder")
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    for name, value in {"steps": 500, "batch": 16, "patch": 24, "blocks": 8, "channels": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of Adam (default: %(default)s)")
    parser.add_argument(
        "--drop", type=float, default=0.6, help="fraction of the steps before the rate is divided by ten"
    )
    parser.add_argument("--folder", type=Path, help="folder for temporary files (default: the system's)")
    args = parser.parse_args()
    print(
        f"EDSR x2, {args.blocks} blocks of {args.channels} channels, {args.steps} steps of {args.batch} pairs, LR patch "
        f"{args.patch}, rate {args.rate} x 0.1 from {args.drop:.0%} on, raw weights, torch {torch.__version__}"
    )
    images = EvalImages({"set5": Pairs(str(args.set5), scale=2, lr=str(args.set5_lr or args.set5))})
    rows = {}
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-learning-") as folder:
        source = "toy"
        if args.images:
            from sr_train.data.store.builder import StoreBuilder

            source = str(Path(folder, "pairs.lmdb"))
            StoreBuilder(args.images, Path(source), scales=[2]).build()
        for seed in args.seeds:
            job = {k: getattr(args, k) for k in ("steps", "batch", "patch", "blocks", "channels", "rate")}
            job |= {"milestone": max(1, round(args.drop * args.steps)), "gamma": 0.1}
            job |= {"seed": seed, "name": f"seed{seed}", "folder": folder, "source": source, "precision": "32"}
            rows[seed] = one_seed(job, images, args.basicsr_python)
            print(f"seed {seed}: {rows[seed]}", file=sys.stderr)
        report(rows)


if __name__ == "__main__":
    main()
