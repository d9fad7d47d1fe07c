"""Writing of upscaled frames to a video or to a folder of images.

With ``compare=true``, a comparison with bicubic upscaling is written, too. With ``skip_existing=true``, only frames
whose files are missing are written to a folder.
"""

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
    """Folder to which frames are written as images."""

    def __init__(self, folder: Path, file_name: Callable[[int], str], depth: int) -> None:
        self.folder, self.file_name = folder, file_name
        self.depth = depth if file_name(0).lower().endswith((".png", ".tif", ".tiff")) else 8

    def write(self, number: int, rgb: torch.Tensor, when: tuple[int, ...]) -> None:
        """Write a frame [C, H, W] in [0, 1] to the file of its number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / self.file_name(number), to_pixels(rgb, self.depth))

    def has(self, number: int) -> bool:
        """Return True if the file of a frame exists."""
        return (self.folder / self.file_name(number)).exists()


class Wanted:
    """Selection of the frames that the network gets, and of the results that are written.

    This class selects all frames. The subclass :class:`Missing` selects only missing frames.
    """

    def __init__(self) -> None:
        self.seen, self.any = 0, False

    def fed(self, number: int) -> bool:
        """Return True if the network gets frame number ``number``.

        This method must be called once for each frame, in order.
        """
        self.seen += 1
        self.any = self.any or self.made(number)
        return True

    def made(self, number: int) -> bool:
        """Return True if the result for frame number ``number`` is written."""
        return True


class Missing(Wanted):
    """Selection of the frames whose output file is missing, and of other frames that the network needs to compute them.

    A video network computes all frames from the first missing frame on. It also gets the ``window`` - 1 frames before
    the first missing frame. So every window has the same frames as if the whole clip was computed, including the
    padding at the end.
    """

    def __init__(self, folder: FrameFolder, window: int | None) -> None:
        super().__init__()
        self.folder, self.window, self.first = folder, window, 0
        try:
            while folder.has(self.first):
                self.first += 1
        except IndexError:  # every frame of the clip has a file
            pass

    def fed(self, number: int) -> bool:  # noqa: D102 - see Wanted
        super().fed(number)
        return self.made(number) if self.window is None else number > self.first - self.window

    def made(self, number: int) -> bool:  # noqa: D102
        return not self.folder.has(number) if self.window is None else number >= self.first


@dataclass
class ClipWriter:
    """Writer of an open output: a video, or a folder of frames."""

    reader: ClipReader  #: reader of the input
    warnings: Sequence[str]
    folder: FrameFolder | None = None  #: either ``folder`` or ``film`` is set
    film: FilmWriter | None = None
    comparison: Comparison | None = None
    compared: str = ""  #: line for the user about the comparison, after ``finish``

    def take(self, packet: Any) -> None:
        """Copy a packet of another stream (sound, subtitles) to the written video. Do nothing if frames are written."""
        if self.film is not None:
            self.film.copy(packet)

    def wanted(self, window: int | None, *, skip: bool) -> Wanted:
        """Return the selection of the frames to compute and to write; if ``skip`` is true, only missing frames of a folder.

        ``window`` is the number of frames that the network takes; None for a network that takes single images.
        """
        return Missing(self.folder, window) if skip and self.folder is not None else Wanted()

    def write(self, number: int, lr: torch.Tensor, sr: torch.Tensor, when: tuple[int, ...]) -> None:
        """Write an upscaled frame ``sr`` [C, H, W] in [0, 1]. ``lr`` [C, h, w] is its input, for the comparison.

        Videos have RGB frames: gray is repeated.
        """
        if self.film is not None:
            self.film.write(_rgb(sr), *when)
        elif self.folder is not None:
            self.folder.write(number, sr, when)
        if self.comparison is not None:
            self.comparison.add(number, lr, sr, when)

    def finish(self) -> None:
        """Write the images of the comparison, if there is one."""
        self.compared = self.comparison.finish() if self.comparison is not None else ""

    @property
    def moved(self) -> str:
        """Warning if a fixed frame rate has moved frames by more than 0.6 of a frame's duration; else an empty string."""
        if self.film is None or self.reader.film is None or self.film.moved <= 0.6 / float(self.reader.film.look.rate):
            return ""
        moved = f"frames were moved by up to {self.film.moved:.2f} s"
        return f"{self.film.fixed} has a fixed frame rate: {moved}; H.264 in .mkv keeps their times"


@contextmanager
def clip_writer(job: Job, reader: ClipReader, size: tuple[int, int], settings: Settings) -> Iterator[ClipWriter]:
    """Open the output of a job for writing frames of ``size`` = (height, width).

    A video gets its final name only if the ``with`` block ends without an error.
    """
    height, width = size
    film = reader.film if settings.suffix is None else None
    if settings.compare and settings.skip and film is None:
        raise ValueError(f"{job.source}: compare=true needs all frames; remove skip_existing=true")
    with ExitStack() as stack:  # the video is closed last, after the files of its comparison
        writer = ClipWriter(reader, list(reader.warnings))
        if film is not None and settings.compare:
            extra = job.products(compare=True)[1:]
            stack.push(lambda kind, *_: _remove(extra) if kind and writer.compared else None)
        if film is not None:
            made = film_writer(job.target, film, (height, width), settings.options, audio=settings.audio)
            writer.film = stack.enter_context(made)
            writer.warnings = [*writer.warnings, *writer.film.warnings]
        else:
            writer.folder = FrameFolder(job.target, reader.file_name, reader.depth)
        if settings.compare and film is not None:
            both = film_writer(job.side, film, (height, 2 * width + LINE), settings.options, copy=False)
            side = stack.enter_context(both)
            show = lambda number, rgb, when: side.write(_rgb(rgb), *when)  # noqa: E731
            writer.comparison = Comparison(job.target, reader.depth, show)
        elif settings.compare:
            show = FrameFolder(job.side, reader.file_name, reader.depth).write
            writer.comparison = Comparison(job.target, reader.depth, show)
        yield writer


def _rgb(frame: torch.Tensor) -> torch.Tensor:
    """Convert a frame [C, H, W] to RGB [3, H, W]: gray is repeated, alpha is dropped."""
    return frame.expand(3, -1, -1) if len(frame) == 1 else frame[:3]


def _remove(paths: Sequence[Path]) -> None:
    """Remove the comparison of a video that could not be finished."""
    for path in paths:
        path.unlink(missing_ok=True)
