"""Search for the fault of a pair that no known kernel explains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from sr_train.batch import Image
from sr_train.data.decoding.orientation import turn
from sr_train.data.pair_check.faults import (
    TURNS,
    Alignment,
    align,
    correlation,
    luma,
    reduced,
    refine,
    smoothness,
    snap,
    swapped,
    undo_turn,
)  # fmt: skip
from sr_train.data.pair_check.kernels import Reduce, reductions
from sr_train.data.pair_check.values import affine, blockiness, degradation, jpeg_quality, tones
from sr_train.data.pair_check.verdict import GOOD, Kind, PairVerdict, best_kernels, decibel, made_by, one_of, small
from sr_train.data.pair_check.windows import Window, psnr, reduce_windows, score, single_window

_SAME = 0.55  # correlation with HR of LR that shows the same image
_COMMON = ("MATLAB bicubic, arithmetic=float", "Pillow Lanczos", "OpenCV area", "OpenCV cubic")  # before JPEG
_SURE = 38.0  # dB; a displacement is certain if a kernel explains the displaced LR so well
_CLEAR = 0.45  # displacement in LR pixels that is a fault if it is certain
_FAR = 0.75  # and one that is a fault even if no kernel is found


class _Undone(NamedTuple):
    """A pair whose faults were undone so far: images, faults in words, kinds of the faults, scores."""

    hr: Image
    lr: Image
    words: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scores: Mapping[str, float]

    @property
    def value(self) -> float:
        """PSNR in dB of the best kernel."""
        return next(iter(self.scores.values()), float("-inf"))


class FaultSearch:
    """Search on one pair.

    Args:
        hr: [H, W, C].
        lr: [h, w, C] of the same type and channels, of the size of HR divided by the scale, or turned.
        scale: HR pixels per LR pixel.
        known: reductions by name.
        scores: PSNR of each of them for the pair as given; empty if LR has the size of turned HR.
        orientation: EXIF orientation of the HR file.
    """

    def __init__(
        self,
        hr: Image,
        lr: Image,
        scale: int,
        known: Mapping[str, Reduce],
        scores: Mapping[str, float],
        orientation: int,
    ) -> None:
        self.size = (hr.shape[0] // scale, hr.shape[1] // scale)
        self.uncropped = hr
        self.hr = hr[: self.size[0] * scale, : self.size[1] * scale]
        self.lr, self.scale, self.known, self.scores, self.orientation = lr, scale, known, scores, orientation
        self.small = small(self.hr, self.size)

    def run(self) -> PairVerdict:
        """Return the verdict."""
        gray, low = luma(self.small), luma(self.lr)
        if smoothness(gray) > GOOD or smoothness(low) > GOOD:
            return self._smooth(gray, low)
        place, inverse = align(gray, low), align(gray, 255 - low)
        inverted = inverse.correlation > max(place.correlation, _SAME)
        place = inverse if inverted else place
        found = self._colors(self._turn(place, inverted=inverted), place)
        found = self._displacement(found, place)
        if found.value < GOOD and not self._alike(found, place):
            return self._unlike(gray, low)
        found = found if found.value >= GOOD else self._tone(found)
        return self._fault(found) if found.kinds else self._degraded()

    def _alike(self, found: _Undone, place: Alignment) -> bool:
        """Return true if HR and LR agree as a whole after the faults were undone."""
        if place.correlation < _SAME:
            return False
        low = luma(found.lr)
        high = luma(small(found.hr, (low.shape[0], low.shape[1])))
        return correlation(*(cv2.GaussianBlur(v, (0, 0), 1.5) for v in (high, low))) > 0.8

    def _fault(self, found: _Undone) -> PairVerdict:
        change = ", ".join(found.words)
        kernels, value = best_kernels(found.scores) if found.scores else ((), float("-inf"))
        if value >= GOOD:
            text = f"LR is {change}; otherwise {made_by(found.scores)}"
        else:
            kernels, text = (), f"LR is {change}; no known kernel explains the rest"
        return PairVerdict(found.kinds[0], text, True, kernels, value, self.scores, change)

    def _smooth(self, gray: np.ndarray, low: np.ndarray) -> PairVerdict:
        """Judge images of which one is too smooth to be aligned."""
        kernels, value = best_kernels(self.scores) if self.scores else ((), float("-inf"))
        if gray.shape == low.shape:
            calm = [cv2.resize(v, (16, 16), interpolation=cv2.INTER_AREA) for v in (gray, low)]
            near = psnr(float(np.square(calm[0] - calm[1]).mean(dtype=np.float64)), 255)
            if near < 24:
                return self._other()
        text = "cannot tell how LR was made: the image is too smooth"
        return PairVerdict("unclear", text, False, kernels, value, self.scores)

    def _other(self) -> PairVerdict:
        value = next(iter(self.scores.values()), float("-inf"))
        text = "LR shows another image than HR, or HR was changed after LR was made"
        return PairVerdict("other", text, True, (), value, self.scores, "of another image")

    def _unlike(self, gray: np.ndarray, low: np.ndarray) -> PairVerdict:
        """Judge images that are not alike in detail: strongly degraded if they agree in the large."""
        if gray.shape == low.shape:
            large = [reduced(v, (min(12, v.shape[0]), min(12, v.shape[1]))) for v in (gray, low)]
            if correlation(large[0], large[1]) > 0.9:
                return self._degraded()
        return self._other()

    def _turn(self, place: Alignment, *, inverted: bool) -> _Undone:
        """Undo an inversion and a turn."""
        lr = np.iinfo(self.lr.dtype).max - self.lr if inverted else self.lr
        words = ("inverted (dark and bright are exchanged)",) if inverted else ()
        kinds: tuple[Kind, ...] = ("range",) if inverted else ()
        if place.orientation == 1:
            scores = score(self.hr, lr, self.scale, self.known) if inverted else self.scores
            return _Undone(self.hr, lr, words, kinds, scores)
        word = TURNS[place.orientation]
        if place.orientation == self.orientation:
            word += f" by the EXIF orientation {self.orientation} of HR, which training does not apply"
        elif place.orientation in (3, 6, 8):
            word += f", as by a program that applies an EXIF orientation of {place.orientation}"
        words = (*words, word)
        kinds = (*kinds, "rotated")
        back = undo_turn(lr, place.orientation)
        found = _Undone(self.hr, back, words, kinds, score(self.hr, back, self.scale, self.known))
        # A program that turns HR before it crops and reduces it leaves out other rows and columns.
        hr = turn(self.uncropped, place.orientation)[: lr.shape[0] * self.scale, : lr.shape[1] * self.scale]
        before = _Undone(hr, lr, words, kinds, score(hr, lr, self.scale, self.known))
        return before if before.value >= max(GOOD, found.value) else found

    def _colors(self, found: _Undone, place: Alignment) -> _Undone:
        """Undo swapped red and blue."""
        if found.value >= GOOD:
            return found
        down, right = int(place.down), int(place.right)
        hr, lr = _overlap(self.small, found.lr, 1, down, right)
        if not swapped(hr, lr):
            return found
        lr = np.ascontiguousarray(found.lr[..., ::-1])
        words, scores = (*found.words, "BGR (red and blue are swapped)"), score(self.hr, lr, self.scale, self.known)
        return _Undone(self.hr, lr, words, (*found.kinds, "bgr"), scores)

    def _displacement(self, found: _Undone, place: Alignment) -> _Undone:
        """Undo a displacement of LR.

        Below half an LR pixel it is no fault: blind SR keeps the first pixel of each square of a blurred image.
        """
        if found.value >= GOOD:
            return found
        fine = refine(luma(self.hr), luma(found.lr), self.scale, place.down, place.right)
        snapped = tuple(snap(v, self.scale) for v in fine)
        best, at = found, (0.0, 0.0)
        for y, x in sorted({snapped, tuple(round(2 * v) / 2 for v in fine), tuple(float(round(v)) for v in fine)}):
            hr, lr, scores = self._moved(found.lr, y, x)
            if next(iter(scores.values()), 0.0) > best.value + 2:
                best, at = _Undone(hr, lr, found.words, found.kinds, scores), (y, x)
        sure = best.value >= _SURE
        at = at if sure else snapped
        if max(abs(v) for v in at) < (_CLEAR if sure else _FAR):
            return found
        return best._replace(words=(*found.words, displacement(*at)), kinds=(*found.kinds, "shifted"))

    def _moved(self, lr: Image, down: float, right: float) -> tuple[Image, Image, Mapping[str, float]]:
        """Return the common part of HR and displaced LR, and the PSNR of the kernels; none if it is no half HR pixel."""
        products = [v * self.scale for v in (down, right)]
        if max(abs(v - round(2 * v) / 2) for v in products) > 0.05 or not any(products):
            return self.hr, lr, {}
        if any(abs(v) > length - 2 for v, length in zip((down, right), lr.shape, strict=False)):
            return self.hr, lr, {}
        hr, low = _overlap(self.hr, lr, self.scale, down, right)
        if max(abs(v - round(v)) for v in products) <= 0.05:
            return hr, low, score(hr, low, self.scale, self.known)
        twice = self.hr.repeat(2, axis=0).repeat(2, axis=1)  # half HR pixels: only some kernels
        fine, _ = _overlap(twice, lr, 2 * self.scale, down, right)
        known = reductions(2 * self.scale)
        return hr, low, score(fine, low, 2 * self.scale, {name: known[name] for name in _COMMON})

    def _tone(self, found: _Undone) -> _Undone:
        """Name another gamma or range."""
        some = {name: self.known[name] for name in list(found.scores)[:3]}
        some |= {name: self.known[name] for name in list(self.known)[:1]}
        tables = tones(found.lr.dtype)
        values = {
            name: next(iter(score(found.hr, found.lr, self.scale, some, table).values()))
            for name, table in tables.items()
        }
        best = max(values, key=lambda name: values[name])
        if values[best] >= max(28, found.value + 4):
            scores = score(found.hr, found.lr, self.scale, self.known, tables[best])
            return found._replace(words=(*found.words, best), kinds=(*found.kinds, "range"), scores=scores)
        made = small(found.hr, (found.lr.shape[0], found.lr.shape[1]))
        gain, offset, value = affine(made, found.lr)
        if value >= max(33, found.value + 6):
            sign = "+" if offset >= 0 else "-"
            word = f"of other brightness or contrast (about {gain:.2f} times HR {sign} {abs(offset):.0f})"
            return found._replace(words=(*found.words, word), kinds=(*found.kinds, "range"))
        return found

    def _degraded(self) -> PairVerdict:
        """Describe LR that is aligned with HR but made by no known kernel."""
        kernels, value = best_kernels(self.scores)
        closest = f"closest: {one_of(kernels[:1])}, {decibel(value)}"
        window = self._aligned_window()
        jpeg = self._jpeg(window) if self.lr.dtype == np.uint8 and min(window.size) >= 16 else None
        if jpeg:
            return jpeg
        made = luma(reduce_windows(self.hr, [window], next(iter(self.known.values())))[0])
        low = luma(self.lr[window.lr])
        if blockiness(low - made) > 1.25:
            text = f"LR is JPEG-compressed; made by no known kernel ({closest})"
            return PairVerdict("jpeg", text, False, (), value, self.scores, "JPEG-compressed")
        text = f"made by no known kernel ({closest}); LR {degradation(made, low)}: an unknown degradation"
        return PairVerdict("degraded", text, False, (), value, self.scores)

    def _jpeg(self, window: Window) -> PairVerdict | None:
        """Return the verdict if LR is a reduced HR that was compressed by JPEG."""
        low = self.lr[window.lr]
        best: tuple[float, int, str] = (0.0, 0, "")
        for name in dict.fromkeys([*list(self.scores)[:2], *(n for n in _COMMON if n in self.known)]):
            made = reduce_windows(self.hr, [window], self.known[name])[0]
            error = psnr(float(np.square(made.astype(np.float32) - low).mean(dtype=np.float64)), 255)
            quality, near = jpeg_quality(made, low)
            if near >= max(38.0, error + 2.5, best[0]):
                best = near, quality, name
        if not best[2]:
            return None
        text = f"LR is JPEG-compressed (quality about {best[1]}) after {best[2]} ({decibel(best[0])})"
        return PairVerdict("jpeg", text, False, (best[2],), best[0], self.scores, "JPEG-compressed")

    def _aligned_window(self) -> Window:
        """Return a window of up to 160 pixels that begins at multiples of 16, in the middle of LR."""
        sides = [min(160, length // 16 * 16) or length for length in self.size]
        top, left = ((length - side) // 2 // 16 * 16 for length, side in zip(self.size, sides, strict=True))
        return single_window(top, left, sides[0], sides[1], self.size, self.scale)


def _overlap(hr: Image, lr: Image, scale: int, down: float, right: float) -> tuple[Image, Image]:
    """Return the common part of HR and of LR whose content is displaced; the products with the scale are integers."""
    spans: list[tuple[int, int, int]] = []
    for length, shift in ((lr.shape[0], down), (lr.shape[1], right)):
        first, last = max(0, math.ceil(shift)), min(length, length + math.floor(shift))
        spans.append((first, last, round((first - shift) * scale)))
    (top, bottom, y), (left, end, x) = spans
    lr = lr[top:bottom, left:end]
    hr = hr[y : y + (bottom - top) * scale, x : x + (end - left) * scale]
    return np.ascontiguousarray(hr), np.ascontiguousarray(lr)


def displacement(down: float, right: float) -> str:
    """Return the words for a displacement of LR in LR pixels."""

    def amount(value: float) -> str:
        value = abs(value)
        for part, name in ((0.5, "1/2"), (0.25, "1/4"), (0.75, "3/4"), (1 / 3, "1/3"), (2 / 3, "2/3")):
            if abs(value - part) < 0.01:
                return name
        return f"{value:.2f}".rstrip("0").rstrip(".")

    parts = [
        f"{(forward if value > 0 else back)} by {amount(value)}"
        for value, forward, back in ((down, "down", "up"), (right, "right", "left"))
        if value
    ]
    plural = max(abs(down), abs(right)) > 1
    return f"shifted {' and '.join(parts)} LR pixel{'s' if plural else ''}"
