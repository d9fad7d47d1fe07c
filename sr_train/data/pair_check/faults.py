"""Faults of a pair: turned, displaced, red and blue swapped, another range, JPEG; each is found and undone."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.decoding.orientation import turn
from sr_train.data.pair_check.windows import psnr

Gray = NDArray[np.float32]

TURNS = {
    2: "flipped horizontally",
    3: "rotated by 180 degrees",
    4: "flipped vertically",
    5: "transposed",
    6: "rotated by 90 degrees clockwise",
    7: "transposed along the other diagonal",
    8: "rotated by 90 degrees counterclockwise",
}  #: EXIF orientation -> LR compared with HR
_INVERSE = {6: 8, 8: 6}
_TEMPLATE = 128  # side of the part of HR that is searched in LR, in LR pixels
_REACH = 16  # LR pixels by which LR may be displaced


class Alignment(NamedTuple):
    """Place of HR in LR: EXIF orientation (1 for none), displacement in LR pixels, correlations in [-1, 1]."""

    orientation: int
    down: float
    right: float
    correlation: float
    straight: float  # correlation without any turn


def luma(image: Image) -> Gray:
    """Return the gray values of [H, W, C] in [0, 255], [H, W]."""
    plane = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2GRAY)
    return (plane.astype(np.float32) / np.float32(np.iinfo(image.dtype).max / 255)).astype(np.float32, copy=False)


def reduced(image: Image | Gray, size: tuple[int, int]) -> Any:
    """Return an image reduced by averaging, [h, w] or [h, w, C]."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def blurred(gray: Any, sigma: float) -> Any:
    """Return an image blurred by a Gaussian of ``sigma`` pixels."""
    return cast("Any", cv2.GaussianBlur(gray, (0, 0), sigma))


def undo_turn(image: Image | Gray, orientation: int) -> Any:
    """Turn LR back: the inverse of :func:`turn`."""
    return np.ascontiguousarray(turn(image, _INVERSE.get(orientation, orientation)))


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the correlation of two arrays, 0 if one is constant."""
    x, y = (v.astype(np.float64).ravel() - float(v.mean()) for v in (a, b))
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else 0.0


def smoothness(gray: Gray) -> float:
    """Return the PSNR between an image and itself moved by one pixel: above 45 dB, it does not show how it was made."""
    if min(gray.shape) < 2:
        return float("inf")
    change = np.square(gray[1:, 1:] - gray[:-1, :-1]).mean(dtype=np.float64)
    across = np.square(gray[1:, :-1] - gray[:-1, 1:]).mean(dtype=np.float64)
    return psnr(float(max(change, across)), 255)


def _place(gray: Gray, reach: int) -> tuple[int, int, int, int]:
    """Return the most detailed part of an image that is ``reach`` pixels from its edges: top, left, height, width."""
    height, width = gray.shape
    tall, wide = min(_TEMPLATE, height - 2 * reach), min(_TEMPLATE, width - 2 * reach)
    starts = [
        sorted({reach + (length - 2 * reach - side) * n // 3 for n in range(4)})
        for length, side in ((height, tall), (width, wide))
    ]
    places = [(y, x) for y in starts[0] for x in starts[1]]
    top, left = max(places, key=lambda p: float(gray[p[0] : p[0] + tall, p[1] : p[1] + wide].std()))
    return top, left, tall, wide


def _search(template: Gray, lr: Gray, top: int, left: int, reach: int) -> tuple[float, int, int]:
    """Return the best correlation of a template within ``reach`` pixels of its place, and its displacement."""
    area = lr[top - reach : top + template.shape[0] + reach, left - reach : left + template.shape[1] + reach]
    if area.std() < 1e-3 or template.std() < 1e-3:
        return 0.0, 0, 0
    found = cv2.matchTemplate(area, template, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(int(found.argmax()), found.shape)
    return float(found[y, x]), int(y) - reach, int(x) - reach


def align(hr: Gray, lr: Gray) -> Alignment:
    """Find HR, reduced by averaging to the size of upright LR, in LR under the eight turns and displacements.

    Args:
        hr: gray values of reduced HR, [h, w].
        lr: gray values of LR, [h, w] or turned.
    """
    reach = min(_REACH, (min(hr.shape) - 6) // 3)
    if reach < 1:
        return Alignment(1, 0, 0, correlation(hr, lr) if hr.shape == lr.shape else 0.0, 1.0)
    hr, lr = blurred(hr, 1.0), blurred(lr, 1.0)
    top, left, tall, wide = _place(hr, reach)
    template = hr[top : top + tall, left : left + wide]
    found: dict[int, tuple[float, int, int]] = {}
    for orientation in (1, *TURNS):
        back = undo_turn(lr, orientation)
        if back.shape == hr.shape:
            found[orientation] = _search(template, back, top, left, reach)
    best = max(found, key=lambda o: found[o][0])
    straight = found[1][0] if 1 in found else -1.0
    best = 1 if straight > found[best][0] - 0.02 else best
    value, down, right = found[best]
    return Alignment(best, down, right, value, straight)


def _sampling(length: int, count: int, scale: int, first: float) -> NDArray[np.float32]:
    """Return the matrix [count, length] of a cubic reduction whose first output pixel is LR pixel ``first`` of the crop."""
    center = (np.arange(count) + first) * scale + (scale - 1) / 2
    x = np.abs(center[:, None] - np.arange(length)) / scale
    weight = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _vertex(before: float, middle: float, after: float) -> float:
    """Return the place of the maximum of a parabola through three values at -1, 0 and 1."""
    bend = before - 2 * middle + after
    return min(1.0, max(-1.0, 0.5 * (before - after) / bend)) if bend < -1e-12 else 0.0


def refine(hr: Gray, lr: Gray, scale: int, down: float, right: float) -> tuple[float, float]:
    """Refine a displacement of LR to a fraction of an LR pixel.

    Args:
        hr: gray values of HR, [h * scale, w * scale].
        lr: gray values of LR, turned back, [h, w].
        scale: HR pixels per LR pixel.
        down: LR pixels by which the content of LR is too low.
        right: LR pixels by which it is too far to the right.
    """
    reach = int(max(abs(down), abs(right))) + 5
    if min(lr.shape) < 2 * reach + 8:
        return down, right
    top, left, tall, wide = _place(lr, reach)
    lr = lr[top : top + tall, left : left + wide]
    first, before = (top - reach) * scale, (left - reach) * scale
    hr = hr[first : first + (tall + 2 * reach) * scale, before : before + (wide + 2 * reach) * scale]
    moves = np.arange(-5, 6) * 0.25
    rows = [_sampling(hr.shape[0], tall, scale, reach - down - m) @ hr for m in moves]
    columns = [np.transpose(_sampling(hr.shape[1], wide, scale, reach - right - m)) for m in moves]
    value = np.array([[correlation(row @ column, lr) for column in columns] for row in rows])
    y, x = np.unravel_index(int(value.argmax()), value.shape)
    y, x = (min(max(int(n), 1), len(moves) - 2) for n in (y, x))
    more_down = _vertex(value[y - 1, x], value[y, x], value[y + 1, x])
    more_right = _vertex(value[y, x - 1], value[y, x], value[y, x + 1])
    return down + float(moves[y]) + 0.25 * more_down, right + float(moves[x]) + 0.25 * more_right


def snap(shift: float, scale: int) -> float:
    """Round a displacement in LR pixels to half LR pixels or to HR pixels if it is close to them."""
    candidates = (round(2 * shift) / 2, round(scale * shift) / scale)
    near = min(candidates, key=lambda value: abs(value - shift))
    return near if abs(near - shift) <= 0.09 else round(shift, 2)


def swapped(hr: NDArray[Any], lr: NDArray[Any]) -> bool:
    """Return true if red and blue of LR are exchanged: reduced HR and aligned LR, [h, w, 3]."""
    if hr.ndim != 3 or hr.shape[2] < 3 or min(hr.shape[:2]) < 2:
        return False
    level = float(np.iinfo(hr.dtype).max) / 255
    chroma = [blurred(v[..., 0].astype(np.float32) - v[..., 2], 1.0) for v in (hr, lr)]
    return float(chroma[0].std()) > 0.5 * level and correlation(*chroma) < -0.5
