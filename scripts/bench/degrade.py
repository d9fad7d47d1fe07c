"""Training pairs per second of ``degrade=blind``, against BasicSR's ``RealESRGANDataset`` and ``RealESRGANModel.feed_data``.

    python scripts/bench/degrade.py --images DIR --basicsr-python bsr/bin/python

Both sides read the same image files, decode them, and make pairs of HR 256 and LR 64 (x4) with Real-ESRGAN's published
values, on the CPU, with ``--workers`` workers and batches of 12. They alternate within a run; the table shows medians.

- sr-train reads, crops, degrades and (``with USM``) sharpens in the workers. Patches are degraded with their margin.
- BasicSR reads, pads or crops to 400 x 400 and draws kernels in the workers; the main process degrades with
  ``--threads`` threads, sharpens (``with USM``: before and after), and crops to 256. ``.cuda()`` and the queue of
  pairs are left out.

BasicSR 1.4.2 needs its own venv (see loader.py). It imports a module that torchvision has removed; this script puts it
back.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import run_child
from torch.utils.data import DataLoader, Dataset

SCALE, HR, BATCH, WARM_UP = 4, 256, 12, 2
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
SHARES = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]


def files(folder: str) -> list[Path]:
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"{folder}: no images ({', '.join(SUFFIXES)})")
    return found


def pairs_per_second(loader: Iterable[Any], use: Callable[[Any], object], batches: int) -> float:
    iterator = iter(loader)
    for _ in range(WARM_UP):
        use(next(iterator))
    start = time.perf_counter()
    for _ in range(batches):
        use(next(iterator))
    return batches * BATCH / (time.perf_counter() - start)


class Ours(Dataset[Any]):
    """Patches of image files, degraded in the worker."""

    def __init__(self, paths: list[Path], model: str, count: int, usm: bool) -> None:
        build = importlib.import_module("sr_train.config.build").build
        conf = importlib.import_module("omegaconf").OmegaConf
        node = conf.load(Path(__file__).resolve().parents[2] / f"conf/degrade/{model}.yaml")
        self.degradation = build(conf.to_container(node))
        self.paths, self.count, self.usm = paths, count, usm

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        words = importlib.import_module("sr_train.data.degradation.base").Words(index.to_bytes(16, "little"))
        read = importlib.import_module("sr_train.data.images").read_image
        sharpen = importlib.import_module("sr_train.data.degradation.sharpen").usm_sharpen
        image = read(self.paths[words.integer(len(self.paths))])
        side, margin = HR + 2 * self.degradation.margin, self.degradation.margin // SCALE
        image = np.pad(image, [(0, max(0, side - n)) for n in image.shape[:2]] + [(0, 0)], mode="reflect")
        top, left = (words.integer(n - side + 1) for n in image.shape[:2])
        hr = image[top : top + side, left : left + side].astype(np.float32) / 255
        source = sharpen(hr) if self.usm else hr
        lr = self.degradation(source, SCALE, words).lr
        inner = slice(margin, margin + HR // SCALE)
        outer = slice(margin * SCALE, margin * SCALE + HR)
        return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in (lr[inner, inner], source[outer, outer]))  # pyright: ignore


def ours(job: dict[str, Any]) -> float:
    count = (job["batches"] + WARM_UP) * BATCH
    data = Ours(files(job["images"]), job["model"], count, job["usm"])
    init = importlib.import_module("cv2").setNumThreads
    loader = DataLoader(data, BATCH, num_workers=job["workers"], worker_init_fn=lambda _: init(0))
    return pairs_per_second(loader, lambda batch: batch, job["batches"])


def options(images: str, listing: str) -> dict[str, Any]:
    """Return the values of options/train_realesrgan_x4plus.yml of Real-ESRGAN."""
    blur = {
        "kernel_list": KINDS,
        "kernel_prob": SHARES,
        "sinc_prob": 0.1,
        "betag_range": [0.5, 4],
        "betap_range": [1, 2],
    }
    noise = {"gaussian_noise_prob": 0.5, "gray_noise_prob": 0.4, "jpeg_range": [30, 95]}
    return {
        "dataroot_gt": images, "meta_info": listing, "io_backend": {"type": "disk"}, "use_hflip": True, "use_rot": False,
        "scale": SCALE, "gt_size": HR, "final_sinc_prob": 0.8, "second_blur_prob": 0.8,
        "blur_kernel_size": 21, "blur_kernel_size2": 21, "blur_sigma": [0.2, 3], "blur_sigma2": [0.2, 1.5],
        **blur, **{f"{k}2": v for k, v in blur.items() if not k.endswith("_range")}, "betag_range2": [0.5, 4],
        "betap_range2": [1, 2],
        **noise, "gaussian_noise_prob2": 0.5, "gray_noise_prob2": 0.4, "jpeg_range2": [30, 95],
        "resize_prob": [0.2, 0.7, 0.1], "resize_range": [0.15, 1.5], "noise_range": [1, 30], "poisson_scale_range": [0.05, 3],
        "resize_prob2": [0.3, 0.4, 0.3], "resize_range2": [0.3, 1.2], "noise_range2": [1, 25],
        "poisson_scale_range2": [0.05, 2.5],
    }  # fmt: skip


def basicsr(job: dict[str, Any]) -> float:
    removed = types.ModuleType("torchvision.transforms.functional_tensor")
    setattr(removed, "rgb_to_grayscale", importlib.import_module("torchvision.transforms.functional").rgb_to_grayscale)  # noqa: B010
    sys.modules[removed.__name__] = removed
    data = importlib.import_module("basicsr.data.realesrgan_dataset")
    models: Any = importlib.import_module("basicsr.models.realesrgan_model")
    original = models.filter2D  # its view() fails in present versions of torch
    models.filter2D = lambda image, kernel: original(image.contiguous(), kernel)
    torch.set_num_threads(job["threads"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        names = [str(p.relative_to(job["images"])) for p in files(job["images"])]
        needed = (job["batches"] + WARM_UP) * BATCH
        listing.write("\n".join((names * (needed // len(names) + 1))[:needed]))
        listing.flush()
        opt = options(job["images"], listing.name)
        loader = DataLoader(data.RealESRGANDataset(opt), BATCH, shuffle=True, num_workers=job["workers"])
        model = models.RealESRGANModel.__new__(models.RealESRGANModel)
        model.opt, model.is_train, model.device = opt, True, torch.device("cpu")
        model.jpeger, model.usm_sharpener = (
            models.DiffJPEG(differentiable=False),
            models.USMSharp() if job["usm"] else torch.nn.Identity(),
        )
        model._dequeue_and_enqueue = lambda: None
        return pairs_per_second(loader, model.feed_data, job["batches"])


def run(python: str, job: dict[str, Any]) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
    command = [python, __file__, "--job", json.dumps(job), "--images", job["images"]]
    out = run_child(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return float(out.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", required=True, help="folder with images")
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument("--workers", type=int, default=2, help="workers of each loader (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of BasicSR's main process")
    parser.add_argument("--batches", type=int, default=12, help="measured batches of 12 pairs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default: %(default)s)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        print({"ours": ours, "basicsr": basicsr}[job["side"]](job))
        return
    common = {"images": str(Path(args.images).resolve()), "workers": args.workers, "threads": args.threads}
    many = {**common, "side": "ours", "batches": 10 * args.batches}
    sides = {
        "blind": (sys.executable, {**many, "model": "blind", "usm": False}),
        "blind, with USM": (sys.executable, {**many, "model": "blind", "usm": True}),
        "bsrgan": (sys.executable, {**many, "model": "bsrgan", "usm": False}),
    }
    if args.basicsr_python:
        for name, usm in {"BasicSR": False, "BasicSR, with USM": True}.items():
            sides[name] = (args.basicsr_python, {**common, "side": "basicsr", "batches": args.batches, "usm": usm})
    rounds = [{name: run(*side) for name, side in sides.items()} for _ in range(args.rounds)]
    print(
        f"pairs/s, x{SCALE}, HR {HR}, {args.workers} workers, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}"
    )
    for name in sides:
        values = [r[name] for r in rounds]
        line = f"{name:18}{statistics.median(values):8.1f}  ({min(values):.1f} to {max(values):.1f})"
        peer = "BasicSR, with USM" if name.endswith("USM") else "BasicSR"
        if args.basicsr_python and not name.startswith("BasicSR"):
            line += f"  {statistics.median(r[name] / r[peer] for r in rounds):.1f} times {peer}"
        print(line)


if __name__ == "__main__":
    main()
