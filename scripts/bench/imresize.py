"""Accuracy of ``imresize`` and PSNR of bicubic, compared with files made by MATLAB.

    python scripts/bench/imresize.py DATA

DATA contains ``matlab/bicubic_pytorch`` (``*.mat`` and butterfly.png of sanghyun-son/bicubic_pytorch), ``matlab/baboon``
(xinntao/matlab_functions_verification) and ``set5/image_SRF_{2,3,4}`` with ``bicubic_matlab.csv`` (SelfExSR). Needs scipy.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.io import loadmat

from sr_train.data.images import read_image
from sr_train.metrics.color import luma
from sr_train.metrics.functional import psnr, ssim
from sr_train.metrics.protocol import PROTOCOLS, score
from sr_train.resampling import ARITHMETICS, Arithmetic, imresize, imresize_torch

SQUARE = {8: np.arange(64.0).reshape(8, 8), 4: np.arange(16.0).reshape(4, 4), 15: np.arange(225.0).reshape(15, 15)}
CORNER = np.array([[100, 1, 0, 100], [10, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], float)  # computed from MATLAB's result
PUBLISHED = {2: (33.68, 0.9304), 3: (30.41, 0.8690), 4: (28.43, 0.8113)}
PAPERS = {2: (33.66, 0.9299), 3: (30.39, 0.8682), 4: (28.42, 0.8104)}


def mat_input(name: str, folder: Path) -> np.ndarray:
    """Return the input image of a MATLAB result, by its file name."""
    if "butterfly" in name:
        return read_image(folder / "butterfly.png") / 255
    if "topleft" in name:
        return CORNER
    if "bottomright" in name:
        return CORNER[::-1, ::-1]
    return SQUARE[4] if "small" in name else SQUARE[15] if "x3" in name or "x5" in name else SQUARE[8]


def mat_files(folder: Path) -> None:
    worst = torch_worst = 0.0
    files = sorted(folder.glob("*.mat"))
    for path in files:
        (expected,) = (v for k, v in loadmat(path).items() if not k.startswith("__"))
        image, antialias = mat_input(path.stem, folder), "noaa" not in path.stem
        error = np.abs(imresize(image, size=expected.shape[:2], antialias=antialias) - expected).max()
        worst = max(worst, error)
        if path.stem[-5:] in ("x2_aa", "x3_aa", "x4_aa", "x5_aa"):
            result = imresize_torch(torch.from_numpy(image), 1 / int(path.stem[-4])).numpy()
            torch_worst = max(torch_worst, np.abs(result - expected).max())
    print(
        f".mat files: {len(files)}, largest error {worst:.2e} (numpy), {torch_worst:.2e} (torch float64, integer factors)"
    )


def baboon(folder: Path) -> None:
    image = read_image(folder / "baboon.png")
    for name, scale in (("down_x2", 1 / 2), ("down_x3", 1 / 3), ("down_x4", 1 / 4), ("up_x2", 2)):
        different = imresize(image, scale) != read_image(folder / f"baboon_{name}_matlab.png")
        print(f"baboon {name}: {different.sum()} of {different.size} samples differ (arithmetic float)")


def pairs(folder: Path, scale: int) -> Any:
    """Yield (name, LR, HR) of the five images."""
    below = folder / f"image_SRF_{scale}"
    names = sorted(p.name.removesuffix(f"_SRF_{scale}_HR.png") for p in below.glob("*_HR.png"))
    assert len(names) == 5
    return [(n, *(read_image(below / f"{n}_SRF_{scale}_{kind}.png") for kind in ("LR", "HR"))) for n in names]


def chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def papers_baseline(hr: np.ndarray, scale: int) -> tuple[float, float]:
    """Reduce and upscale Y of HR in floating point, without rounding LR to 8 bits, and round the result once."""
    y = luma(chw(hr), rounded=True)[0].numpy()
    enlarged = imresize(imresize(y, 1 / scale), scale)
    result = np.clip(np.floor(enlarged + 0.5), 0, 255)
    a, b = (torch.from_numpy(x[scale:-scale, scale:-scale])[None] for x in (result, y))
    return psnr(a, b), ssim(a, b)


def line(name: str, scale: int, values: list[tuple[float, float]], expected: tuple[float, float]) -> None:
    p, s = np.mean(values, axis=0)
    print(
        f"{name:<34} x{scale}  {p:8.4f} dB  {s:.5f}   expected {expected[0]:.4f} {expected[1]:.5f}   {p - expected[0]:+.4f}"
    )


ARITHMETIC_NAMES = cast("tuple[Arithmetic, ...]", ARITHMETICS)


def set5(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "bicubic_matlab.csv").open()))
    for scale in (2, 3, 4):
        images = pairs(folder, scale)
        reduced = {
            a: sum((imresize(hr, 1 / scale, arithmetic=a) != lr).sum() for _, lr, hr in images)
            for a in ARITHMETIC_NAMES
        }
        print(f"Set5 x{scale} LR files: different samples by arithmetic: {reduced}")
    for scale in (2, 3, 4):
        images = pairs(folder, scale)
        results = [score(chw(imresize(lr, scale)), chw(hr), PROTOCOLS["y"], scale) for _, lr, hr in images]
        line("LR files, float, protocol y", scale, [(r["psnr"], r["ssim"]) for r in results], PUBLISHED[scale])
        line("papers' bicubic baseline", scale, [papers_baseline(hr, scale) for _, _, hr in images], PAPERS[scale])
        results = [
            score(chw(imresize(lr, scale, arithmetic="uint8_replicate")), chw(hr), PROTOCOLS["y_matlab"], scale)
            for _, lr, hr in images
        ]
        table = [(float(r["psnr_y_rounded"]), float(r["ssim_y_rounded"])) for r in rows if int(r["scale"]) == scale]
        means = np.mean(table, axis=0)
        values = [(r["psnr"], r["ssim"]) for r in results]
        line("SelfExSR's table, y_matlab", scale, values, (float(means[0]), float(means[1])))
        worst = max(abs(a[0] - b[0]) for a, b in zip(values, table, strict=True))
        print(f"{'':<38} largest difference for one image: {worst:.4f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds matlab/ and set5/")
    data = parser.parse_args().data
    mat_files(data / "matlab" / "bicubic_pytorch")
    baboon(data / "matlab" / "baboon")
    set5(data / "set5")


if __name__ == "__main__":
    main()
