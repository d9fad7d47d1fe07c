"""Training pairs per second: sr-train's store against BasicSR's ``PairedImageDataset`` on its own PNG LMDB.

    python scripts/bench/loader.py --images DIR --basicsr-python bsr/bin/python

Both read the same photographs and crop the same patches (x2, HR 96, batches of 16, all eight flips and rotations). They
alternate within a run. Each measurement is a separate process with one thread; the table shows medians.

- hot: 480x320 crops of the photographs (default: the toy photographs), all in the page cache. In one process with LR from
  the store; the same with conversion to float32 in [0, 1], which BasicSR does in the loader and sr-train on the device;
  with LR made during loading; and with a DataLoader with ``--workers``.
- cold: 2040x1356 mosaics of them, removed from the page cache before each run (posix_fadvise). The fraction that stayed is
  measured with mincore; in a memory file system it is 100 %: give another ``--folder``. Then the same, hot.
- disk: size of each format with the same images.

BasicSR 1.4.2 needs its own venv; without it, only the numbers of sr-train are printed:

    python3 -m venv bsr
    bsr/bin/pip install torch torchvision
    bsr/bin/pip install lmdb opencv-python scipy scikit-image tqdm pyyaml requests addict future yapf tensorboard
    bsr/bin/pip install --no-deps --no-build-isolation basicsr==1.4.2
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import mmap
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from children import run_child
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Values = dict[str, list[Any]]

SCALE, LR_PATCH, BATCH = 2, 48, 16
HOT, COLD = (480, 320), (2040, 1356)  # width, height
RATIO = 50  # target ratio to BasicSR in the first row
ROWS: dict[str, tuple[str, int | None]] = {  # measurement -> name, target in pairs/s
    "hot": ("480x320 hot", 10_000),
    "float": ("480x320 hot, as float32", None),
    "fly": ("480x320 hot, LR while loading", None),
    "workers": ("480x320 hot, with workers", None),
    "large": ("2040x1356 hot", None),
    "cold": ("2040x1356 cold", 500),
}


def crops(files: list[Path]) -> Iterator[Pixels]:
    """Yield crops [320, 480, 3] of each photograph in turn, without end. Portraits are rotated."""
    from sr_train.data.images import read_image, to_rgb, to_uint8

    width, height = HOT
    photographs = [to_uint8(to_rgb(read_image(f))) for f in files]
    photographs = [np.rot90(p) if p.shape[0] > p.shape[1] else p for p in photographs]
    photographs = [p for p in photographs if p.shape[0] >= height and p.shape[1] >= width]
    if not photographs:
        raise ValueError(f"no photograph of {len(files)} is {width}x{height} or larger; give another --images")
    rng = np.random.default_rng(0)
    while True:
        for photograph in photographs:
            top, left = (int(rng.integers(n + 1)) for n in np.subtract(photograph.shape[:2], (height, width)))
            yield photograph[top : top + height, left : left + width]


def mosaics(tiles: Iterator[Pixels]) -> Iterator[Pixels]:
    """Yield mosaics [1356, 2040, 3] of crops, without end. They compress like full-size photographs."""
    columns, rows = (-(-large // small) for large, small in zip(COLD, HOT, strict=True))
    while True:
        image = np.concatenate([np.concatenate(list(islice(tiles, columns)), axis=1) for _ in range(rows)], axis=0)
        yield image[: COLD[1], : COLD[0]]


def prepare(images: Iterator[Pixels], folder: Path, basicsr: str | None) -> None:
    """Write PNG files, sr-train's stores with and without LR, and BasicSR's two LMDBs below ``folder``."""
    from sr_train.data.degrade import reduce_image
    from sr_train.data.images import write_image
    from sr_train.data.store.builder import StoreBuilder

    for name in ("hr", "lr"):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(images):
        write_image(folder / "hr" / f"{number:04}.png", image)
        write_image(folder / "lr" / f"{number:04}.png", reduce_image(image, SCALE))
    StoreBuilder(folder / "hr", folder / "pairs.lmdb", scales=[SCALE]).build()
    StoreBuilder(folder / "hr", folder / "alone.lmdb").build()
    if basicsr:
        child(basicsr, "basicsr", {"kind": "prepare", "folder": str(folder)})


def resident(file: Path) -> float:
    """Return the fraction of a file's pages that are in the page cache."""
    with file.open("rb") as handle:
        mapping = mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ)
    pages = np.zeros(-(-len(mapping) // mmap.PAGESIZE), np.uint8)
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    arguments = ctypes.c_void_p(start), ctypes.c_size_t(len(mapping)), ctypes.c_void_p(pages.ctypes.data)
    if ctypes.CDLL(None, use_errno=True).mincore(*arguments):
        raise OSError(ctypes.get_errno(), f"mincore failed on {file}")
    return float((pages & 1).mean())


def warm_speed(batches: Iterator[object], seconds: float) -> float:
    """Measure the pairs per second over ``seconds``, after half that time to start workers and fill caches."""
    next(batches)
    rate = 0.0
    for limit in (seconds / 2, seconds):
        done, end = 0, (start := time.perf_counter()) + limit
        while time.perf_counter() < end:
            next(batches)
            done += BATCH
        rate = done / (time.perf_counter() - start)
    return rate


def large_speeds(reader: Callable[[], Iterator[object]], stores: list[Path], job: dict[str, Any]) -> dict[str, float]:
    """Measure the pairs per second without the LMDBs in the page cache, then with them. ``reader`` opens them."""
    files = [store / "data.mdb" for store in stores]
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())  # only clean pages that no process has mapped can be removed
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    stayed = max(resident(file) for file in files)
    batches = reader()
    start = time.perf_counter()
    for _ in range(job["batches"]):
        next(batches)
    cold = job["batches"] * BATCH / (time.perf_counter() - start)
    for file in files:
        file.read_bytes()
    return {"stayed": stayed, "cold": cold, "large": warm_speed(batches, job["seconds"])}


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job of sr-train."""
    from sr_train.batch import to_float
    from sr_train.data.dataset import TrainPatches
    from sr_train.data.draws import Draws, PositionSampler
    from sr_train.data.pairs import Pairs

    store = str(Path(job["folder"], "pairs.lmdb"))

    def batches(lr: str | None) -> Iterator[Any]:
        pairs = Pairs(store, scale=SCALE, lr=lr)
        draws = Draws([len(pairs)], weights=None, seed=job["run"], stage="bench")
        return map(TrainPatches([pairs], draws, lr_patch=LR_PATCH).__getitems__, PositionSampler(BATCH))

    if job["kind"] == "large":
        return large_speeds(lambda: batches(store), [Path(store)], job)
    floats = ((to_float(b["lr"]), to_float(b["hr"])) for b in batches(store))
    iterators = {"hot": batches(store), "float": floats, "fly": batches(None)}
    if job["workers"]:
        from sr_train.data.module import SRData

        source = {"hr": store, "lr": store}
        data = SRData(train=[source], scale=SCALE, lr_patch=LR_PATCH, batch=BATCH, workers=job["workers"])
        iterators["workers"] = iter(data.loader(PositionSampler(BATCH)))
    return {name: warm_speed(iterator, job["seconds"]) for name, iterator in iterators.items()}


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job of BasicSR with its own Python: make its two LMDBs, or measure."""
    from peer import stand_in
    from torch.utils.data import DataLoader, default_collate

    stand_in()
    folder = Path(job["folder"])
    databases = {name: folder / f"basicsr_{name}.lmdb" for name in ("hr", "lr")}
    if job["kind"] == "prepare":
        make = importlib.import_module("basicsr.utils.lmdb_util").make_lmdb_from_imgs
        names = sorted(p.name for p in (folder / "hr").iterdir())
        for name, database in databases.items():
            make(str(folder / name), str(database), names, [n.removesuffix(".png") for n in names])
        return {}

    paired = importlib.import_module("basicsr.data.paired_image_dataset").PairedImageDataset
    options = {"dataroot_gt": str(databases["hr"]), "dataroot_lq": str(databases["lr"]), "io_backend": {"type": "lmdb"}}
    options |= {"phase": "train", "scale": SCALE, "gt_size": SCALE * LR_PATCH, "use_hflip": True, "use_rot": True}
    images = paired(options)
    random.seed(job["run"])

    def positions() -> Iterator[list[int]]:
        flat = (index for _ in iter(int, 1) for index in random.sample(range(len(images)), len(images)))
        while True:
            yield list(islice(flat, BATCH))

    if job["workers"]:
        sampler: Any = positions()
        loader = DataLoader(images, batch_sampler=sampler, num_workers=job["workers"])
        return {"workers": warm_speed(iter(loader), job["seconds"])}
    batches = (default_collate([images[i] for i in batch]) for batch in positions())
    version = {"version": importlib.import_module("basicsr.version").__version__}
    if job["kind"] == "large":
        return version | large_speeds(lambda: batches, list(databases.values()), job)
    return {**version, "hot": warm_speed(batches, job["seconds"])}


def child(python: str, side: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job in its own process with one thread. The result is the last line that it prints."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [python, __file__, "--side", side, "--job", json.dumps(job)]
    done = run_child(command, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, hot: Path, cold: Path) -> tuple[Values, Values]:
    """Run all measurements, sr-train and BasicSR alternating. Return {measurement: values}."""
    heat = {"kind": "hot", "folder": str(hot), "seconds": args.seconds, "workers": 0}
    large = {**heat, "kind": "large", "folder": str(cold)}
    jobs = [("ours", {**heat, "workers": args.workers}), ("basicsr", heat)]
    if args.workers:
        jobs += [("basicsr", {**heat, "workers": args.workers})]
    if args.cold_images:
        # BasicSR reads whole images and is slow: two batches are enough, and they contain few images twice.
        jobs += [("ours", {**large, "batches": args.cold_batches}), ("basicsr", {**large, "batches": 2})]
    python = {"ours": sys.executable, "basicsr": args.basicsr_python}
    results: dict[str, Values] = {"ours": {}, "basicsr": {}}
    for run in range(args.runs):
        for side, job in jobs:
            if python[side]:
                for row, value in child(python[side], side, {**job, "run": run}).items():
                    results[side].setdefault(row, []).append(value)
        print(f"run {run + 1} of {args.runs} done", file=sys.stderr)
    return results["ours"], results["basicsr"]


def report(mine: Values, other: Values) -> None:
    """Print the table of pairs per second, and the fraction of pages in the page cache before cold runs."""

    def cell(values: list[float] | None) -> str:
        return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})" if values else "-"

    title = f"BasicSR {other['version'][0]}" if other else "BasicSR"
    print(f"\n{'pairs/s, median (lowest-highest)':32} {'sr-train':>24} {title:>18} {'ratio':>7}  aim")
    for row, (name, aim) in ROWS.items():
        if row in mine:
            median = statistics.median(mine[row])
            # BasicSR's run with one process also converts to float32; it always uses prepared LR.
            against = other.get("hot" if row in ("float", "fly") else row)
            ratio = median / statistics.median(against) if against else 0.0
            verdicts = [f">= {aim:,}: {'reached' if median >= aim else 'MISSED'}"] if aim else []
            if row == "hot" and against:
                verdicts += [f"ratio >= {RATIO}: {'reached' if ratio >= RATIO else 'MISSED'}"]
            shown = f"{ratio:7.1f}" if against else f"{'-':>7}"
            print(f"{name:32} {cell(mine[row]):>24} {cell(against):>18} {shown}  {', '.join(verdicts)}".rstrip())
    for side, rows in (("sr-train", mine), ("BasicSR", other)):
        if "stayed" in rows:
            worst = max(rows["stayed"])
            verdict = "" if worst < 0.02 else ": NOT cold, give another --folder"
            print(f"{side}'s files before a cold run: at most {worst:.2%} in the page cache{verdict}")


def disk(sets: dict[str, Path]) -> None:
    """Print the size on disk of each format."""
    forms = {"sr-train, HR and LR": "pairs.lmdb", "sr-train, HR only": "alone.lmdb"}
    forms |= {"BasicSR, HR and LR": "basicsr_*.lmdb", "PNG files, HR and LR": "?r"}
    print(f"\n{'disk, MB':32}" + "".join(f"{name:>20}" for name in sets))
    for form, folders in forms.items():
        files = [list(folder.glob(f"{folders}/*")) for folder in sets.values()]
        if all(files):
            print(f"{form:32}" + "".join(f"{sum(f.stat().st_size for f in each) / 1e6:20,.1f}" for each in files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs (default: the toy photographs)")
    parser.add_argument("--count", type=int, default=200, help="480x320 crops (default: %(default)s)")
    parser.add_argument("--cold-images", type=int, default=60, help="2040x1356 mosaics; 0: none (default: %(default)s)")
    parser.add_argument(
        "--cold-batches", type=int, default=20, help="batches in a cold run of sr-train (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs per program (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of a hot run (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes; 0: skip (default: %(default)s)")
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument("--folder", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--side", choices=("ours", "basicsr"), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        import cv2
        import torch

        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        print("\n" + json.dumps(ours(args.job) if args.side == "ours" else theirs(args.job)))
        return

    from sr_train.data.images import list_images
    from sr_train.data.toy import toy_files

    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start")
    files = list((list_images(args.images) if args.images else toy_files()).values())
    if not args.basicsr_python:
        print("no --basicsr-python: only sr-train is measured")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-loader-") as folder:
        hot, cold = Path(folder, "hot"), Path(folder, "cold")
        sets = {f"{args.count} of {HOT[0]}x{HOT[1]}": hot}
        prepare(islice(crops(files), args.count), hot, args.basicsr_python)
        if args.cold_images:
            sets[f"{args.cold_images} of {COLD[0]}x{COLD[1]}"] = cold
            prepare(islice(mosaics(crops(files)), args.cold_images), cold, args.basicsr_python)
        report(*measure(args, hot, cold))
        disk(sets)


if __name__ == "__main__":
    main()
