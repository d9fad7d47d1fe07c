"""LPIPS on degraded photographs: a network trained with ``degrade=blind`` against one trained with bicubic LR.

    python scripts/bench/blind.py --images DIR --test DIR --lpips alex.pth

For every seed, one small EDSR x4 (4 blocks of 32 channels) is trained twice for the same number of minutes, with the same
loss and schedule: from bicubic LR, and from LR of the second-order degradation (Real-ESRGAN). The number of steps that fits
is measured first. Both networks upscale the test photographs, which were reduced by x4 (MATLAB bicubic) and saved as JPEG of
quality 50. LPIPS is smaller for better images. More overrides for both follow after ``--``, e.g. ``-- loss=charbonnier``.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
from children import run_child

from sr_train.data.degrade import modcrop, reduce_image
from sr_train.data.images import list_images, read_image, write_image

SCALE = 4
KINDS = ("bicubic", "blind")


def prepare(photographs: Path, folder: Path, quality: int) -> None:
    """Write the test set: HR/*.png, cropped to multiples of the scale, and LR/*.jpg."""
    for name in ("HR", "LR"):
        (folder / name).mkdir(parents=True)
    for key, path in list_images(photographs).items():
        hr = modcrop(read_image(path), SCALE)
        write_image(folder / "HR" / f"{key}.png", hr)
        lr = cv2.cvtColor(reduce_image(hr, SCALE), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "LR" / f"{key}.jpg"), lr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def run(*command: str, folder: Path) -> None:
    """Run a command of sr-train. Exit with its output if it fails."""
    name, *rest = command
    done = run_child([sys.executable, "-m", "sr_train", name, *rest], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr}")


def train(folder: Path, kind: str, seed: int, steps: int, args: argparse.Namespace, name: str) -> float:
    """Train one network. Return the seconds that the command took."""
    start = time.perf_counter()
    run(
        "train", f"name={name}", "model=edsr_baseline", "model.blocks=4", "model.channels=32", "scale=4", "data=base",
        f"data.train=[{{hr: '{args.images.resolve()}'}}]", f"degrade={kind}", f"seed={seed}", "sets=[]",
        "curve=cosine_restarts", f"task.rate={args.rate}", f"trainer.max_steps={steps}", "data.batch=16",
        f"data.lr_patch={args.patch}", f"data.workers={args.workers}", "record.every=20", "logger=csv", *args.overrides,
        folder=folder,
    )  # fmt: skip
    return time.perf_counter() - start


def steps_for(folder: Path, kind: str, args: argparse.Namespace) -> int:
    """Return the number of steps that fit into the minutes, from a short run."""
    train(folder, kind, 0, 100, args, f"probe_{kind}")
    with (folder / "runs" / f"probe_{kind}" / "main" / "metrics.csv").open() as file:
        rows = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "speed/steps_per_s"]
    return max(20, int(60 * args.minutes * statistics.median(rows[1:]) // 20 * 20))


def scores(folder: Path, name: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the mean LPIPS and PSNR of a network, or of bicubic, on the test set."""
    weights = "bicubic" if name == "bicubic" else f"runs/{name}/main"
    out = folder / f"scores_{name}"
    run(
        "evaluate", f"weights={weights}", "scale=4", "hr=test/HR", "lr=test/LR", "protocols=[y,rgb]", "metrics=[psnr,lpips]",
        f"lpips={args.lpips.resolve()}", f"out={out}", "save=true", folder=folder,
    )  # fmt: skip
    (protocols,) = json.loads((out / "metrics.json").read_text()).values()
    return {m: next(p[m] for p in protocols.values() if m in p) for m in ("psnr", "lpips")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of training photographs")
    parser.add_argument("--test", type=Path, required=True, help="folder of test photographs")
    parser.add_argument("--lpips", type=Path, required=True, help="file with the weights of LPIPS")
    parser.add_argument("--minutes", type=float, default=10, help="training time of one network (default: %(default)s)")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="networks to train (default: both)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--quality", type=int, default=50, help="JPEG quality of the test LR (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=32, help="side of the LR patches (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that load (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for runs and images; default: a temporary one")
    parser.add_argument("overrides", nargs="*", help="more overrides of sr-train for both networks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-blind-") as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        prepare(args.test, folder / "test", args.quality)
        steps = {kind: steps_for(folder, kind, args) for kind in args.kinds}
        base = scores(folder, "bicubic", args)
        print(f"bicubic enlargement: LPIPS {base['lpips']:.4f}, PSNR {base['psnr']:.2f} dB")
        lpips: dict[str, list[float]] = {kind: [] for kind in args.kinds}
        for seed in args.seeds:
            for kind in args.kinds:
                name = f"{kind}_{seed}"
                seconds = train(folder, kind, seed, steps[kind], args, name)
                found = scores(folder, name, args)
                lpips[kind].append(found["lpips"])
                print(f"seed {seed}, degrade={kind}: {steps[kind]} steps in {seconds / 60:.1f} min: "
                      f"LPIPS {found['lpips']:.4f}, PSNR {found['psnr']:.2f} dB", flush=True)  # fmt: skip
        if len(args.kinds) < len(KINDS):
            return
        pairs = list(zip(*(lpips[kind] for kind in KINDS), strict=True))
        print(f"mean LPIPS: bicubic {statistics.mean(lpips['bicubic']):.4f}, blind {statistics.mean(lpips['blind']):.4f}; "
              f"blind is better for {sum(b < a for a, b in pairs)} of {len(pairs)} seeds")  # fmt: skip


if __name__ == "__main__":
    main()
