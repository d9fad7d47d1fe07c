"""NIQE compared with BasicSR 1.4.2's, which states its own value and MATLAB's for baboon.png.

    python scripts/bench/niqe.py IMAGES [IMAGES ...] --basicsr-python bsr/bin/python [--baboon baboon.png]

IMAGES are folders of images. bsr is a venv with ``basicsr==1.4.2``, torchvision and scipy. BasicSR rounds to float32 between
its steps, MATLAB and sr-train compute in float64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

from children import run_child

MATLAB = 5.72957338  # MATLAB R2021a, tests/data/baboon.png of BasicSR, as stated in basicsr/metrics/niqe.py


def child(files: list[str]) -> None:
    """Print BasicSR's values as JSON. It runs in the venv with BasicSR."""
    import torchvision.transforms.functional as functional

    module: Any = types.ModuleType("torchvision.transforms.functional_tensor")
    module.rgb_to_grayscale = functional.rgb_to_grayscale  # newer releases of torchvision do not have this module
    sys.modules[module.__name__] = module
    import cv2
    from basicsr.metrics.niqe import calculate_niqe  # pyright: ignore[reportMissingImports]

    warnings.simplefilter("ignore")
    start = time.perf_counter()
    values = {file: calculate_niqe(cv2.imread(file), 0) for file in files}
    print(json.dumps({"values": values, "seconds": time.perf_counter() - start}))


def parent(args: argparse.Namespace) -> None:
    """Compare the values of all images and print the largest relative difference of each folder."""
    import torch

    from sr_train.data.images import image_files, read_image
    from sr_train.metrics.niqe import niqe

    def ours(file: str) -> float:
        return niqe(torch.from_numpy(read_image(file)).permute(2, 0, 1))

    for folder in args.images:
        files = [str(path) for path in image_files(folder)]
        command = [args.basicsr_python, __file__, "--child", *files]
        done = run_child(command, check=True, stdout=subprocess.PIPE, text=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
        start = time.perf_counter()
        own = {file: ours(file) for file in files}
        seconds = time.perf_counter() - start
        worst = max(files, key=lambda file: abs(own[file] / theirs["values"][file] - 1))
        apart = abs(own[worst] / theirs["values"][worst] - 1)
        print(
            f"{folder}: {len(files)} images, at most {apart:.1e} of BasicSR's value ({Path(worst).name}: {own[worst]:.6f}, "
            f"{theirs['values'][worst]:.6f}); {seconds:.1f} s, BasicSR {theirs['seconds']:.1f} s"
        )
    if args.baboon:
        print(f"baboon.png: {ours(args.baboon):.8f}, MATLAB R2021a {MATLAB}: {ours(args.baboon) / MATLAB - 1:+.1e}")


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--basicsr-python")
    parser.add_argument("--baboon", help="tests/data/baboon.png of BasicSR")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.images)
    else:
        parent(args)


if __name__ == "__main__":
    main()
