"""Peak memory and time per megapixel of EDSR baseline x2 on a large image: in tiles, against the whole image at once.

    python scripts/bench/tiles.py --width 4000 --height 3000

Each measurement is a separate process. Peak memory is that of the process minus its memory before the first pixel.
Without tiles, the largest square of ``--fits`` that fits into memory is measured. Megapixels are those of the input.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time

import numpy as np
import torch
from children import run_child

from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.inference.network import Network
from sr_train.inference.pixels import upscale_image
from sr_train.inference.tiling import plan_tiles, whole_if_small
from sr_train.models.edsr import EDSR


def picture(height: int, width: int) -> np.ndarray:
    photograph = read_image(next(iter(toy_files("astronaut").values())))
    rows, columns = -(-height // photograph.shape[0]), -(-width // photograph.shape[1])
    return np.tile(photograph, (rows, columns, 1))[:height, :width].copy()


def measure(height: int, width: int, tile: int | str | None, precision: str) -> dict[str, object]:
    torch.manual_seed(0)
    model = EDSR(scale=2, channels=64, blocks=16, res_scale=1.0).eval()
    network = Network(model, 2, "edsr_baseline", plan_tiles(model, tile=tile), False, precision)
    upscale_image(picture(64, 64), network)  # libraries and thread pools
    image = picture(height, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    upscale_image(image, network)
    seconds = time.perf_counter() - start
    used = whole_if_small(network.tiling, height, width)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "tile": used.tile,
        "overlap": used.overlap,
        "peak_mb": peak / 1024,
        "more_mb": (peak - before) / 1024,
        "s_per_mp": seconds / (height * width / 1e6),
    }


def in_a_process(*arguments: object) -> dict[str, float]:
    done = run_child(
        [sys.executable, __file__, "--one", json.dumps(arguments)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--fits", type=int, default=1024)
    parser.add_argument("--precision", default="32", choices=("32", "bf16"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiles", default="auto", help="comma-separated: auto or sides")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    tiles = [t if t == "auto" else int(t) for t in options.tiles.split(",")]
    cases: dict[str, tuple[int, int, int | str | None]] = {"untiled": (options.fits, options.fits, None)}
    cases |= {f"tile={t}": (options.height, options.width, t) for t in tiles}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(options.runs):  # alternating, so that other load on the machine affects all
        for name, (height, width, tile) in cases.items():
            found[name].append(in_a_process(height, width, tile, options.precision))
    base = statistics.median(r["s_per_mp"] for r in found["untiled"])
    print(
        f"EDSR baseline x2, precision {options.precision}, {torch.get_num_threads()} threads, medians of {options.runs}"
    )
    print(f"{'':<12}{'image':>12}{'tile':>7}{'overlap':>9}{'peak MB':>9}{'of it':>8}{'s/MP':>8}{'ratio':>7}")
    for name, (height, width, _) in cases.items():
        row = {k: statistics.median(r[k] for r in found[name]) for k in ("peak_mb", "more_mb", "s_per_mp")}
        first = found[name][0]
        print(
            f"{name:<12}{f'{width}x{height}':>12}{first['tile'] or '-':>7}{first['overlap']:>9}{row['peak_mb']:>9.0f}"
            f"{row['more_mb']:>8.0f}{row['s_per_mp']:>8.2f}{row['s_per_mp'] / base:>7.2f}"
        )


if __name__ == "__main__":
    main()
