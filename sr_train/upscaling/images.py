"""Upscaling of image files in bands of rows, so that memory does not limit their size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from sr_train.batch import Image
from sr_train.data.images import (
    WITH_PROFILE,
    ImageError,
    encode_image,
    read_header,
    read_profile,
    read_upright,
    write_image,
)
from sr_train.devices import memory_is_full
from sr_train.files import write_bytes
from sr_train.inference.network import Network, take_less
from sr_train.inference.pixels import upscale_image, written_part
from sr_train.upscaling.compare import beside_bicubic, compare_name
from sr_train.upscaling.inputs import Job, Settings


def upscale_with_room(
    image: Image,
    network: Network,
    *,
    shrink: bool,
    bar: Any,
    tell: Callable[[str], object],
    size: tuple[int, int] | None = None,
) -> Image:
    """Upscale an image with :func:`upscale_image`.

    If the memory is full and ``shrink`` is true, try again with smaller tiles. ``bar`` is a progress bar that counts
    megapixels. ``tell`` is called with a sentence for the user.
    """
    start = bar.n
    while True:
        try:
            return upscale_image(image, network, lambda pixels: bar.update(pixels / 1e6), size=size)
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
    shown = written_part(image, network.channels)
    encode_image(shown[:1, :1], job.target.suffix)  # raises before the work if the format cannot store the image
    profile = read_profile(job.source, shown.shape[2])
    size = settings.size.of(image.shape[0], image.shape[1], network.scale)
    large = upscale_with_room(image, network, shrink=settings.shrink, bar=bar, tell=tell, size=size)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if settings.compare:
        write_image(compare_name(job.target, "compare", ".png"), beside_bicubic(shown, large))
    write_bytes(job.target, encode_image(large, job.target.suffix, profile=profile))
    if profile is not None and job.target.suffix.lower() not in WITH_PROFILE:
        tell(f"sr-upscale: {job.target}: the color profile is lost, because {job.target.suffix} files have none")
    sizes = f"{image.shape[1]}x{image.shape[0]} -> {large.shape[1]}x{large.shape[0]}"
    return f"{job.target}: {sizes}, {time.monotonic() - start:.1f} s"
