"""Upscaling of pixels as they are in files: gray, RGB or RGBA of 8 or 16 bits, or floating point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sr_train.batch import Image
from sr_train.data.images import check_channels, to_channels, to_rgb
from sr_train.inference.network import Network
from sr_train.resampling import imresize


def upscale_image(
    image: Image,
    network: Network,
    done: Callable[[int], object] = lambda pixels: None,
    *,
    size: tuple[int, int] | None = None,
) -> Image:
    """Upscale [h, w, C], C = 1, 3 or 4, to [scale * h, scale * w, C] of the same type.

    A network for RGB upscales gray as RGB, and the result is the mean of the channels. A network for gray converts color
    to gray and drops alpha. Alpha is otherwise upscaled by bicubic interpolation, unless the network takes it.

    Args:
        image: uint8, uint16, or float32 in [0, 1].
        network: network for images.
        done: function that is called with the number of LR pixels of every finished tile.
        size: (height, width) to which the output is resampled by bicubic interpolation before it is rounded.

    Raises:
        ValueError: the network's output contains NaN or infinity.
    """
    image = written_part(image, network.channels)
    height, width, channels = image.shape
    colors = min(channels, 3) if network.channels == 3 else channels
    large = height * network.scale, width * network.scale
    top = float(np.iinfo(image.dtype).max) if image.dtype != np.float32 else 1.0
    seen = to_rgb(image) if network.channels == 3 else image
    pixels = torch.from_numpy(np.array(seen, order="C"))  # a copy: a decoded JPEG is read-only
    lr = pixels.permute(2, 0, 1) if image.dtype == np.uint8 else pixels.permute(2, 0, 1).float() / top
    out = np.empty((*(size or large), channels), image.dtype)
    whole = None if size is None else np.empty((*large, colors), np.float32)
    for first, band in network.bands(lr, done):
        rows = band.cpu().permute(1, 2, 0).double().numpy()
        if not np.isfinite(rows).all():
            raise ValueError("the network's output contains NaN or infinity")
        if whole is not None:
            whole[first : first + len(rows)] = rows.mean(axis=2, keepdims=True) if channels == 1 else rows
        else:
            out[first : first + len(rows), :, :colors] = _stored(rows, image.dtype, top, mean=channels == 1)
    if whole is not None:
        for channel in range(colors):  # one at a time: imresize computes in float64
            resized = imresize(whole[..., channel], size=size).clip(0, 1)
            out[..., channel : channel + 1] = _stored(resized[..., None], image.dtype, top, mean=False)
    if colors < channels:
        alpha = imresize(image[..., 3:].astype(np.float64) / top, size=size or large).clip(0, 1)
        out[..., 3:] = _stored(alpha, image.dtype, top, mean=False)
    return out


def written_part(image: Image, channels: int) -> Image:
    """Return the image whose upscaling is written: for a network of ``channels`` other than 3, with these channels."""
    check_channels(channels)
    return image if channels == 3 else to_channels(image, channels)


def _stored(rows: Image, dtype: np.dtype, top: float, *, mean: bool) -> Image:  # pyright: ignore[reportMissingTypeArgument]
    """Convert [rows, W, C] in [0, 1] to the values of a type; ``mean`` averages the rounded channels."""
    if dtype == np.float32:
        return rows.mean(axis=2, keepdims=True) if mean else rows
    rows = np.floor(rows * top + 0.5)
    return np.floor(rows.mean(axis=2, keepdims=True) + 0.5) if mean else rows
