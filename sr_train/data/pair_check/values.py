"""Changes of an LR image's values: another gamma or range, JPEG compression, blur and noise."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.pair_check.windows import psnr


def tones(dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
    """Return changes of gamma and range as tables of values, by name; they are applied to reduced HR."""
    top = int(np.iinfo(dtype).max)
    x = np.arange(top + 1) / top
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-12) ** (1 / 2.4) - 0.055)
    curves = {
        "in the range 16-235 instead of 0-255": (16 + 219 * x) / 255,
        "stretched from the range 16-235 to 0-255": (255 * x - 16) / 219,
        "of gamma 2.2 (darker than HR)": x**2.2,
        "of gamma 1/2.2 (brighter than HR)": x ** (1 / 2.2),
        "in linear light (darker than HR)": linear,
        "encoded as sRGB twice (brighter than HR)": encoded,
    }
    return {name: (np.minimum(np.maximum(curve, 0), 1) * top + 0.5).astype(dtype) for name, curve in curves.items()}


def affine(hr: NDArray[Any], lr: NDArray[Any]) -> tuple[float, float, float]:
    """Return gain and offset (in levels of 255) that map reduced HR to LR best, and the PSNR in dB that they give."""
    level = float(np.iinfo(hr.dtype).max) / 255
    x, y = hr.astype(np.float64).ravel() / level, lr.astype(np.float64).ravel() / level
    spread = float(x.var())
    gain = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 0 else 1.0
    offset = float(y.mean() - gain * x.mean())
    return gain, offset, psnr(float(np.square(gain * x + offset - y).mean()), 255)


def _jpeg(image: Image, quality: int, sampling: int) -> Image:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.shape[2] == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), options)
    flag = cv2.IMREAD_COLOR if image.shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    return np.reshape(np.asarray(cv2.imdecode(data, flag)), image.shape)[..., ::-1]


def jpeg_quality(made: Image, lr: Image) -> tuple[int, float]:
    """Return the JPEG quality that maps a reduced HR to LR best, and the PSNR in dB that it gives: [h, w, 1|3] uint8.

    Both begin at a row and a column that are multiples of 16, so that the blocks of JPEG agree.
    """
    samplings = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    samplings = samplings if made.shape[2] == 3 else samplings[:1]

    def best(qualities: list[int]) -> tuple[int, float]:
        tried: list[tuple[int, float]] = []
        for quality in qualities:
            for sampling in samplings:
                error = np.square(_jpeg(made, quality, sampling).astype(np.float32) - lr).mean(dtype=np.float64)
                tried.append((quality, psnr(float(error), 255)))
        return max(tried, key=lambda item: item[1])

    coarse, value = best([*range(10, 90, 8), 90, 93, 95, 97])
    return max(
        best(list(range(max(1, coarse - 4), min(100, coarse + 4) + 1))), (coarse, value), key=lambda item: item[1]
    )


def blockiness(residual: NDArray[Any]) -> float:
    """Return by which factor a residual [h, w] changes more between blocks of 8 pixels than inside them."""
    factors: list[float] = []
    for axis in (0, 1):
        change = np.abs(np.diff(residual.astype(np.float32), axis=axis)).mean(axis=1 - axis)
        if len(change) < 24:
            return 1.0
        phases = np.array([change[phase::8].mean() for phase in range(8)])
        factors.append(float(phases[7] / max(float(np.delete(phases, 7).mean()), 1e-6)))
    return min(factors)


def degradation(made: NDArray[np.float32], lr: NDArray[np.float32]) -> str:
    """Describe how LR differs from aligned, reduced HR (gray values in [0, 255], [h, w]): blurred, noisy, or neither."""
    fine = [v - cv2.GaussianBlur(v, (0, 0), 1.0) for v in (made, lr)]
    energy = float(np.square(fine[0]).mean(dtype=np.float64))
    if energy <= 0:
        return "differs from HR"
    share = float((fine[0] * fine[1]).mean(dtype=np.float64)) / energy
    rest = fine[1] - share * fine[0]
    local = cv2.blur(rest * rest, (7, 7))[3:-3:4, 3:-3:4]
    noise = float(np.sqrt(np.quantile(local, 0.2))) if local.size else 0.0  # where the image is calm
    words = [word for word, found in (("blurred", share < 0.85), ("noisy", noise > 1.5)) if found]
    words = ["sharpened"] if share > 1.35 and not words else words
    return "looks " + " and ".join(words) if words else "differs from HR a little"
