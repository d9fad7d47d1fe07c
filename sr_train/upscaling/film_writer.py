"""Writing of videos.

Frames are encoded, and sound and subtitles are copied. A file gets its name only when it is complete.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_train.console import counted
from sr_train.data.video.film_color import Color, PixelFormat, default_matrix, from_rgb
from sr_train.data.video.film_reader import FilmError, FilmReader, import_av, reason
from sr_train.files import atomic_file
from sr_train.upscaling.encoder import CONTAINERS, FIXED_RATE, Options

_CHAPTERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # containers that can store chapters


def choose_pixel_format(
    source: PixelFormat, height: int, width: int, formats: Sequence[str]
) -> tuple[PixelFormat, str]:
    """Choose the pixel format of an encoder that is nearest to the pixel format of the source video.

    Return (format of the planes, FFmpeg's name of the encoder's pixel format). ``formats`` contains the encoder's
    formats. The format 4:2:0 cannot store an odd width or height. A video of odd size gets a format with more chroma
    samples instead.
    """
    packed = {8: ("rgb24", "bgr24", "bgr0", "rgb0", "bgra", "rgba"), 16: ("rgb48le", "rgba64le")}
    depths = sorted((8, 9, 10, 12, 14, 16), key=lambda d: (d < source.depth, abs(d - source.depth)))
    fits = [c for c in ((2, 2), (2, 1), (1, 1)) if width % c[0] == height % c[1] == 0]
    own = (source.across, source.down)
    own_fits = width % own[0] == height % own[1] == 0
    order = {"yuv": [own, *fits] if own_fits else fits, "rgb": [(1, 1), *fits], "gray": fits}[source.kind]
    kinds = {"rgb": ["rgb", "yuv"], "gray": ["gray", "yuv"], "yuv": ["yuv"]}[source.kind]
    tried = [PixelFormat(k, d, *c) for k in kinds for c in (order if k == "yuv" else [(1, 1)]) for d in depths]
    tried.sort(key=lambda pix_fmt: (pix_fmt.depth < source.depth, pix_fmt.kind != source.kind))  # depth has priority
    for pix_fmt in tried:
        names = (pix_fmt.name, *(packed.get(pix_fmt.depth, ()) if pix_fmt.kind == "rgb" else ()))
        if name := next((n for n in names if n in formats), None):
            return pix_fmt, name
    raise FilmError(f"no pixel format of this codec can be written; the codec accepts {', '.join(formats)}")


class FilmWriter:
    """Writer of an open video. :func:`film_writer` makes it.

    ``write`` takes frames in [0, 1]. ``copy`` takes packets of the source's other streams (sound, subtitles).
    """

    def __init__(self, path: Path, file: Any, source: FilmReader, height: int, width: int, options: Options) -> None:
        self.path, self._av, look = path, import_av(), source.look
        self.codec = options.codec_for(path)
        self.warnings: list[str] = []
        if self.codec == "libx265" and max(height, width) < 64:  # it would write beyond its memory
            raise FilmError(
                f"{path}: libx265 cannot write videos of {width}x{height}; choose another codec=, e.g. codec=libx264"
            )
        formats = [f.name for f in self._av.codec.Codec(self.codec, "w").video_formats or ()] or ["yuv420p"]
        self.pix_fmt, self._format = choose_pixel_format(look.pix_fmt, height, width, formats)
        if self.pix_fmt.depth < look.pix_fmt.depth:
            self.warnings.append(f"{self.codec} stores {self.pix_fmt.depth} of the video's {look.pix_fmt.depth} bits")
        elif look.pix_fmt.kind == self.pix_fmt.kind == "yuv" and look.pix_fmt[2:] != self.pix_fmt[2:]:
            self.warnings.append(
                f"is written as {self._format}, because {self.codec} needs this format for {width}x{height}"
            )
        self.color = self._color(look.color, height)
        self._left = self.codec != "mjpeg"
        more = {".ts": {"mpegts_copyts": "1"}}.get(path.suffix.lower(), {})
        self.container = self._av.open(file, "w", format=CONTAINERS[path.suffix.lower()], options=more)
        self.container.metadata.update(source.container.metadata)
        self._chapters = source.container.chapters()
        if self._chapters and path.suffix.lower() in _CHAPTERS:
            self.container.set_chapters(self._chapters)
        elif self._chapters:
            self.warnings.append(
                f"{path.suffix} cannot store chapters; {counted(len(self._chapters), 'chapter')} dropped"
            )
        #: container or codec with a fixed frame rate; empty if neither has one
        self.fixed = path.suffix if path.suffix.lower() in FIXED_RATE else self.codec if self.codec == "mpeg4" else ""
        rate = 1 / max((1 / look.rate).limit_denominator(65535), Fraction(1, 65535))  # the limit of MPEG-4
        self._base, self._from = (1 / rate if self.fixed else look.time_base), look.time_base
        self._last: int | None = None
        self._durations: dict[int, int] = {}
        self.moved = 0.0  #: largest shift of a frame's time by a fixed frame rate, in seconds
        self._streams: dict[int, Any] = {}
        self._size = height, width
        self._stream = self._add_video(rate, look.aspect, options)

    def _color(self, source: Color, height: int) -> Color:
        """Return the color coding for the written video: the source's coding, always with a matrix.

        Without a matrix, players guess it from the size of the video, and the written video is larger than the source.
        """
        if self.pix_fmt.kind == "rgb":
            return source._replace(matrix=0, full=True)
        if source.matrix == 0:
            return source._replace(matrix=default_matrix(height), full=False)
        return source

    def _add_video(self, rate: Fraction, aspect: Fraction, options: Options) -> Any:
        try:
            stream = self.container.add_stream(self.codec, rate=rate)
        except ValueError:
            what = f"{self.path.suffix} cannot hold {self.codec}"
            raise FilmError(f"{self.path}: {what}; give a name with .mkv, or choose another codec=") from None
        context, (height, width) = stream.codec_context, self._size
        context.width, context.height, context.pix_fmt = width, height, self._format
        context.time_base = stream.time_base = self._base
        context.sample_aspect_ratio = aspect
        context.colorspace, context.color_range = self.color.matrix, 2 if self.color.full else 1
        context.color_primaries, context.color_trc = self.color.primaries, self.color.transfer
        if self.codec in ("libx264", "libx264rgb"):
            context.thread_count = min(4, torch.get_num_threads())
        context.options = options.settings_for(self.path, height, width)
        return stream

    def add_streams(self, others: Sequence[Any], *, audio: bool) -> None:
        """Add the streams that are copied (sound, subtitles).

        Raises FilmError if the container cannot contain the sound.
        """
        dropped = []
        able = set() if self.container.format.name == "mpegts" else self.container.supported_codecs  # not listed
        for stream in others:
            context = stream.codec_context
            name = context.name if context is not None else "unknown"
            canonical = context.codec.canonical_name if context is not None else name
            if stream.type == "audio" and not audio:
                continue
            holds = not able or {name, canonical} & able
            if canonical.startswith("pcm_") and self.container.format.name == "mp4":
                holds = False  # MP4 lists PCM, but fails at the end if the channel layout is unknown
            if stream.type == "audio" and not holds:
                hint = "give a name with .mkv, or drop the sound with audio=false"
                raise FilmError(f"{self.path}: {self.path.suffix} cannot hold the sound ({canonical}); {hint}")
            if stream.type == "data" and self._chapters:  # titles of chapters, which MP4 also stores in a stream
                continue
            if stream.type not in ("audio", "subtitle") or not holds or (not able and stream.type == "subtitle"):
                dropped.append(f"{stream.type} {stream.index} ({canonical})")
                continue
            copy = self.container.add_stream_from_template(stream)
            copy.metadata.update(stream.metadata)
            copy.time_base = stream.time_base
            self._streams[stream.index] = copy
        if dropped:
            self.warnings.append(f"not copied to {self.path.suffix}: {', '.join(dropped)}")

    def start(self) -> None:
        """Write the header of the container, before frames are computed.

        Raises FilmError if the container cannot contain one of the streams.
        """
        try:
            self.container.start_encoding()
        except self._av.FFmpegError as error:
            raise self._failed(
                error, f"{self.path.suffix} cannot hold {self.codec}, or a sound or subtitle that is copied"
            ) from None
        except (ValueError, OSError) as error:
            raise self._failed(error, "cannot be written") from None

    def _failed(self, error: Exception, what: str) -> Exception:
        if getattr(error, "errno", None) == errno.ENOSPC:
            return OSError(errno.ENOSPC, "no space left", str(self.path))
        if isinstance(error, OSError) and not isinstance(error, self._av.FFmpegError):
            return error
        return FilmError(f"{self.path}: {what} ({reason(error)}); choose another codec= or container")

    def copy(self, packet: Any) -> None:
        """Write a packet of a stream of the input other than the video (sound, subtitles) unchanged to the output."""
        stream = self._streams.get(packet.stream_index)
        if stream is None or packet.dts is None or not packet.size:
            return
        packet.stream = stream
        self._do(lambda: self.container.mux(packet))

    def write(self, rgb: torch.Tensor, time: int, duration: int = 0) -> None:
        """Encode a frame [3, H, W] in [0, 1]. ``time`` and ``duration`` are in units of the source's ``time_base``."""
        frame = self._frame(rgb)
        if self._base == self._from:
            frame.pts = time
        else:
            at = round(time * self._from / self._base)
            frame.pts = at if self._last is None else max(at, self._last + 1)
            self.moved = max(self.moved, abs(float(frame.pts * self._base - time * self._from)))
        self._last, frame.time_base = frame.pts, self._base
        if duration and self._base == self._from:
            frame.duration = self._durations[time] = duration
        self._encode(frame)

    def _frame(self, rgb: torch.Tensor) -> Any:
        if rgb.shape[1:] != self._size:
            raise ValueError(f"expected a frame of (height, width) = {self._size}, got {tuple(rgb.shape[1:])}")
        planes = from_rgb(rgb, self.pix_fmt, self.color, left=self._left)
        if self.pix_fmt.kind == "rgb":
            planes = [planes[1], planes[2], planes[0]]
        frame = self._av.VideoFrame(self._size[1], self._size[0], self.pix_fmt.name)
        kind = np.uint8 if self.pix_fmt.depth == 8 else np.dtype("<u2")
        for plane, samples in zip(frame.planes, planes, strict=True):
            rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
            rows[:, : plane.width] = samples.numpy()
        if self._format != self.pix_fmt.name:
            frame = frame.reformat(format=self._format)
        frame.colorspace, frame.color_range = self.color.matrix, 2 if self.color.full else 1
        return frame

    def _encode(self, frame: Any) -> None:
        def work() -> None:
            packets = self._stream.encode(frame)
            final = self._durations.get(self._last or 0, 0)
            for packet in packets:
                if duration := self._durations.pop(packet.pts, 0):  # encoders guess it and lose that of the last frame
                    packet.duration = duration
            if frame is None and packets and final and self.container.format.name in ("mp4", "mov"):
                packets[-1].duration = final  # MP4 and MOV take the duration of the last packet in order of decoding
            for packet in packets:
                self.container.mux(packet)

        self._do(work)

    def _do(self, work: Any) -> None:
        try:
            work()
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error, "cannot be encoded") from None

    def finish(self) -> None:
        """Write the remaining frames of the encoder and the end of the container."""
        self._encode(None)
        self._do(self.container.close)


@contextmanager
def film_writer(
    path: Path,
    source: FilmReader,
    size: tuple[int, int],
    options: Options,
    *,
    audio: bool = True,
    copy: bool = True,
) -> Iterator[FilmWriter]:
    """Open a video for writing, with rate, time stamps, colors, aspect, sound and subtitles of ``source``.

    Args:
        path: path of the video; its suffix chooses the container. The file appears when the ``with`` block ends without
            an error.
        source: video whose properties, sound and subtitles are copied.
        size: (height, width) of the frames.
        options: options of the encoder.
        audio: true to copy the sound.
        copy: true to copy other streams (sound, subtitles); if false, neither sound nor subtitles are copied.

    Raises:
        FilmError: codec, container and streams do not fit each other. The error is raised before frames are computed.
        OSError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        writer = FilmWriter(path, file, source, *size, options)
        try:
            if copy:
                writer.add_streams(source.others, audio=audio)
            writer.start()
            yield writer
            writer.finish()
        except BaseException:
            abandon(writer)
            raise


def abandon(writer: FilmWriter) -> None:
    """Close the container of a video after an error. Errors of closing are ignored, because its file is deleted."""
    with suppress(Exception):  # the first error is the one to report
        writer.container.close()
