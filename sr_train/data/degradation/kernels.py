"""Blur kernels: functions of their parameters, [size, size] float64 with sum 1; and their application to images.

x is the offset of a pixel from the center of the kernel. All lengths are in pixels of the image that is blurred.
"""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.degradation.pixels import with_channels

Kernel = NDArray[np.float64]

_NEGLIGIBLE = 1e-6  # sum of the weights in an outer ring that is cut off


@lru_cache(maxsize=64)
def _offsets(size: int) -> tuple[Kernel, Kernel]:
    """Return the offsets from the center: x [1, size] and y [size, 1]."""
    line = np.arange(size, dtype=np.float64) - (size - 1) / 2
    return line[None], line[:, None]


def _mahalanobis(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """Return x^T S^-1 x for S = R diag(sigma_x^2, sigma_y^2) R^T; R rotates by ``angle`` radians."""
    x, y = _offsets(size)
    along = (cos(angle) * x + sin(angle) * y) / sigma_x
    across = (cos(angle) * y - sin(angle) * x) / sigma_y
    return along * along + across * across


def _normalized(kernel: Kernel) -> Kernel:
    return kernel / kernel.sum()


def gaussian(size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0) -> Kernel:
    """Return a generalized Gaussian kernel, exp(-1/2 (x^T S^-1 x)^beta). With beta = 1 it is Gaussian."""
    form = _mahalanobis(size, sigma_x, sigma_y, angle)
    return _normalized(np.exp(-0.5 * (form if beta == 1 else form**beta)))


def plateau(size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0) -> Kernel:
    """Return a plateau-shaped kernel, 1 / (1 + (x^T S^-1 x)^beta)."""
    return _normalized(1 / (1 + _mahalanobis(size, sigma_x, sigma_y, angle) ** beta))


def shifted_gaussian(size: int, sigma: float, shift: float) -> Kernel:
    """Return an isotropic Gaussian kernel whose center is ``shift`` pixels to the right of and below the middle."""
    x, y = _offsets(size)
    form = ((x - shift) ** 2 + (y - shift) ** 2) / (2 * sigma**2)
    return _normalized(np.exp(form.min() - form))


def bessel_j1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Bessel's function of the first kind of order 1, as the mean of cos(t - x sin t) over t in [0, pi].

    The trapezoidal rule is exact to rounding, because the function is periodic and smooth.
    """
    nodes = 32 + int(x.max())
    t = np.linspace(0, pi, nodes + 1)
    weight = np.full(nodes + 1, 1 / nodes)
    weight[[0, -1]] /= 2
    return np.cos(t - x[:, None] * np.sin(t)) @ weight


def sinc(size: int, cutoff: float) -> Kernel:
    """Return the kernel of the circular low-pass filter, c / (2 pi r) J1(c r).

    Args:
        size: odd side of the kernel.
        cutoff: frequency c in (0, pi], radians per pixel; pi is the Nyquist frequency.
    """
    x, y = _offsets(size)
    squares, place = np.unique(x * x + y * y, return_inverse=True)
    r = np.sqrt(squares)
    values = np.full(r.size, cutoff**2 / (4 * pi))  # the limit at r = 0
    values[1:] = cutoff * bessel_j1(cutoff * r[1:]) / (2 * pi * r[1:])
    return _normalized(values[np.reshape(place, (size, size))])


def trimmed(kernel: Kernel) -> Kernel:
    """Return the kernel without outer rings whose weights together are below 1e-6."""
    size, cut = kernel.shape[0], 0
    total = np.abs(kernel).sum()
    while size - 2 * cut > 1:
        inner = kernel[cut + 1 : size - cut - 1, cut + 1 : size - cut - 1]
        if total - np.abs(inner).sum() >= _NEGLIGIBLE:
            break
        cut += 1
    return _normalized(kernel[cut : size - cut, cut : size - cut]) if cut else kernel


def apply_kernel(image: Image, kernel: Kernel) -> Image:
    """Return the correlation of [H, W, C] with a kernel. Images are mirrored at the border (without the border pixel)."""
    used = trimmed(kernel)
    if used.size == 1:
        return image
    out = cv2.filter2D(image, -1, used.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
    return with_channels(out)


def apply_gaussian(image: Image, size: int, sigma: float) -> Image:
    """Return the image blurred by the isotropic ``gaussian(size, sigma, sigma)``, computed by rows and columns."""
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    keep = np.flatnonzero(line >= line.sum() * _NEGLIGIBLE / (4 * size))
    line = (line[keep] / line[keep].sum()).astype(np.float32)
    if line.size == 1:
        return image
    return with_channels(cv2.sepFilter2D(image, -1, line, line, borderType=cv2.BORDER_REFLECT_101))
