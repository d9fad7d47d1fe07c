"""Upscaling of image files in bands of rows, so that memory does not limit their size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from sr_train.batch import Image
from sr_train.data.images import ImageError, encode_image, read_header, read_upright, to_rgb, write_image
from sr_train.devices import memory_is_full
from sr_train.files import write_bytes
from sr_train.inference.network import Network, take_less
from sr_train.resampling import imresize
from sr_train.upscaling.compare import beside_bicubic, compare_name
from sr_train.upscaling.inputs import Job, Settings


def upscale_image(image: Image, network: Network, done: Callable[[int], object] = lambda pixels: None) -> Image:
    """Upscale [h, w, C] uint8 or uint16, C = 1, 3 or 4, to [scale * h, scale * w, C] of the same type.

    Gray is upscaled as RGB, and the result is the mean of the channels. Alpha is upscaled by bicubic interpolation.
    """
    height, width, channels = image.shape
    top = float(np.iinfo(image.dtype).max)
    pixels = torch.from_numpy(np.array(to_rgb(image), order="C"))  # a copy: a decoded JPEG is read-only
    lr = pixels.permute(2, 0, 1) if image.dtype == np.uint8 else pixels.permute(2, 0, 1).float() / top
    out = np.empty((height * network.scale, width * network.scale, channels), image.dtype)
    for first, band in network.bands(lr, done):
        rows = torch.floor(band.cpu().permute(1, 2, 0).double() * top + 0.5).numpy()
        if not np.isfinite(rows).all():
            raise ValueError("the network's output contains NaN or infinity")
        if channels == 1:
            rows = np.floor(rows.mean(axis=2, keepdims=True) + 0.5)
        out[first : first + len(rows), :, : min(channels, 3)] = rows
    if channels == 4:
        alpha = imresize(image[..., 3:].astype(np.float64) / top, network.scale)
        out[..., 3:] = np.floor(alpha.clip(0, 1) * top + 0.5)
    return out


def upscale_with_room(
    image: Image, network: Network, *, shrink: bool, bar: Any, tell: Callable[[str], object]
) -> Image:
    """Upscale an image with :func:`upscale_image`.

    If the memory is full and ``shrink`` is true, try again with smaller tiles. ``bar`` is a progress bar that counts
    megapixels. ``tell`` is called with a sentence for the user.
    """
    start = bar.n
    while True:
        try:
            return upscale_image(image, network, lambda pixels: bar.update(pixels / 1e6))
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            take_less(network, *image.shape[:2], shrink=shrink, tell=tell)
            bar.n = start


def megapixels(jobs: Iterable[Job]) -> float:
    """Return the number of LR megapixels of all images with readable headers. Other images are reported later."""
    total = 0.0
    for job in (j for j in jobs if j.kind == "image"):
        try:
            header = read_header(job.source)
        except ImageError:
            continue
        total += header.height * header.width / 1e6
    return total


def upscale_file(job: Job, network: Network, settings: Settings, bar: Any, tell: Callable[[str], object]) -> str:
    """Read, upscale and write one image. Return a line for the user.

    ``bar`` is a progress bar that counts megapixels. ``tell`` is called with a sentence for the user.
    """
    start = time.monotonic()
    image = read_upright(job.source)
    encode_image(image[:1, :1], job.target.suffix)  # raises before the work if the format cannot store the image
    large = upscale_with_room(image, network, shrink=settings.shrink, bar=bar, tell=tell)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if settings.compare:
        write_image(compare_name(job.target, "compare", ".png"), beside_bicubic(image, large, network.scale))
    write_bytes(job.target, encode_image(large, job.target.suffix))
    size = f"{image.shape[1]}x{image.shape[0]} -> {large.shape[1]}x{large.shape[0]}"
    return f"{job.target}: {size}, {time.monotonic() - start:.1f} s"
