"""Conversion between Y'CbCr and RGB with the matrices, ranges and chroma positions of ITU-R BT.601, BT.709 and BT.2020.

FFmpeg's swscale is not used: its defaults (BT.601 for every size, chroma in the middle) shift the colors of most
videos.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

UNKNOWN = 2  # unspecified matrix, primaries or transfer in ITU-T H.273

_RGB = 0

#: matrix number of H.273 -> shares of red and blue in luma
SHARES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


class Color(NamedTuple):
    """Color coding of a video, as numbers of ITU-T H.273."""

    matrix: int  #: 0 for RGB
    full: bool  #: range 0 ... 255 instead of 16 ... 235
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN


class PixelFormat(NamedTuple):
    """Description of the planes of a video's pixel format."""

    kind: str  #: "yuv", "gray" or "rgb"
    depth: int  #: bits per sample
    across: int = 1  #: luma samples per chroma sample in x
    down: int = 1  #: luma samples per chroma sample in y

    @property
    def name(self) -> str:
        """FFmpeg's name of the planar pixel format; samples of more than 8 bits are little-endian."""
        deep = "" if self.depth == 8 else f"{self.depth}le"
        if self.kind == "rgb":
            return f"gbrp{deep}"
        if self.kind == "gray":
            return f"gray{deep}"
        chroma = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (4, 4): "410"}
        return f"yuv{chroma[self.across, self.down]}p{deep}"


def planar_format(pixel: Any) -> PixelFormat:
    """Return the planar format for the samples of a pixel format (PyAV's ``VideoFormat``), without an alpha channel."""
    parts = [c for c in pixel.components if not c.is_alpha]
    depth = max((c.bits for c in parts), default=8)
    depth = 8 if depth <= 8 else next((d for d in (9, 10, 12, 14, 16) if d >= depth), 16)
    if pixel.is_rgb or pixel.has_palette:
        return PixelFormat("rgb", depth)
    if len(parts) == 1:
        return PixelFormat("gray", depth)
    across, down = (round(64 / n) for n in (pixel.chroma_width(64), pixel.chroma_height(64)))
    return PixelFormat("yuv", depth, across, down)


def plane_samples(plane: Any, depth: int) -> torch.Tensor:
    """Return the samples of a plane (PyAV's ``VideoPlane``) as floats [h, w], without padding of the rows."""
    kind = np.dtype(np.uint8 if depth == 8 else "<u2")
    rows = np.reshape(np.frombuffer(plane, kind), (plane.height, -1))[:, : plane.width]
    return torch.as_tensor(rows.astype(np.float32))


def default_matrix(height: int) -> int:
    """Return the color matrix for a video that specifies no matrix, as players do: BT.709 from 720 lines on, else BT.601."""
    return 1 if height >= 720 else 6


def _ends(depth: int, full: bool, chroma: bool) -> tuple[float, float]:
    """Return (zero, span) to convert integer samples of a plane: (sample - zero) / span is the real value.

    The real value is in [0, 1] for luma, and in [-0.5, 0.5] for chroma.
    """
    if chroma:
        return float(1 << (depth - 1)), float((1 << depth) - 1 if full else 224 << (depth - 8))
    return (0.0, float((1 << depth) - 1)) if full else (float(16 << (depth - 8)), float(219 << (depth - 8)))


def _stretched(x: torch.Tensor, axis: int, length: int, factor: int, left: bool) -> torch.Tensor:
    """Upsample one axis of a chroma plane to ``length`` samples (as many as luma has), by linear interpolation."""
    if factor == 1:
        return x
    at = torch.arange(length, dtype=torch.float32)
    at = at / factor if left else (at + 0.5) / factor - 0.5
    at = at.clamp(0, x.shape[axis] - 1)
    low = at.long()
    weight = (at - low).reshape(-1, 1) if axis == 0 else at - low
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)


def _reduced(x: torch.Tensor, factor: int, left: bool) -> torch.Tensor:
    """Reduce a chroma plane [h, w] to [h, ceil(w / factor)].

    If ``left`` is true, the new samples are at the left of ``factor`` old samples, and a triangle filter is used.
    Otherwise each is the mean of ``factor`` old samples.
    """
    if factor == 1:
        return x
    if left:
        kernel = torch.tensor([min(i, 2 * factor - i) for i in range(1, 2 * factor)], dtype=torch.float32)
        wide = F.pad(x[:, None], (factor - 1, factor - 1), mode="replicate")
        return F.conv1d(wide, (kernel / factor**2)[None, None], stride=factor)[:, 0]
    wide = F.pad(x[:, None], (0, -x.shape[1] % factor), mode="replicate")
    return F.avg_pool1d(wide, factor)[:, 0]


def to_rgb(planes: list[torch.Tensor], pix_fmt: PixelFormat, color: Color, *, left: bool = True) -> torch.Tensor:
    """Convert the planes of a video frame to RGB [3, h, w] in [0, 1].

    Args:
        planes: planes Y, Cb, Cr; or Y; or R, G, B. A plane is a float array [h, w] of integer sample values. Chroma
            planes may be smaller.
        pix_fmt: format of the planes.
        color: color coding of the planes; for RGB only the range matters.
        left: true if a chroma sample is at the position of the left one of its luma samples, as in MPEG-2, H.264 and
            later. False if it is in the middle between them, as in JPEG and MPEG-1. Vertically it is in the middle in
            both cases.
    """
    zero, one = _ends(pix_fmt.depth, color.full, chroma=False)
    luma = (planes[0] - zero) / one
    if pix_fmt.kind == "gray":
        return luma.clamp(0, 1).expand(3, -1, -1)
    if pix_fmt.kind == "rgb":
        return torch.stack([luma, *((p - zero) / one for p in planes[1:])]).clamp(0, 1)
    middle, span = _ends(pix_fmt.depth, color.full, chroma=True)
    height, width = luma.shape
    chroma = [
        (_stretched(_stretched(p, 1, width, pix_fmt.across, left), 0, height, pix_fmt.down, False) - middle) / span
        for p in planes[1:]
    ]
    kr, kb = SHARES[color.matrix]
    red = luma + 2 * (1 - kr) * chroma[1]
    blue = luma + 2 * (1 - kb) * chroma[0]
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return torch.stack([red, green, blue]).clamp_(0, 1)


def from_rgb(rgb: torch.Tensor, pix_fmt: PixelFormat, color: Color, *, left: bool = True) -> list[torch.Tensor]:
    """Convert RGB [3, h, w] in [0, 1] to the planes of a video frame, the inverse of :func:`to_rgb`.

    A plane is a float array of integer sample values.
    """
    zero, one = _ends(pix_fmt.depth, color.full, chroma=False)
    top = (1 << pix_fmt.depth) - 1
    if pix_fmt.kind == "rgb":
        return [torch.floor(p.double() * one + zero + 0.5).clamp_(0, top) for p in rgb]  # same rounding as for images
    kr, kb = SHARES[color.matrix]
    red, green, blue = rgb
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [torch.floor(luma * one + zero + 0.5).clamp_(0, top)]
    if pix_fmt.kind == "gray":
        return planes
    middle, span = _ends(pix_fmt.depth, color.full, chroma=True)
    for part, share in ((blue, kb), (red, kr)):
        chroma = _reduced((part - luma) / (2 * (1 - share)), pix_fmt.across, left)
        chroma = _reduced(chroma.t(), pix_fmt.down, False).t()
        planes.append(torch.floor(chroma * span + middle + 0.5).clamp_(0, top))
    return planes
