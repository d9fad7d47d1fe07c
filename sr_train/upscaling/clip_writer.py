"""Frames to a video or to a folder of images, with a comparison beside it and the frames that are still missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sr_train.data.images import write_image
from sr_train.upscaling.clip_reader import ClipReader
from sr_train.upscaling.compare import LINE, Comparison, to_pixels
from sr_train.upscaling.film_writer import FilmWriter, film_writer
from sr_train.upscaling.inputs import Job, Settings


class FrameFolder:
    """A folder that frames are written to."""

    def __init__(self, folder: Path, file_name: Callable[[int], str], depth: int) -> None:
        self.folder, self.file_name = folder, file_name
        self.depth = depth if file_name(0).lower().endswith((".png", ".tif", ".tiff")) else 8

    def write(self, number: int, rgb: torch.Tensor, when: tuple[int, ...]) -> None:
        """Write a frame [3, H, W] in [0, 1] under its number's name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / self.file_name(number), to_pixels(rgb, self.depth))

    def has(self, number: int) -> bool:
        """Return whether a frame is there already."""
        return (self.folder / self.file_name(number)).exists()


class Wanted:
    """Which frames are read into the network and which of its results are written: all of them."""

    def __init__(self) -> None:
        self.seen, self.any = 0, False

    def fed(self, number: int) -> bool:
        """Return whether the network is given a frame; called once for each, in order."""
        self.seen += 1
        self.any = self.any or self.made(number)
        return True

    def made(self, number: int) -> bool:
        """Return whether a frame's result is written."""
        return True


class Missing(Wanted):
    """Those whose files are not there, and what a video network must see to make them.

    Clips are made from the first missing frame on. A window's number of frames before it make every later window that of
    the whole clip, also where its end is padded.
    """

    def __init__(self, folder: FrameFolder, window: int | None) -> None:
        super().__init__()
        self.folder, self.window, self.first = folder, window, 0
        try:
            while folder.has(self.first):
                self.first += 1
        except IndexError:  # a clip's frames are all there
            pass

    def fed(self, number: int) -> bool:  # noqa: D102 - see Wanted
        super().fed(number)
        return self.made(number) if self.window is None else number > self.first - self.window

    def made(self, number: int) -> bool:  # noqa: D102
        return not self.folder.has(number) if self.window is None else number >= self.first


@dataclass
class ClipWriter:
    """A clip that is being written."""

    reader: ClipReader  #: of what it is made from
    warnings: Sequence[str]
    folder: FrameFolder | None = None  #: one of the two
    film: FilmWriter | None = None
    comparison: Comparison | None = None
    compared: str = ""  #: the comparison's line for the user, once it is finished

    def take(self, packet: Any) -> None:
        """Copy a packet of another stream to a video."""
        if self.film is not None:
            self.film.copy(packet)

    def wanted(self, window: int | None, *, skip: bool) -> Wanted:
        """Return which frames are to be made; with ``skip`` those that are missing. ``window`` is a network's ``frames``."""
        return Missing(self.folder, window) if skip and self.folder is not None else Wanted()

    def write(self, number: int, lr: torch.Tensor, sr: torch.Tensor, when: tuple[int, ...]) -> None:
        """Write a frame [3, H, W] in [0, 1], made from [3, h, w]."""
        if self.film is not None:
            self.film.write(sr, *when)
        elif self.folder is not None:
            self.folder.write(number, sr, when)
        if self.comparison is not None:
            self.comparison.add(number, lr, sr, when)

    def finish(self) -> None:
        """Write what the comparison has found."""
        self.compared = self.comparison.finish() if self.comparison is not None else ""

    @property
    def moved(self) -> str:
        """A warning where a fixed rate moved frames by more than 0.6 of a frame's duration; empty otherwise."""
        if self.film is None or self.reader.film is None or self.film.moved <= 0.6 / float(self.reader.film.look.rate):
            return ""
        moved = f"frames were moved by up to {self.film.moved:.2f} s"
        return f"{self.film.fixed} has a fixed rate: {moved}; H.264 in .mkv keeps their times"


@contextmanager
def clip_writer(job: Job, reader: ClipReader, scale: int, settings: Settings) -> Iterator[ClipWriter]:
    """Write what a job makes of a clip. Nothing that looks finished is left where the ``with`` ends with an error."""
    height, width = reader.height * scale, reader.width * scale
    film = reader.film if settings.suffix is None else None
    if settings.compare and settings.skip and film is None:
        raise ValueError(f"{job.source}: compare=true needs all frames; leave skip_existing out")
    with ExitStack() as stack:  # the video itself is left, and so finished, after what is written beside it
        writer = ClipWriter(reader, list(reader.warnings))
        if film is not None and settings.compare:
            beside = job.products(compare=True)[1:]
            stack.push(lambda kind, *_: _remove(beside) if kind and writer.compared else None)
        if film is not None:
            made = film_writer(job.target, film, (height, width), settings.options, audio=settings.audio)
            writer.film = stack.enter_context(made)
            writer.warnings = [*writer.warnings, *writer.film.warnings]
        else:
            writer.folder = FrameFolder(job.target, reader.file_name, reader.depth)
        if settings.compare and film is not None:
            both = film_writer(job.side, film, (height, 2 * width + LINE), settings.options, copy=False)
            side = stack.enter_context(both)
            show = lambda number, rgb, when: side.write(rgb, *when)  # noqa: E731
            writer.comparison = Comparison(job.target, scale, reader.depth, show)
        elif settings.compare:
            show = FrameFolder(job.side, reader.file_name, reader.depth).write
            writer.comparison = Comparison(job.target, scale, reader.depth, show)
        yield writer


def _remove(paths: Sequence[Path]) -> None:
    """What was written beside a video that could not be finished."""
    for path in paths:
        path.unlink(missing_ok=True)
