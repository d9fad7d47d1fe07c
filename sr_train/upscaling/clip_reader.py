"""Frames of a video or of a folder of numbered images, with the properties that a writer needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sr_train.data.images import check_channels, read_upright, to_channels
from sr_train.data.video.film_reader import FilmReader
from sr_train.upscaling.inputs import Job, image_target

Timed = tuple[torch.Tensor, tuple[int, ...]]  #: [C, h, w] uint8 or uint16; (time, duration) for videos, else ()

_ALPHA = "have transparency, which is dropped"

_LOST = {  # channels of the network -> channels of the frames -> warning
    1: {
        3: "are in color: they become gray (luma)",
        4: "are in color with transparency: they become gray (luma)",
    },
    3: {1: "are gray: they become RGB", 2: _ALPHA, 4: _ALPHA},
}


@dataclass(frozen=True)
class ClipReader:
    """Reader of an open video, or of a folder of numbered images."""

    #: yields every frame once; calls its argument with each packet of a video's other streams
    frames: Callable[[Callable[[Any], object]], Iterator[Timed]]
    height: int
    width: int
    depth: int  #: bits per sample, 8 or 16
    count: int | None  #: number of frames, if known
    file_name: Callable[[int], str]  #: name of the file for a frame that is written as an image
    warnings: Sequence[str] = ()
    film: FilmReader | None = None  #: None for a folder

    @property
    def rate(self) -> str:
        """Text with the frames per second, for the end of a line for the user; empty for a folder."""
        return "" if self.film is None else f", {float(self.film.look.rate):.4g} fps"


@contextmanager
def open_clip(job: Job, suffix: str | None, channels: int = 3) -> Iterator[ClipReader]:
    """Open the video or the folder of frames of a job for reading.

    Args:
        job: the input and the output.
        suffix: file type of the output frames, e.g. ``.png``; None if a video is written, or if frames keep their type.
        channels: number of channels C of the frames.
    """
    check_channels(channels)
    if job.kind != "video":
        yield _open_folder(job, suffix, channels)
        return
    with FilmReader(job.source) as film:
        yield _open_film(film, suffix, channels)


def _open_film(film: FilmReader, suffix: str | None, channels: int) -> ClipReader:
    def suited(pixels: torch.Tensor) -> torch.Tensor:
        if channels == 3:
            return pixels
        image = to_channels(pixels.permute(1, 2, 0).numpy(), channels)
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)

    def frames(take: Callable[[Any], object]) -> Iterator[Timed]:
        return ((suited(f.pixels), (f.time, f.duration)) for f in film.frames(take))

    look = film.look
    depth = 8 if look.pix_fmt.depth == 8 else 16

    def file_name(number: int) -> str:
        return f"{number:08d}{suffix}"

    return ClipReader(frames, look.height, look.width, depth, film.count, file_name, film.warnings, film)


def _open_folder(job: Job, suffix: str | None, channels: int) -> ClipReader:
    first = read_upright(job.frames[0])
    height, width, given = first.shape

    def frames(take: Callable[[Any], object]) -> Iterator[Timed]:
        for path in job.frames:
            image = read_upright(path)
            if image.shape[:2] != (height, width):
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise ValueError(f"{path}: is {size}, but the first frame of the clip is {width}x{height}")
            yield torch.from_numpy(np.array(to_channels(image, channels), order="C")).permute(2, 0, 1), ()

    def file_name(number: int) -> str:
        return image_target(job.frames[number], suffix).name

    depth = 8 if first.dtype == np.uint8 else 16
    lost = _LOST.get(channels, {}).get(given)
    warnings = [] if lost is None else [f"the frames {lost}"]
    return ClipReader(frames, height, width, depth, len(job.frames), file_name, warnings)
