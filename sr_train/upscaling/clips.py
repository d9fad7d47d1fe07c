"""Upscaling of videos, and of folders of frames as clips, frame by frame."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from sr_train.batch import to_float
from sr_train.console import counted
from sr_train.devices import memory_is_full
from sr_train.inference.clips import FewFramesError
from sr_train.inference.network import Network, take_less
from sr_train.resampling import imresize_torch
from sr_train.upscaling.clip_reader import ClipReader, open_clip
from sr_train.upscaling.clip_writer import ClipWriter, clip_writer
from sr_train.upscaling.inputs import Job, Settings

_BAR = "{desc} {percentage:3.0f}% {bar} {n}/{total} frames [{elapsed}<{remaining}, {rate_fmt}]"


def upscale_clip(job: Job, network: Network, settings: Settings, tell: Callable[[str], object]) -> str:
    """Upscale a video or a clip. If the memory is full, start again with smaller tiles. Return a report line.

    Raises ValueError, OSError and RuntimeError for errors of this job only. ``tell`` is called with warnings.
    """
    while (line := _attempt(job, network, settings, tell)) is None:
        pass
    return line


def _attempt(job: Job, network: Network, settings: Settings, tell: Callable[[str], object]) -> str | None:
    """Upscale a video or a clip. Return a line that tells the user what was written.

    If the memory is full, set smaller tiles for the network, and return None.
    """
    start = time.monotonic()
    with open_clip(job, settings.suffix, network.channels) as reader:
        resized = settings.size.of(reader.height, reader.width, network.scale)
        height, width = resized or (reader.height * network.scale, reader.width * network.scale)
        try:
            with clip_writer(job, reader, (height, width), settings) as writer:
                for warning in writer.warnings:
                    tell(f"sr-upscale: {job.source}: {warning}")
                made = _run(job.source.name, network, settings, reader, writer, resized)
                writer.finish()
                if moved := writer.moved:
                    tell(f"sr-upscale: {job.source}: {moved}")
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            take_less(network, reader.height, reader.width, shrink=settings.shrink, tell=tell)
            return None
    size = f"{reader.width}x{reader.height} -> {width}x{height}"
    line = f"{job.target}: {counted(made, 'frame')} {size}{reader.rate}, {time.monotonic() - start:.1f} s"
    return f"{line}\n{job.side}: {writer.compared}" if writer.compared else line


def _run(
    name: str,
    network: Network,
    settings: Settings,
    reader: ClipReader,
    writer: ClipWriter,
    size: tuple[int, int] | None,
) -> int:
    """Read, upscale and write the selected frames. Returns the number of written frames.

    ``size`` is the (height, width) to which the network's output is resampled, or None.
    """
    waiting: deque[tuple[int, torch.Tensor, tuple[int, ...]]] = deque()
    wanted = writer.wanted(network.frames, skip=settings.skip)

    def feed() -> Iterator[torch.Tensor]:
        for number, (pixels, when) in enumerate(reader.frames(writer.take)):
            if not wanted.fed(number):
                bar.update()
                continue
            lr = to_float(pixels) if pixels.element_size() == 1 else pixels.float() / 65535
            waiting.append((number, lr, when))
            yield lr

    made = 0
    with tqdm(
        total=reader.count, file=sys.stderr, disable=not sys.stderr.isatty(), bar_format=_BAR, unit=" frames",
        desc=name, leave=False, position=1,
    ) as bar:  # fmt: skip
        try:
            for sr in network.clip(feed(), height=reader.height, width=reader.width, padding=settings.padding):
                number, lr, when = waiting.popleft()
                bar.update()
                if not wanted.made(number):
                    continue
                sr = sr.float().cpu()
                if not bool(sr.isfinite().all()):
                    raise ValueError(f"frame {number}: the network's output contains NaN or infinity")
                sr = sr if size is None else imresize_torch(sr, size=size).clamp_(0, 1)
                writer.write(number, lr, sr, when)
                made += 1
        except FewFramesError:
            if not wanted.seen or wanted.any or wanted.seen < (network.frames or 1):
                raise  # else: all missing frames exist; the rest is shorter than a window
    return made
