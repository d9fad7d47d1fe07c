"""Speed of ``sr-prepare`` from a zip against BasicSR's way: unpack, extract_subimages 480/240, make_lmdb_from_imgs.

    python scripts/bench/prepare.py --peer VENV/bin/python [--images FOLDER] [--count 200] [--workers 2]

The images have 2040x1356 pixels and are made of patches of photographs: those of --images, by default of scikit-image. The
venv needs: pip install --no-deps basicsr==1.4.2, numpy, opencv-python-headless, lmdb, tqdm. Both sides store HR only. A second
row of ours also stores LR at x2, x3 and x4, which BasicSR reads from files instead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import skimage.data
from children import run_child

from sr_train.batch import Image
from sr_train.data.images import encode_image, list_images, read_image, to_rgb, to_uint8

HEIGHT, WIDTH = 1356, 2040

ROWS, COLUMNS = 6, 8  # patches of 226x255

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "brick", "grass", "gravel")


def photographs(folder: Path | None) -> list[Image]:
    """Return the photographs from which images are made, [H, W, 3] uint8."""
    if folder is None:
        found = [np.asarray(getattr(skimage.data, name)()) for name in NAMES]
        found = [image[..., None] if image.ndim == 2 else image for image in found]
    else:
        found = [to_uint8(read_image(path)) for path in list_images(folder).values()]
    least = (HEIGHT // ROWS, WIDTH // COLUMNS)
    found = [to_rgb(image) for image in found if image.shape[0] >= least[0] and image.shape[1] >= least[1]]
    if not found:
        raise SystemExit(f"{folder}: no photograph of at least {least[1]}x{least[0]} pixels")
    return found


def compose(number: int, sources: list[Image]) -> Image:
    """Return an image made of patches of photographs at their own resolution, flipped at random."""
    random = np.random.default_rng(number)
    height, width = HEIGHT // ROWS, WIDTH // COLUMNS
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for y in range(ROWS):
        for x in range(COLUMNS):
            source = sources[random.integers(len(sources))]
            top = random.integers(source.shape[0] - height + 1)
            left = random.integers(source.shape[1] - width + 1)
            patch = source[top : top + height, left : left + width, :]
            patch = patch[:: random.choice([1, -1]), :: random.choice([1, -1])]
            image[y * height : (y + 1) * height, x * width : (x + 1) * width] = patch
    return image


def pack(path: Path, count: int, sources: list[Image]) -> None:
    """Write a zip of images, not compressed again, as DIV2K's."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(count):
            archive.writestr(f"DIV2K_train_HR/{number + 1:04d}.png", encode_image(compose(number, sources), ".png"))


def measured(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, the CPU seconds of its processes, and what it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = run_child(command, capture_output=True, text=True)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def size(folder: Path) -> float:
    """Return the size of the files below a folder in MB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="Python of a venv with BasicSR")
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "DIV2K_train_HR.zip"
        pack(archive, options.count, photographs(options.images))
        print(f"{options.count} images of {WIDTH}x{HEIGHT}, zip of {archive.stat().st_size / 1e6:,.0f} MB")
        program = "import sys; sys.argv[0] = 'sr-prepare'; from sr_train.cli.prepare import main; main()"
        print("| | images/s | s | CPU s | disk, MB |\n|---|---|---|---|---|")
        rows: list[float] = []

        def row(what: str, seconds: float, cpu: float, disk: str) -> None:
            rows.append(cpu)
            print(f"| {what} | {options.count / seconds:.1f} | {seconds:.1f} | {cpu:.1f} | {disk} |", flush=True)

        for scales in ("[]", "[2,3,4]"):
            store = folder / f"ours{len(rows)}.lmdb"
            arguments = [f"images={archive}", f"store={store}", f"scales={scales}", f"workers={options.workers}"]
            seconds, cpu, _ = measured([sys.executable, "-c", program, *arguments])
            row(f"sr-prepare scales={scales}", seconds, cpu, f"{size(store):,.0f}")
        (folder / "peer").mkdir()
        script = str(Path(__file__).with_name("prepare_peer.py"))
        arguments = [str(archive), str(folder / "peer"), str(options.workers)]
        seconds, cpu, printed = measured([str(options.peer), script, *arguments])
        parts = json.loads(printed.splitlines()[-1])
        disk = f"{size(folder / 'peer' / 'sub.lmdb'):,.0f} + {size(folder / 'peer' / 'sub'):,.0f} (sub-images)"
        disk += f" + {size(folder / 'peer' / 'images'):,.0f} (unpacked)"
        row(f"BasicSR, {parts['crops']} crops", seconds, cpu, disk)
        print(f"BasicSR: {', '.join(f'{part} {parts[part]:.1f} s' for part in ('unpack', 'extract', 'lmdb'))}")
        print(f"CPU time of BasicSR / ours: {rows[2] / rows[0]:.1f}; with LR at three scales: {rows[2] / rows[1]:.1f}")


if __name__ == "__main__":
    main()
