"""``sr-upscale`` of films, and of folders of frames as clips: read, enlarged and written frame by frame."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sr_train.batch import to_float
from sr_train.config.compose import expect
from sr_train.console import UsageError
from sr_train.data.images import read_upright, to_rgb, write_image
from sr_train.data.video.film_reader import FilmReader
from sr_train.data.video.windows import check_padding
from sr_train.devices import memory_is_full
from sr_train.inference.clips import FewFramesError, super_resolve_clip
from sr_train.inference.network import Network, take_less
from sr_train.inference.tiling import whole_if_small
from sr_train.upscaling.compare import LINE, Comparison, to_pixels
from sr_train.upscaling.film_writer import Options, film_writer
from sr_train.upscaling.inputs import Job, image_suffix


class Settings(NamedTuple):
    """What the command was told about films and clips."""

    options: Options
    audio: bool
    padding: str
    suffix: str | None  #: of single frames; None: films stay films
    skip: bool
    compare: bool
    shrink: bool  #: tiles may be made smaller


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Check and gather the keys. Raises UsageError."""
    try:
        check_padding(str(config["padding"]))
    except ValueError as error:
        raise UsageError(str(error)) from None
    codec = expect(config, "codec", str, "auto or the name of an encoder, e.g. libx264")
    quality = expect(config, "quality", (int, type(None)), "a whole number, or null for the codec's usual one")
    preset = expect(config, "preset", (str, type(None)), "a name, e.g. slow, or null for the codec's usual one")
    flags = [expect(config, key, bool, "true or false") for key in ("audio", "skip_existing", "compare")]
    audio, skip, compare = flags
    options = Options(codec, quality, preset)
    return Settings(
        options, audio, str(config["padding"]), image_suffix(config), skip, compare, config["tile"] == "auto"
    )


@dataclass
class _Source:
    """A film or a clip: its frames, [3, h, w] uint8 or uint16, with what a writer wants to know of their time."""

    frames: Iterator[tuple[torch.Tensor, tuple[int, ...]]]
    height: int
    width: int
    depth: int
    count: int | None
    rate: str
    names: Callable[[int], str]  #: of a frame's file
    warnings: Sequence[str] = ()


class _Frames:
    """A folder that frames are written to."""

    def __init__(self, folder: Path, names: Callable[[int], str], depth: int) -> None:
        self.folder, self.names, self.depth = folder, names, depth
        self.number = 0
        name = names(0)
        if depth == 16 and not name.lower().endswith((".png", ".tif", ".tiff")):
            self.depth = 8

    def write(self, rgb: torch.Tensor, *when: int) -> None:
        """The frame whose ``number`` it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / self.names(self.number), to_pixels(rgb, self.depth))
        self.number += 1


def _of_film(film: FilmReader, suffix: str | None, take: Callable[[Any], object]) -> _Source:
    look = film.look
    frames = ((f.pixels, (f.time, f.duration)) for f in film.frames(take))
    depth = 8 if look.layout.depth == 8 else 16
    rate = f", {float(look.rate):.4g} fps"
    return _Source(frames, look.height, look.width, depth, film.count, rate, lambda i: f"{i:08d}{suffix}")


def _of_clip(job: Job, suffix: str | None) -> _Source:
    first = read_upright(job.frames[0])
    height, width, channels = first.shape

    def frames() -> Iterator[tuple[torch.Tensor, tuple[int, ...]]]:
        for path in job.frames:
            image = read_upright(path)
            if image.shape[:2] != (height, width):
                was = f"{width}x{height}"
                raise ValueError(f"{path}: is {image.shape[1]}x{image.shape[0]}, the clip's first frame {was}")
            yield torch.from_numpy(np.array(to_rgb(image), order="C")).permute(2, 0, 1), ()

    def name(i: int) -> str:
        return job.frames[i].with_suffix(suffix).name if suffix else job.frames[i].name

    depth = 8 if first.dtype == np.uint8 else 16
    kinds = {
        1: "are grey: they become RGB",
        2: "have transparency: it is dropped",
        4: "have transparency: it is dropped",
    }
    told = [f"its frames {kinds[channels]}"] if channels in kinds else []
    return _Source(frames(), height, width, depth, len(job.frames), "", name, told)


def upscale_clip(job: Job, network: Network, settings: Settings, say: Any) -> str:
    """Make a film or a clip; where the memory is full, again in smaller tiles. Returns what to say of it.

    Raises ValueError, OSError and RuntimeError with what is wrong with this one.
    """
    while True:
        size: list[int] = []
        try:
            return _attempt(job, network, settings, say, size)
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error) or not size:
                raise
            take_less(network, *size, shrink=settings.shrink, bar=say)


def _attempt(job: Job, network: Network, settings: Settings, say: Any, size: list[int]) -> str:
    start = time.monotonic()
    as_film = job.kind == "film" and settings.suffix is None
    told = ""
    with ExitStack() as stack:  # the film itself is left, and so finished, after what is written beside it
        if as_film and settings.compare:
            stack.push(lambda kind, *_: _remove(job.products(compare=True)[1:]) if kind and told else None)
        film = stack.enter_context(FilmReader(job.source)) if job.kind == "film" else None
        early: list[Callable[[Any], object]] = []
        copy = lambda packet: early[0](packet) if early else None  # noqa: E731
        source = _of_film(film, settings.suffix, copy) if film is not None else _of_clip(job, settings.suffix)
        size[:] = source.height, source.width
        height, width = source.height * network.scale, source.width * network.scale
        warnings = list(source.warnings if film is None else film.warnings)
        if as_film and film is not None:
            sink = writer = stack.enter_context(
                film_writer(job.target, film, (height, width), settings.options, audio=settings.audio)
            )
            early.append(writer.copy)
            warnings += writer.warnings
        else:
            sink = _Frames(job.target, source.names, source.depth)
        comparison, side = None, None
        if settings.compare:
            if settings.skip and not as_film:
                raise ValueError(f"{job.source}: compare=true needs all frames; leave skip_existing out")
            folder = job.side
            both = height, 2 * width + LINE
            if as_film and film is not None:
                made = film_writer(folder, film, both, settings.options, copy=False)
                side = stack.enter_context(made)
            else:
                side = _Frames(folder, source.names, source.depth)
            comparison = Comparison(job.target, network.scale, source.depth, side.write)
        for warning in warnings:
            say.write(f"sr-upscale: {job.source}: {warning}", sys.stderr)
        made_frames, told = _run(job, network, settings, source, sink, comparison)
        if film is not None and not isinstance(sink, _Frames) and sink.moved > 0.6 / float(film.look.rate):
            moved = f"frames were moved by up to {sink.moved:.2f} s"
            fixed = f"{sink.fixed} has a fixed rate: {moved}; H.264 in .mkv keeps their times"
            say.write(f"sr-upscale: {job.source}: {fixed}", sys.stderr)
    seconds = time.monotonic() - start
    size_text = f"{source.width}x{source.height} -> {width}x{height}"
    line = f"{job.target}: {made_frames} frames {size_text}{source.rate}, {seconds:.1f} s"
    return f"{line}\n{job.side}: {told}" if told else line


def _remove(paths: Sequence[Path]) -> None:
    """What was written beside a film that could not be finished."""
    for path in paths:
        path.unlink(missing_ok=True)


def _run(
    job: Job, network: Network, settings: Settings, source: _Source, sink: Any, comparison: Comparison | None
) -> tuple[int, str]:
    """Frames in, frames out. Returns how many were made, and what to say of the comparison."""
    waiting: deque[tuple[int, Any, tuple[int, ...]]] = deque()
    wanted = _wanted(sink, network.frames) if isinstance(sink, _Frames) and settings.skip else _Wanted()

    def feed() -> Iterator[torch.Tensor]:
        for number, (pixels, when) in enumerate(source.frames):
            wanted.seen += 1
            if not wanted.fed(number):
                bar.update()
                continue
            lr = to_float(pixels) if pixels.element_size() == 1 else pixels.float() / 65535
            waiting.append((number, lr, when))
            yield lr

    made = 0
    tiling = whole_if_small(network.tiling, source.height, source.width)
    how = {"padding": settings.padding, "tiling": tiling, "ensemble": network.ensemble, "precision": network.precision}
    layout = "{desc} {percentage:3.0f}% {bar} {n}/{total} frames [{elapsed}<{remaining}, {rate_fmt}]"
    name = job.source.name
    with tqdm(
        total=source.count, file=sys.stderr, disable=not sys.stderr.isatty(), bar_format=layout, unit=" frames",
        desc=name, leave=False, position=1,
    ) as bar:  # fmt: skip
        try:
            for sr in super_resolve_clip(network.model, feed(), **how):
                number, lr, when = waiting.popleft()
                bar.update()
                if not wanted.made(number):
                    continue
                sr = sr.float().cpu()
                if not bool(sr.isfinite().all()):
                    raise ValueError(f"frame {number}: the network's output holds NaN or infinity")
                if isinstance(sink, _Frames):
                    sink.number = number
                sink.write(sr, *when)
                if comparison is not None:
                    comparison.add(number, lr, sr, *when)
                made += 1
        except FewFramesError:
            if not wanted.seen or wanted.any or wanted.seen < (network.frames or 1):
                raise  # else: fewer frames than a window were left to make: none
    return made, comparison.finish() if comparison is not None else ""


class _Wanted:
    """Which frames are read into the network and which of its results are written: all of them."""

    def __init__(self) -> None:
        self.seen, self.any = 0, False

    def fed(self, number: int) -> bool:
        self.any = self.any or self.made(number)
        return True

    def made(self, number: int) -> bool:
        return True


class _Missing(_Wanted):
    """Those whose files are not there, and what a video network must see to make them.

    Clips are made from the first missing frame on. A window's number of frames before it make every later window that of
    the whole clip, also where its end is padded.
    """

    def __init__(self, sink: _Frames, window: int | None, first: int) -> None:
        super().__init__()
        self.sink, self.window, self.first = sink, window, first

    def fed(self, number: int) -> bool:
        super().fed(number)
        return self.made(number) if self.window is None else number > self.first - self.window

    def made(self, number: int) -> bool:
        if self.window is None:
            return not (self.sink.folder / self.sink.names(number)).exists()
        return number >= self.first


def _wanted(sink: _Frames, window: int | None) -> _Wanted:
    first = 0
    try:
        while (sink.folder / sink.names(first)).exists():
            first += 1
    except IndexError:  # a clip's frames are all there
        pass
    return _Missing(sink, window, first)
