"""Bicubic resampling as in MATLAB's ``imresize``, with which the papers made their low-resolution images.

The kernel is cubic convolution (Keys 1981, a = -0.5), applied to rows and columns one after the other. When an image is
reduced, the kernel is widened by 1/scale (antialiasing). Pixel centers are aligned, and the weights of each output
pixel sum to one. An arithmetic is the name of a set of rules for rounding and edges. Published files use three
arithmetics (``ARITHMETICS``):

=================== ================================================================ ====================================
name                method                                                           used by
=================== ================================================================ ====================================
``float``           real numbers between the passes, mirrored edges, rounded once    BasicSR, MATLAB with ``im2double``
``uint8``           rounded and clamped between the passes, mirrored edges           newer MATLAB on integer images
``uint8_replicate`` rounded and clamped between the passes, replicated edges         Set5, Set14, B100, Urban100 LR files
=================== ================================================================ ====================================

The weights of an output pixel depend only on its position. Therefore a training crop can be reduced without the other
pixels of the image (:func:`reduce_taps`): the result equals the same window of the reduced image, bit for bit.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Arithmetic = Literal["float", "uint8", "uint8_replicate"]

ARITHMETICS: tuple[str, ...] = get_args(Arithmetic)

_KERNEL_WIDTH = 4.0  # support of the cubic kernel in input pixels, without antialiasing


class Taps(NamedTuple):
    """Input pixels (taps) of each output pixel along one axis, and their weights: two arrays [output pixels, taps]."""

    pixel: NDArray[np.intp]
    weight: NDArray[np.float64]


def _cubic(x: NDArray[Any]) -> NDArray[Any]:
    """Return Keys' cubic convolution kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return near * (x <= 1) + far * ((x > 1) & (x <= 2))


@lru_cache(maxsize=256)
def taps(length: int, out_length: int, scale: float, antialias: bool = True, mirror: bool = True) -> Taps:
    """Return the taps of one axis: the input pixels that each output pixel is computed from, and their weights.

    Args:
        length: number of input pixels.
        out_length: number of output pixels.
        scale: output pixels per input pixel; a value below 1 reduces the image.
        antialias: true to widen the kernel by 1/scale when the image is reduced.
        mirror: true to mirror the image at its edges; false to repeat the pixels at the edges.
    """
    stretch = min(scale, 1.0) if antialias else 1.0
    width = _KERNEL_WIDTH / stretch
    # An integer 1/scale is made exact, so that all pixels of a phase have bit-identical weights.
    step = 1.0 / scale
    step = float(round(step)) if abs(step - round(step)) < 1e-9 and round(step) >= 1 else step
    center = np.arange(out_length) * step + 0.5 * (step - 1)
    first = np.floor(center - width / 2)
    position = first[:, None] + np.arange(math.ceil(width) + 2)
    weight = stretch * _cubic(stretch * (center[:, None] - position))
    weight /= weight.sum(axis=1, keepdims=True)
    index = position.astype(np.intp)
    if mirror:
        index = np.mod(index, 2 * length)
        index = np.where(index < length, index, 2 * length - 1 - index)
    else:
        index = np.clip(index, 0, length - 1)
    used = np.any(weight != 0, axis=0)
    index, weight = np.ascontiguousarray(index[:, used]), np.ascontiguousarray(weight[:, used])
    index.flags.writeable = weight.flags.writeable = False  # the cache returns the same arrays again
    return Taps(index, weight)


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return MATLAB's output size (height, width) for a scale: ceil(scale * size), without the rounding error of 1/3 * 3."""
    return tuple(math.ceil(round(scale * n, 9)) for n in (height, width))  # pyright: ignore[reportReturnType]


def check_arithmetic(name: str) -> None:
    """Raise ValueError unless ``name`` is one of the three arithmetics (rules for rounding and edges) of this module."""
    if name not in ARITHMETICS:
        raise ValueError(f"arithmetic={name!r} is not one of {', '.join(ARITHMETICS)}")


def _plan(
    shape: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the output size and the scale of each axis of an image that is resized."""
    height, width = shape
    if min(height, width) < 1:
        raise ValueError(f"cannot resize an empty image of {height}x{width}")
    if (scale is None) == (size is None):
        raise ValueError("give either scale= or size=(height, width), and not both")
    if scale is not None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale={scale} must be a positive number")
        return output_size(height, width, scale), (scale, scale)
    assert size is not None
    if min(size) < 1:
        raise ValueError(f"size={size} must be at least 1x1")
    return size, (size[0] / height, size[1] / width)


def apply_taps(image: NDArray[np.float64], axis_taps: Taps, axis: int) -> NDArray[np.float64]:
    """Resize one axis of a float64 array with the given taps (input pixels and weights).

    The taps are added in a fixed order, so a window of an image gets the same bits as the whole image.
    """
    shape = [1] * image.ndim
    shape[axis] = -1
    index, weight = axis_taps
    out = np.take(image, index[:, 0], axis=axis) * weight[:, 0].reshape(shape)
    for k in range(1, index.shape[1]):
        part = np.take(image, index[:, k], axis=axis)
        part *= weight[:, k].reshape(shape)
        out += part
    return out


def round_half_up(image: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round pixel values to integers of type ``dtype`` as MATLAB does: round half up, and clamp to the range of the type."""
    return np.clip(np.floor(image + 0.5), 0, np.iinfo(dtype).max).astype(dtype)


def imresize(
    image: NDArray[Any],
    scale: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
    arithmetic: Arithmetic = "float",
) -> NDArray[Any]:
    """Resize an image like MATLAB's ``imresize(image, scale)`` or ``imresize(image, size)``.

    Args:
        image: [H, W] or [H, W, C]; uint8, uint16 or floating point.
        scale: factor for both axes; the result has ceil(scale * size) pixels.
        size: (height, width) of the result, instead of ``scale``.
        antialias: true to widen the kernel when the image is reduced (MATLAB's default).
        arithmetic: rules for rounding and edges: ``float``, ``uint8`` or ``uint8_replicate``; see the module's
            docstring. Floating-point images need ``float``.

    Returns:
        The resized image. For an integer image it is rounded and has the same type. For a floating-point image it is float64
        and not clamped.
    """
    check_arithmetic(arithmetic)
    out_size, scales = _plan(image.shape[:2], scale, size)
    integer = np.issubdtype(image.dtype, np.integer)
    if not integer and arithmetic != "float":
        raise ValueError(
            f"arithmetic={arithmetic!r} needs an integer image; this image is {image.dtype}; give arithmetic='float'"
        )
    mirror = arithmetic != "uint8_replicate"
    out = image.astype(np.float64)
    for n, axis in enumerate(
        np.argsort(scales, kind="stable")
    ):  # the axis with the smaller scale first; rows first if equal
        out = apply_taps(out, taps(image.shape[axis], out_size[axis], scales[axis], antialias, mirror), int(axis))
        if n == 0 and arithmetic != "float":
            out = round_half_up(out, image.dtype).astype(np.float64)
    return round_half_up(out, image.dtype) if integer else out


def reduce_taps(length: int, scale: int, start: int, count: int, mirror: bool = True) -> Taps:
    """Return the taps (input pixels and weights) of the output pixels [start, start + count) of a reduced axis.

    An axis of ``length`` input pixels is reduced by the integer ``scale``, a divisor of ``length``. ``mirror`` is true
    to mirror the image at its edges.
    """
    index, weight = taps(length, length // scale, 1.0 / scale, True, mirror)
    return Taps(index[start : start + count], weight[start : start + count])


def imresize_torch(
    image: torch.Tensor,
    scale: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
) -> torch.Tensor:
    """Resize floating-point images with the arithmetic ``float``: [..., H, W] -> [..., ceil(scale * H), ceil(scale * W)].

    ``size`` = (height, width) of the result may be given instead of ``scale``. The result is neither rounded nor
    clamped and has the input's type and device. In float64, the difference to :func:`imresize` is at most 1e-12.
    """
    (out_h, out_w), scales = _plan(tuple(image.shape[-2:]), scale, size)
    for axis, out_length, factor in ((-2, out_h, scales[0]), (-1, out_w, scales[1])):
        index, weight = taps(image.shape[axis], out_length, factor, antialias)
        positions = torch.tensor(index, device=image.device)
        weights = torch.tensor(weight, device=image.device, dtype=image.dtype)
        shape = (-1, 1) if axis == -2 else (-1,)
        out = image.index_select(axis, positions[:, 0]) * weights[:, 0].reshape(shape)
        for k in range(1, index.shape[1]):
            out = torch.addcmul(out, image.index_select(axis, positions[:, k]), weights[:, k].reshape(shape))
        image = out
    return image
