"""Clips without a download: a virtual camera pans, zooms and rotates over the photographs of scikit-image.

Every frame is a view of the photograph at real-valued positions, so motion is sub-pixel and frames have the detail of the
photograph. A frame is sampled at twice its resolution (bicubic) and reduced by an antialiased bicubic filter. The camera
never magnifies the photograph and never sees beyond its edge.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from sr_train.batch import Image
from sr_train.data.images import read_header, read_image, to_rgb
from sr_train.data.toy import TRAIN, toy_files

HEIGHT, WIDTH = 192, 256

FRAMES = 12

PER_PHOTOGRAPH = 24

_FINER = 2  # samples per pixel along each axis

_EDGE = 3.0  # margin around a view for the bicubic kernel, in photograph pixels

_ZOOM = (1.0, 1.35)  # photograph pixels per frame pixel

_PAN = 4.0  # largest motion between two frames, in frame pixels

_TURN = math.radians(1.0)  # largest rotation between two frames

_TILT = math.radians(8.0)  # largest angle of the first frame

_TRIES = 1000

_rendered: dict[tuple[str, int, int], Image] = {}  #: (photograph, seed, clip) -> frames, in this process


class View(NamedTuple):
    """Position, angle and zoom of the camera in one frame."""

    x: float  #: center, in photograph pixels
    y: float
    angle: float  #: angle of the frame's x axis, in radians
    zoom: float  #: photograph pixels per frame pixel

    def reach(self) -> tuple[float, float]:
        """Return the distance (across, down) from the center of the frame to its corners, in pixels of the photograph."""
        c, s = abs(math.cos(self.angle)) * self.zoom / 2, abs(math.sin(self.angle)) * self.zoom / 2
        return WIDTH * c + HEIGHT * s, WIDTH * s + HEIGHT * c


def _numbers(photograph: str, seed: int, clip: int, attempt: int) -> list[float]:
    """Return eight uniform pseudo-random numbers in [0, 1), which depend only on the arguments."""
    text = f"toy_clips/{photograph}/{seed}/{clip}/{attempt}"
    digest = hashlib.blake2b(text.encode(), digest_size=64).digest()
    return [word / 2**64 for word in struct.unpack("<8Q", digest)]


def camera(photograph: str, size: tuple[int, int], *, seed: int = 0, clip: int = 0) -> list[View]:
    """Return the views of the camera in one clip.

    The camera pans, rotates and zooms with constant speed on a curved path. The views depend only on (photograph, seed,
    clip). ``size`` is (height, width) of the photograph. A path that leaves the photograph is drawn again.
    """
    height, width = size
    for attempt in range(_TRIES):
        x, y, direction, speed, tilt, turn, zoom, bend = _numbers(photograph, seed, clip, attempt)
        start = _ZOOM[0] + zoom * (_ZOOM[1] - _ZOOM[0])
        grow = (bend - 0.5) * 0.02  # change of the zoom between two frames
        heading, pace = 2 * math.pi * direction, _PAN * (0.25 + 0.75 * speed)
        path: list[View] = []
        at = (x * width, y * height)
        for t in range(FRAMES):
            scale = start * (1 + grow) ** t
            view = View(*at, _TILT * (2 * tilt - 1) + _TURN * (2 * turn - 1) * t, scale)
            across, down = view.reach()
            inside = across + _EDGE <= view.x <= width - 1 - across - _EDGE
            inside &= down + _EDGE <= view.y <= height - 1 - down - _EDGE
            if not (inside and scale >= _ZOOM[0]):
                break
            path.append(view)
            heading += (direction - 0.5) * 0.1
            at = (at[0] + pace * scale * math.cos(heading), at[1] + pace * scale * math.sin(heading))
        if len(path) == FRAMES:
            return path
    raise ValueError(f"toy_clips:{photograph}: {width}x{height} pixels are too few for a camera of {WIDTH}x{HEIGHT}")


def render(photograph: Image, views: list[View]) -> Image:
    """Render frames [T, HEIGHT, WIDTH, 3] uint8 of a photograph [H, W, 3] uint8, one per view."""
    height, width = photograph.shape[:2]
    source = torch.as_tensor(photograph.astype(np.float32)).permute(2, 0, 1)[None]
    down = (torch.arange(HEIGHT * _FINER, dtype=torch.float64) + 0.5) / _FINER - HEIGHT / 2
    across = (torch.arange(WIDTH * _FINER, dtype=torch.float64) + 0.5) / _FINER - WIDTH / 2
    v, u = torch.meshgrid(down, across, indexing="ij")
    frames: list[torch.Tensor] = []
    for view in views:
        c, s = math.cos(view.angle) * view.zoom, math.sin(view.angle) * view.zoom
        x, y = view.x + c * u - s * v, view.y + s * u + c * v
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)[None].float()
        fine = F.grid_sample(source, grid, mode="bicubic", align_corners=True)
        frame = F.interpolate(fine, size=(HEIGHT, WIDTH), mode="bicubic", antialias=True)
        frames.append(torch.floor(frame[0].clamp(0, 255) + 0.5).to(torch.uint8).permute(1, 2, 0))
    return torch.stack(frames).numpy()


class ToyClips:
    """Source of clips made from photographs: ``PER_PHOTOGRAPH`` clips for each photograph.

    The name of a frame is e.g. ``coffee-3/00000011``. A clip is rendered on first access (a tenth of a second) and kept
    in memory until the process ends.

    Args:
        names: names of photographs of scikit-image, separated by commas; default: the photographs that recipes train
            on.
        seed: seed of the camera paths.
    """

    def __init__(self, names: str = "", *, seed: int = 0) -> None:
        self.name = f"toy_clips:{names}" if names else "toy_clips"
        self.seed = seed
        self._files = toy_files(names or ",".join(TRAIN))
        self._clips = [(name, clip) for name in self._files for clip in range(PER_PHOTOGRAPH)]
        self.keys = [f"{name}-{clip}/{t:08d}" for name, clip in self._clips for t in range(FRAMES)]
        for name, path in self._files.items():  # raises now if a photograph is too small
            header = read_header(path)
            camera(name, (header.height, header.width), seed=seed)

    def shape(self, index: int) -> tuple[int, int, int]:  # noqa: D102 - see Source
        return HEIGHT, WIDTH, 3

    def _frames(self, clip: int) -> Image:
        name, number = self._clips[clip]
        key = (name, self.seed, number)
        if key not in _rendered:
            photograph = to_rgb(read_image(self._files[name]))
            views = camera(name, photograph.shape[:2], seed=self.seed, clip=number)
            _rendered[key] = render(photograph, views)
            _rendered[key].flags.writeable = False
        return _rendered[key]

    def render_all(self) -> None:
        """Render all clips."""
        for clip in range(len(self._clips)):
            self._frames(clip)

    def read(self, index: int) -> Image:  # noqa: D102
        clip, frame = divmod(index, FRAMES)
        return self._frames(clip)[frame]

    def crop(self, index: int, top: int, left: int, height: int, width: int) -> Image:  # noqa: D102
        return self.read(index)[top : top + height, left : left + width]
