"""Reductions by which LR images in circulation were made: MATLAB, Pillow, OpenCV, nearest pixels and Gaussian blur (BD)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Resampling

from sr_train.batch import Image
from sr_train.resampling import ARITHMETICS, Arithmetic, imresize, round_half_up

Reduce = Callable[[Image, tuple[int, int]], Image]  # (HR, (h, w)) -> LR

_PILLOW = {
    "bicubic": Resampling.BICUBIC,
    "Lanczos": Resampling.LANCZOS,
    "bilinear": Resampling.BILINEAR,
    "box": Resampling.BOX,
    "Hamming": Resampling.HAMMING,
}
_OPENCV = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "Lanczos4": cv2.INTER_LANCZOS4,
}

MARGIN = 5  #: LR pixels by which a crop exceeds its window; more than half of the widest kernel


def _matlab(arithmetic: str, *, antialias: bool = True) -> Reduce:
    return lambda hr, size: imresize(hr, size=size, arithmetic=cast("Arithmetic", arithmetic), antialias=antialias)


def _pillow(filter_: Resampling) -> Reduce:
    """Return a filter of Pillow: columns first, rounded between the passes.

    Pillow 13 takes rows first for images more than twice as high as wide. The order is fixed here, so that crops do not differ.
    """

    def resize(pixels: Image, size: tuple[int, int]) -> Image:
        height, width = size
        image = PIL.Image.fromarray(pixels)
        return np.asarray(image.resize((width, image.height), filter_).resize((width, height), filter_))

    def reduce(hr: Image, size: tuple[int, int]) -> Image:
        if hr.dtype == np.uint8:
            return np.reshape(resize(hr[..., 0] if hr.shape[2] == 1 else hr, size), (*size, hr.shape[2]))
        planes = [resize(hr[..., c].astype(np.float32), size) for c in range(hr.shape[2])]
        return round_half_up(np.stack(planes, axis=-1).astype(np.float64), hr.dtype)

    return reduce


def _opencv(interpolation: int) -> Reduce:
    def reduce(hr: Image, size: tuple[int, int]) -> Image:
        return np.reshape(cv2.resize(hr, (size[1], size[0]), interpolation=interpolation), (*size, hr.shape[2]))

    return reduce


def _nearest(row: int, column: int) -> Reduce:
    def reduce(hr: Image, size: tuple[int, int]) -> Image:
        return hr[row :: hr.shape[0] // size[0], column :: hr.shape[1] // size[1]][: size[0], : size[1]]

    return reduce


def _gaussian(taps: int, sigma: float, phase: int, border: int) -> Reduce:
    """Return a Gaussian filter of ``taps`` pixels, of which every scale-th pixel is kept from ``phase`` on.

    The center of an even filter is half a pixel after the kept pixel, as in MATLAB's ``imfilter``.
    """
    offset = np.arange(taps) - (taps - 1) / 2
    kernel = np.exp(-(offset**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    anchor = (taps - 1) // 2

    def reduce(hr: Image, size: tuple[int, int]) -> Image:
        scale = hr.shape[0] // size[0]
        options: dict[str, Any] = {"anchor": (anchor, anchor), "borderType": border}
        out: Any = cv2.sepFilter2D(hr.astype(np.float64), cv2.CV_64F, kernel, kernel, **options)
        blurred: NDArray[np.float64] = np.reshape(out, hr.shape)
        kept = blurred[phase::scale, phase::scale][: size[0], : size[1]]
        return round_half_up(np.round(kept, 9), hr.dtype)

    return reduce


def _gaussians(scale: int) -> Iterator[tuple[str, Reduce]]:
    """Yield "BD" of the video papers and of RCAN (sigma 1.6), and of DUF."""
    if scale == 3:
        yield "BD (Gaussian 7x7, sigma 1.6)", _gaussian(7, 1.6, 1, cv2.BORDER_REPLICATE)
    elif scale % 2 == 0:
        yield "BD (Gaussian 12x12, sigma 1.6)", _gaussian(12, 1.6, scale // 2 - 1, cv2.BORDER_REPLICATE)
    sigma = 0.4 * scale
    taps = 2 * min(6, int(4 * sigma + 0.5)) + 1
    yield (
        f"DUF's BD (Gaussian 13x13, sigma {sigma:.1f}, first pixel)",
        _gaussian(taps, sigma, 0, cv2.BORDER_REFLECT_101),
    )


def reductions(scale: int) -> dict[str, Reduce]:
    """Return the known reductions by name, those that are more common first."""
    if scale == 1:
        return {"a copy of HR": lambda hr, size: hr}
    known: dict[str, Reduce] = {f"MATLAB bicubic, arithmetic={a}": _matlab(a) for a in ARITHMETICS}
    known |= {f"Pillow {name}": _pillow(filter_) for name, filter_ in _PILLOW.items()}
    known |= {f"OpenCV {name}": _opencv(flag) for name, flag in _OPENCV.items()}
    known["MATLAB bicubic without antialiasing"] = _matlab("float", antialias=False)
    known |= dict(_gaussians(scale))
    for row in range(scale):
        for column in range(scale):
            known[f"nearest, pixel ({row}, {column}) of {scale}x{scale}"] = _nearest(row, column)
    return known


def uncropped_reductions(scale: int) -> dict[str, Reduce]:
    """Return the reductions that accept any ratio of sizes, for LR of an HR image that was not cropped.

    MATLAB's ``imresize(image, 1/scale)`` rounds the size up and keeps the scale exact; the others stretch.
    """

    def exact(arithmetic: Arithmetic) -> Reduce:
        return lambda hr, size: imresize(hr, 1 / scale, arithmetic=arithmetic)[: size[0], : size[1]]

    known = {f"MATLAB bicubic, arithmetic={a}": exact(cast("Arithmetic", a)) for a in ARITHMETICS}
    known["MATLAB bicubic, by size"] = _matlab("float")
    known |= {f"Pillow {name}": _pillow(filter_) for name, filter_ in _PILLOW.items()}
    return known | {f"OpenCV {name}": _opencv(flag) for name, flag in _OPENCV.items()}
