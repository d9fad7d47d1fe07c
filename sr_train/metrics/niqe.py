"""NIQE (Mittal, Soundararajan and Bovik, 2013): the distance of an image's statistics from those of pristine photographs.

Lower is better. No HR image is needed. The parameters of the pristine photographs are those of the authors' release, in
the file ``niqe_pristine.safetensors``, whose header has their license.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from sr_train.metrics.color import luma
from sr_train.metrics.functional import blur, gaussian, quantize
from sr_train.resampling import apply_taps, reduce_taps
from sr_train.torch_files import read_tensors

BLOCK = 96  #: side of a block in pixels

LEAST = 2  #: blocks that an image needs; the covariance of one block is not defined

_BAND = 4_000_000  # pixels that are computed at once; larger images are divided into bands of blocks

_WINDOW, _SIGMA = 7, 7 / 6  # Gaussian window of equations 2 and 3

_NOISE = 1e-11  # differences below it are rounding errors of a flat area, whose sign means nothing

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbors whose products are taken: horizontal, vertical, diagonals

_PRISTINE = Path(__file__).with_name("niqe_pristine.safetensors")


class NoScoreError(ValueError):
    """Error for an image that has no NIQE, because it is too small or has no texture."""


@lru_cache(maxsize=1)
def pristine() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean [36] and the covariance [36, 36] of the features of the pristine photographs, float64."""
    state = read_tensors(_PRISTINE)
    return state["mean"].clone(), state["covariance"].clone()


@lru_cache(maxsize=1)
def _shapes() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shapes alpha of generalized Gaussians, 0.2 to 10, and their ratios (E|x|)^2 / E(x^2), which increase."""
    alpha = torch.arange(9801, dtype=torch.float64) * 0.001 + 0.2
    return alpha, torch.exp(2 * torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha))


def _nearest_shape(ratio: torch.Tensor) -> torch.Tensor:
    """Return the shape alpha whose ratio is nearest. It is the smallest shape for NaN, as in the authors' program."""
    alpha, ratios = _shapes()
    above = torch.searchsorted(ratios, ratio.nan_to_num(0.0)).clamp(1, len(ratios) - 1)
    nearer_below = ratio - ratios[above - 1] <= ratios[above] - ratio
    found = alpha[torch.where(nearer_below, above - 1, above)]
    return torch.where(ratio.isnan(), alpha[0], found)


def _fit(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fit an asymmetric generalized Gaussian to each row of [N, pixels] by its moments (equation 7).

    Return its shape alpha and its scales beta to the left and to the right, [N] each. A scale is NaN for a row without
    negative or without positive values.
    """
    square, negative, positive = x * x, x < 0, x > 0
    left = ((square * negative).sum(1) / negative.sum(1)).sqrt()
    right = ((square * positive).sum(1) / positive.sum(1)).sqrt()
    quotient = left / right
    ratio = x.abs().mean(1) ** 2 / square.mean(1)
    alpha = _nearest_shape(ratio * (quotient**3 + 1) * (quotient + 1) / (quotient**2 + 1) ** 2)
    unit = torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2)
    return alpha, left * unit, right * unit


def _features(blocks: torch.Tensor) -> torch.Tensor:
    """Return the 18 features of each block: [N, side, side] normalized pixels -> [N, 18]."""
    alpha, left, right = _fit(blocks.flatten(1))
    found = [alpha, (left + right) / 2]
    for shift in _SHIFTS:  # the pixels at a block's edge meet those of its opposite edge
        alpha, left, right = _fit((blocks * torch.roll(blocks, shift, (1, 2))).flatten(1))
        mean = (right - left) * torch.exp(torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha))  # equation 8
        found += [alpha, mean, left, right]
    return torch.stack(found, 1)


def _blurred(x: torch.Tensor) -> torch.Tensor:
    """Apply the Gaussian window: [h + 6, w + 6] -> [h, w]."""
    kernel = gaussian(_WINDOW, _SIGMA)
    return blur(blur(x, kernel, -2), kernel, -1)


def _normalized(x: torch.Tensor) -> torch.Tensor:
    """Return locally normalized pixels (equation 1): [h + 6, w + 6] in [0, 255] -> [h, w]."""
    mean, edge = _blurred(x), _WINDOW // 2
    deviation = (_blurred(x * x) - mean * mean).abs().sqrt()
    difference = x[edge:-edge, edge:-edge] - mean
    return torch.where(difference.abs() < _NOISE, 0.0, difference / (deviation + 1))


def _rows(image: torch.Tensor, scale: int, start: int, stop: int) -> torch.Tensor:
    """Return rows of the image reduced by ``scale`` (bicubic, antialiased), with 3 pixels more on all sides.

    Pixels outside of the image repeat its edge. [H, W] uint8 -> [stop - start + 6, W / scale + 6] float64.
    """
    edge, height = _WINDOW // 2, image.shape[0] // scale
    top, bottom = max(0, start - edge), min(height, stop + edge)
    if scale == 1:
        part = image[top:bottom].double()
    else:
        down = reduce_taps(image.shape[0], scale, top, bottom - top)
        across = reduce_taps(image.shape[1], scale, 0, image.shape[1] // scale)
        first, last = int(down.pixel.min()), int(down.pixel.max()) + 1
        pixels = apply_taps(image[first:last].double().numpy(), down._replace(pixel=down.pixel - first), 0)
        part = torch.as_tensor(apply_taps(pixels, across, 1))
    padding = (edge, edge, edge - (start - top), edge - (bottom - stop))
    return F.pad(part[None], padding, mode="replicate")[0]


def _all_features(image: torch.Tensor) -> torch.Tensor:
    """Return the features of all blocks at both scales: [H, W] uint8, multiples of the block's side -> [N, 36]."""
    height, width = image.shape
    across, step = width // BLOCK, max(1, _BAND // (BLOCK * width))
    found: list[torch.Tensor] = []
    for first in range(0, height // BLOCK, step):
        last = min(first + step, height // BLOCK)
        both: list[torch.Tensor] = []
        for scale in (1, 2):
            side = BLOCK // scale
            band = _normalized(_rows(image, scale, first * side, last * side))
            blocks = band.view(last - first, side, across, side).transpose(1, 2).reshape(-1, side, side)
            both.append(_features(blocks))
        found.append(torch.cat(both, 1))
    return torch.cat(found)


def _values(image: torch.Tensor) -> torch.Tensor:
    """Return luma rounded to integers, or the values of a gray image: [1 or 3, H, W] -> [H, W] uint8."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"NIQE needs a gray or RGB image, [1 or 3, H, W], but got {list(image.shape)}")
    step = max(1, _BAND // image.shape[2])
    bands = (quantize(image[:, y : y + step].cpu()) for y in range(0, image.shape[1], step))
    return torch.cat([(luma(b, rounded=True) if len(b) == 3 else b)[0].to(torch.uint8) for b in bands])


def has_score(height: int, width: int, *, border: int = 0) -> bool:
    """Return true if an image of this size has enough blocks for NIQE."""
    return (height - 2 * border) // BLOCK * ((width - 2 * border) // BLOCK) >= LEAST


def niqe(image: torch.Tensor, *, border: int = 0) -> float:
    """Return NIQE of an image; lower is better. It is computed in float64 on the CPU.

    Args:
        image: [1 or 3, H, W] uint8, or float in [0, 1]. RGB becomes luma (BT.601) rounded to integers.
        border: number of pixels to ignore at each edge.

    Raises:
        NoScoreError: the image has fewer than two blocks of 96x96 pixels, or fewer than two blocks with texture.
    """
    height, width = image.shape[-2:]
    if not has_score(height, width, border=border):
        without = f" without its border of {border}" if border else ""
        raise NoScoreError(f"NIQE needs two blocks of {BLOCK}x{BLOCK} pixels; the image has {width}x{height}{without}")
    values = _values(image[:, border : height - border, border : width - border])
    height, width = (size // BLOCK * BLOCK for size in values.shape)
    features = _all_features(values[:height, :width].contiguous())
    complete = features[~features.isnan().any(1)]
    if len(complete) < LEAST:
        raise NoScoreError(f"NIQE needs two blocks with texture; the image has {len(complete)}")
    mean, covariance = pristine()
    both = ((covariance + torch.cov(complete.T)) / 2).numpy()
    distance = (mean - features.nanmean(0)).numpy()
    return math.sqrt(float(distance @ np.linalg.pinv(both) @ distance))  # equation 10
