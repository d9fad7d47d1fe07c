"""Reading a video: upright RGB frames one by one, with time stamps, and packets of the other streams (sound, subtitles)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from sr_train.console import counted
from sr_train.data.video.film_color import (
    SHARES,
    UNKNOWN,
    Color,
    PixelFormat,
    default_matrix,
    planar_format,
    plane_samples,
    to_rgb,
)
from sr_train.data.video.film_truncation import missing_bytes

if TYPE_CHECKING:
    from av import VideoFrame


#: suffixes of files that are read as videos
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".y4m", ".gif", ".wmv", ".flv",
    ".3gp", ".ogv",
)  # fmt: skip

_THREADS = 2  # of the decoder; each needs memory for frames

_CENTERED = ("mjpeg", "mpeg1video")  # codecs with chroma between two pixels


class FilmError(ValueError):
    """Video that cannot be used; the message gives the reason."""


class Frame(NamedTuple):
    """One upright frame."""

    pixels: torch.Tensor  #: [3, h, w] uint8, or uint16 for videos of more than 8 bits
    time: int  #: in units of the video's ``time_base``
    duration: int  #: in the same units; 0 if unknown


class Look(NamedTuple):
    """Properties that all frames of a video share."""

    height: int  #: height of the upright frame
    width: int
    pix_fmt: PixelFormat
    color: Color
    tagged: bool  #: the video specifies its matrix
    aspect: Fraction  #: aspect ratio of a pixel; 1 if unknown
    rate: Fraction  #: average frames per second
    time_base: Fraction  #: seconds per unit of time stamps
    left: bool  #: position of chroma, see ``to_rgb``


def import_av() -> Any:
    """Import PyAV and silence its log. Raises ImportError that contains the command to install it."""
    try:
        import av
    except ImportError:
        raise ImportError('videos need PyAV: pip install ".[video]" in the checkout of sr-train') from None
    import av.logging

    av.logging.set_level(None)  # its messages name no file; our errors do
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    return av


def reason(error: BaseException) -> str:
    """Return a short message for an error of PyAV."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).split("\n")[0]


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return (transpose, flip vertically, flip horizontally) as booleans.

    These operations, applied in this order, make a frame upright.
    """
    for data in cast("Any", frame.side_data):
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.reshape(np.frombuffer(bytes(data), np.int32), (3, 3))
            a, b, c, d = (int(np.sign(v)) for v in (matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]))
            if a and d and not b and not c:
                return False, d < 0, a < 0
            if b and c and not a and not d:  # x' = c y, y' = b x
                return True, b < 0, c < 0
    return False, False, False


class FilmReader:
    """Reader of a video file. ``close`` or the end of a ``with`` block closes the file.

    Args:
        path: path of the file.

    Raises:
        FilmError: the file is no video, has no video stream, or its first frame cannot be decoded.
        ImportError: PyAV is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av = import_av()
        if path.stat().st_size == 0:
            raise FilmError(f"{path}: the file is empty")
        if lacking := missing_bytes(path):
            raise FilmError(f"{path}: cut short: at least {counted(lacking, 'byte')} missing at its end")
        self._file = path.open("rb")  # opened by Python, so that FFmpeg opens no other file or address named in it
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self.container = self._av.open(self._file, "r", metadata_errors="replace", io_open=self._refuse)
        except (self._av.FFmpegError, ValueError, OSError) as error:
            raise FilmError(f"{self.path}: not a readable video ({reason(error)})") from None
        if self.container.format.name.endswith("_pipe") or "image2" in self.container.format.name:
            raise FilmError(f"{self.path}: is an image ({self.container.format.name.partition('_')[0]}), not a video")
        pictures = [
            s for s in self.container.streams.video if not int(getattr(s.disposition, "value", s.disposition)) & 0x400
        ]  # without attached pictures such as covers
        if not pictures:
            kinds = ", ".join(sorted({s.type for s in self.container.streams})) or "nothing"
            raise FilmError(f"{self.path}: has no video stream; it contains {kinds}")
        self.stream = pictures[0]
        context = self.stream.codec_context
        if context is None:
            raise FilmError(f"{self.path}: this PyAV cannot decode the codec of its video")
        context.thread_count, context.thread_type = _THREADS, "AUTO"
        context.options = {"err_detect": "explode"}
        self.others = [s for s in self.container.streams if s.index != self.stream.index]
        self._early: list[Any] = []
        self._take: Callable[[Any], object] = self._early.append
        self._stamp = -1
        self.warnings: list[str] = []
        self._decoded = self._decode()
        self._first: VideoFrame | None = next(self._decoded, None)
        if self._first is None:
            raise FilmError(f"{self.path}: contains no frames")
        self.look = self._look(self._first)
        self._stored = self._first.width, self._first.height

    def _refuse(self, url: str, flags: int, options: Any) -> Any:
        raise FilmError(f"{self.path}: refers to another file, {url!r}; only videos in a single file can be read")

    @property
    def count(self) -> int | None:
        """Number of frames, from the video's header or computed from its duration; None if both are unknown."""
        if stated := self._stated_count():
            return stated
        length = self.container.duration
        return None if not length else max(1, round(length / 1_000_000 * self.look.rate))

    def _stated_count(self) -> int:
        """Return the number of frames in the video's header; 0 if it is unknown.

        Frames that an MP4's edit list removes are not counted.
        """
        stated = int(self.stream.frames)
        index = getattr(self.stream, "index_entries", None)  # PyAV 17 and later
        mp4 = "mp4" in self.container.format.name
        return min(stated, len(index)) if stated and index is not None and mp4 else stated

    def _look(self, frame: VideoFrame) -> Look:
        context, pixel = self.stream.codec_context, frame.format
        transposed = _orientation(frame)[0]
        height, width = (frame.width, frame.height) if transposed else (frame.height, frame.width)
        aspect = self.stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
        pix_fmt = self._pixel_format(pixel)
        matrix = int(frame.colorspace)
        rgb = pix_fmt.kind == "rgb"
        tagged = rgb or matrix not in (UNKNOWN, 0)
        if tagged and not rgb and matrix not in SHARES:
            known = "BT.601, BT.709, BT.2020"
            raise FilmError(f"{self.path}: its color matrix is {matrix} of ITU-T H.273; only {known} can be read")
        matrix = 0 if rgb else matrix if tagged else default_matrix(frame.height)
        full = int(frame.color_range) == 2 or pixel.name.startswith("yuvj")
        full = full or (int(frame.color_range) == 0 and pix_fmt.kind != "yuv")
        if pixel.name.startswith("pal") or any(c.is_alpha for c in pixel.components):
            self.warnings.append("the video's transparency is dropped")
        if frame.interlaced_frame:
            self.warnings.append("the video is interlaced; networks expect whole frames: deinterlace the video first")
        color = Color(matrix, full, int(context.color_primaries), int(context.color_trc))
        rate = self.stream.average_rate or self.stream.guessed_rate or self.stream.base_rate or Fraction(25)
        base = self.stream.time_base or 1 / rate
        left = context.name not in _CENTERED
        aspect = 1 / Fraction(aspect) if transposed else Fraction(aspect)
        return Look(height, width, pix_fmt, color, tagged, aspect, Fraction(rate), Fraction(base), left)

    def _pixel_format(self, pixel: Any) -> PixelFormat:
        """Return the planar format for a pixel format, without an alpha channel.

        Raises FilmError if FFmpeg has no such format.
        """
        try:
            pix_fmt = planar_format(pixel)
            self._av.VideoFormat(pix_fmt.name)
        except (KeyError, ValueError):
            raise FilmError(f"{self.path}: its pixel format {pixel.name} is not supported") from None
        return pix_fmt

    def _decode(self) -> Iterator[VideoFrame]:
        packets, frames, ends, last = 0, 0, 0.0, 0
        slots: deque[int | None] = deque()  # AVI has no time stamps of frames; those of its packets are used
        try:
            for packet in self.container.demux():
                if packet.pts is not None and packet.time_base:
                    ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if (
                    packet.stream.index != self.stream.index
                ):  # stream_index is 0 for the last, empty packet of every stream
                    self._take(packet)
                    continue
                packets += packet.size > 0
                last = max(last, (packet.pos or 0) + packet.size)
                if packet.size and self.container.format.name == "avi":
                    slots.append(packet.dts)
                if packet.is_corrupt:
                    raise FilmError(f"{self.path}: damaged or cut short at frame {frames}")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise FilmError(f"{self.path}: damaged or cut short at frame {frames}")
                    if slots:
                        frame.pts = slots.popleft()
                    yield frame
                    frames += 1
        except self._av.FFmpegError as error:
            raise FilmError(f"{self.path}: frame {frames} cannot be decoded ({reason(error)}); damaged?") from None
        self._check_end(packets, frames, ends)
        if self.container.format.name == "yuv4mpegpipe" and last < self.path.stat().st_size:
            raise FilmError(f"{self.path}: cut short in frame {frames}")

    def _check_end(self, packets: int, frames: int, ends: float) -> None:
        """Raise FilmError if the video is shorter than the length in its header.

        Without this check, a video that is cut off between two packets would cause no error.
        """
        names, stated = self.container.format.name, self._stated_count()
        if "mp4" in names and stated > packets and hasattr(self.stream, "index_entries"):
            raise FilmError(f"{self.path}: cut short: it ends after {packets} of {stated} frames")
        if ("matroska" in names or names == "flv") and self.container.duration and frames:
            last = self.container.duration / 1e6  # counted from 0, not from the first frame
            if ends < last - 0.1 - 2 / float(self.look.rate):
                raise FilmError(f"{self.path}: cut short: it ends after {ends:.1f} of {last:.1f} s ({frames} frames)")

    def frames(self, take: Callable[[Any], object] = lambda packet: None) -> Iterator[Frame]:
        """Yield all frames.

        This method can be called only once. ``take`` is called with each packet of the other streams.

        Raises:
            FilmError: a frame is damaged or has another size.
        """
        self._take = take
        for packet in self._early:
            take(packet)
        self._early.clear()
        frame, self._first = self._first, None
        number = 0
        while frame is not None:
            if (frame.width, frame.height) != self._stored:
                was = f"{self._stored[0]}x{self._stored[1]}"
                raise FilmError(
                    f"{self.path}: frame {number} is {frame.width}x{frame.height}, earlier frames are {was}; split the video "
                    "there"
                )
            yield Frame(self._pixels(frame), self._time(frame), int(frame.duration or 0))
            number += 1
            frame = next(self._decoded, None)

    def _time(self, frame: VideoFrame) -> int:
        """Return the time stamp of a frame.

        For a frame without a time stamp, return the last time stamp plus one frame's duration.
        """
        stamp = frame.pts if frame.pts is not None else frame.dts
        step = max(1, round(1 / (self.look.rate * self.look.time_base)))
        if stamp is None:
            stamp = self._stamp + step if self._stamp >= 0 else 0
        elif self._stamp >= 0 and stamp <= self._stamp:
            raise FilmError(f"{self.path}: time stamps do not increase ({stamp} after {self._stamp}); damaged?")
        self._stamp = stamp
        return stamp

    def _pixels(self, frame: VideoFrame) -> torch.Tensor:
        pix_fmt = self._pixel_format(frame.format)
        transpose, vertical, horizontal = _orientation(frame)
        if frame.format.name not in (pix_fmt.name, pix_fmt.name.replace("yuv", "yuvj")):
            frame = frame.reformat(format=pix_fmt.name)  # only unpacks, without conversion
        planes = [plane_samples(plane, pix_fmt.depth) for plane in frame.planes]
        if pix_fmt.kind == "rgb":
            planes = [planes[2], planes[0], planes[1]]  # FFmpeg's order is G, B, R
        rgb = to_rgb(planes, pix_fmt, self.look.color, left=self.look.left)
        if transpose:
            rgb = rgb.transpose(1, 2)
        if flipped := [axis for axis, flip in ((1, vertical), (2, horizontal)) if flip]:
            rgb = rgb.flip(flipped)
        top, kind = (255, torch.uint8) if pix_fmt.depth == 8 else (65535, torch.uint16)
        return torch.floor(rgb * top + 0.5).to(kind)

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "container"):
            self.container.close()
        self._file.close()

    def __enter__(self) -> FilmReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
