"""The eight flips and rotations of a square (dihedral group D4), for numpy arrays and tensors of images or clips."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sr_train.batch import Image

ArrayOrTensor = TypeVar("ArrayOrTensor", bound="NDArray[Any] | torch.Tensor")

FLIP_ROTATIONS = 8


def _flip(x: ArrayOrTensor, axis: int) -> ArrayOrTensor:
    if isinstance(x, np.ndarray):
        return cast("ArrayOrTensor", x[..., ::-1] if axis == -1 else x[..., ::-1, :])
    return cast("ArrayOrTensor", cast("torch.Tensor", x).flip(axis))


def _transpose(x: ArrayOrTensor) -> ArrayOrTensor:
    return cast("ArrayOrTensor", cast("Any", x).swapaxes(-1, -2))


def flip_rotate(x: ArrayOrTensor, k: int) -> ArrayOrTensor:
    """Apply flip or rotation number k (0 to 7) to the last two axes of [..., H, W].

    k is a sum: 1 flips left-right, 2 flips up-down, and 4 transposes after the flips. With 4, the result is [..., W,
    H]. EDSR's and BasicSR's augmentation draws these three operations independently with p = 0.5; a uniform k has the
    same distribution. An array is returned as a view.
    """
    if not 0 <= k < FLIP_ROTATIONS:
        raise ValueError(f"k={k} is not in 0..{FLIP_ROTATIONS - 1}")
    if k & 1:
        x = _flip(x, -1)
    if k & 2:
        x = _flip(x, -2)
    return _transpose(x) if k & 4 else x


def undo_flip_rotate(x: ArrayOrTensor, k: int) -> ArrayOrTensor:
    """Undo :func:`flip_rotate`: ``undo_flip_rotate(flip_rotate(x, k), k)`` equals ``x``."""
    if not 0 <= k < FLIP_ROTATIONS:
        raise ValueError(f"k={k} is not in 0..{FLIP_ROTATIONS - 1}")
    if k & 4:
        x = _transpose(x)
    if k & 2:
        x = _flip(x, -2)
    return _flip(x, -1) if k & 1 else x


def _pixels(image: Any) -> Image:
    """Return a view of pixels [n, n, C] as an array [n, n], whose elements are whole pixels of C samples."""
    return image.view(f"V{image.itemsize * image.shape[2]}")[..., 0]


def place_patch(canvas: Image, patch: Image, k: int) -> None:
    """Copy a patch [n, n, C] into ``canvas`` [n, n, C] of the same type, flipped or rotated by ``flip_rotate(patch, k)``.

    Each pixel is copied as one element. This way is three to seven times as fast as copying the samples of each pixel
    one by one. Only for k = 0 (no flip) the time is the same.
    """
    if patch.strides[2] != patch.itemsize:
        patch = np.ascontiguousarray(patch)
    np.copyto(_pixels(canvas), flip_rotate(_pixels(patch), k))
