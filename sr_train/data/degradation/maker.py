"""Training patches whose LR is made by a degradation, and patches with a sharpened target."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike

from sr_train.batch import Image
from sr_train.data.degradation.base import Degradation, Degraded, Words
from sr_train.data.degradation.sharpen import usm_sharpen
from sr_train.data.degrade import reduce_window
from sr_train.data.images import to_real
from sr_train.data.train_source import Cut

_BLOCK = 8  # side of a block of JPEG, in LR pixels

_SHARP = 50  # HR pixels around a patch that influence its sharpening, see usm_sharpen


class Window(NamedTuple):
    """Rows and columns of an image, in HR pixels: [top, bottom) and [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, before: Sequence[int], after: int, size: Sequence[int]) -> Window:
        """Return a larger window, clipped to the image.

        Args:
            before: pixels to add above and to the left.
            after: pixels to add below and to the right.
            size: (H, W) of the image.
        """
        return Window(
            max(0, self.top - before[0]),
            max(0, self.left - before[1]),
            min(size[0], self.bottom + after),
            min(size[1], self.right + after),
        )

    def of(self, image: Image, outer: Window, scale: int = 1) -> Image:
        """Return the pixels of this window from the image of the window ``outer``, whose sides are divided by ``scale``."""
        top, left = (self.top - outer.top) // scale, (self.left - outer.left) // scale
        height, width = (self.bottom - self.top) // scale, (self.right - self.left) // scale
        return image[top : top + height, left : left + width]


class Place(NamedTuple):
    """Place of a patch in an image, in LR pixels, and the pixels around it."""

    fetch: Callable[[int, int, int, int], Image]
    """Function of (top, left, height, width) that returns this window of the HR image, [height, width, C]."""

    size: tuple[int, int]  #: (H, W) of the HR image
    scale: int  #: HR pixels per LR pixel
    top: int
    left: int
    side: int  #: side of the LR patch
    key: str  #: name of the image

    @property
    def whole(self) -> tuple[int, int]:
        """Size (H, W) of the HR image, cropped to multiples of the scale."""
        return self.size[0] - self.size[0] % self.scale, self.size[1] - self.size[1] % self.scale

    @property
    def window(self) -> Window:
        """HR pixels of the patch."""
        top, left, side = self.top * self.scale, self.left * self.scale, self.side * self.scale
        return Window(top, left, top + side, left + side)

    def pixels(self, window: Window) -> Image:
        """Return the HR pixels of a window."""
        return self.fetch(window.top, window.left, window.bottom - window.top, window.right - window.left)


class LRMaker:
    """Maker of the training patches of a source: LR by a degradation, or a sharpened target, or both.

    Args:
        degradation: maker of LR; ``None`` for bicubic reduction.
        usm: true to sharpen HR first. LR is made from the sharpened HR, which is also returned as the target.
        arithmetic: name of the rounding rules of the bicubic reduction, see :mod:`sr_train.resampling`.
    """

    def __init__(self, degradation: Degradation | None, *, usm: bool = False, arithmetic: str = "float") -> None:
        self.degradation = degradation
        self.usm = usm
        self.arithmetic = arithmetic

    def make(self, place: Place, words: Sequence[int]) -> Cut:
        """Make the patches at a place. The random integers ``words`` are those of :class:`.train_source.TrainSource`.

        The degradation gets the patch with its margin, clipped to the image. Above and to the left, up to 7 more LR pixels
        are added at random: the patch then lies anywhere in the blocks of a JPEG that starts at the window's corner.
        """
        random = Words(struct.pack("<2Q", *words[6:8]))
        patch, inner = place.window, self._window(place, random)
        outer = inner.grown([_SHARP] * 2, _SHARP, place.whole) if self.usm else inner
        pixels = place.pixels(outer)
        hr = patch.of(pixels, outer)
        source = usm_sharpen(to_real(pixels)) if self.usm else pixels
        target = quantize(patch.of(source, outer), pixels.dtype) if self.usm else None
        if self.degradation is None:
            return Cut(self._reduced(quantize(source, pixels.dtype), outer, place), hr, place.key, target)
        window = np.ascontiguousarray(to_real(inner.of(source, outer)))
        made = degrade(self.degradation, window, place.scale, random)
        lr = patch.of(quantize(made.lr, pixels.dtype), inner, place.scale)
        return Cut(lr, hr, place.key, target, made.drawn)

    def sharpen(self, place: Place, lr: Image) -> Cut:
        """Return a given LR patch, the HR patch at a place, and the sharpened HR patch."""
        patch = place.window
        outer = patch.grown([_SHARP] * 2, _SHARP, place.whole)
        pixels = place.pixels(outer)
        target = quantize(patch.of(usm_sharpen(to_real(pixels)), outer), pixels.dtype)
        return Cut(lr, patch.of(pixels, outer), place.key, target)

    def _window(self, place: Place, random: Words) -> Window:
        """Return the window that the LR patch is made from. Its sides are multiples of the scale."""
        scale = place.scale
        if self.degradation is None:
            return place.window.grown([3 * scale] * 2, 3 * scale, place.whole)  # the taps of bicubic
        margin = -(-self.degradation.margin // scale) * scale
        shift = random.child("window") if margin else None
        before = [margin + (shift.integer(_BLOCK) * scale if shift else 0) for _ in range(2)]
        return place.window.grown(before, margin, place.whole)

    def _reduced(self, pixels: Image, outer: Window, place: Place) -> Image:
        """Return the LR patch by bicubic reduction of the pixels of the window ``outer``."""

        def held(top: int, left: int, height: int, width: int) -> Image:
            return Window(top, left, top + height, left + width).of(pixels, outer)

        side = place.side
        return reduce_window(held, place.whole, place.scale, place.top, place.left, side, side, self.arithmetic)


def degrade(degradation: Degradation, hr: Image, scale: int, random: Words) -> Degraded:
    """Degrade an image, and check what a user's class returns.

    Args:
        degradation: maker of LR.
        hr: float32 [H, W, C] in [0, 1]; H and W are multiples of ``scale``.
        scale: HR pixels per LR pixel.
        random: random numbers of the sample.
    """
    made = degradation(hr, scale, random)
    problem = _problem(made, (hr.shape[0] // scale, hr.shape[1] // scale, hr.shape[2]))
    if problem is not None:
        raise ValueError(f"degrade: {type(degradation).__name__} returned {problem}")
    return Degraded(*made)


def _problem(made: object, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with the result of a degradation, of which a user may be the author; else None."""
    if not isinstance(made, tuple) or len(pair := cast("tuple[object, ...]", made)) != 2:
        return f"{type(cast('object', made)).__name__}, expected Degraded(lr, drawn)"
    lr, drawn = cast("tuple[Any, Any]", pair)
    wanted = f"expected an array of float32 {list(shape)}"
    if not isinstance(lr, np.ndarray):
        return f"{type(lr).__name__} as lr, {wanted}"
    if (found := cast("Image", lr)).shape != shape or found.dtype != np.float32:
        return f"an array of {found.dtype} {list(found.shape)} as lr, {wanted}"
    if not isinstance(drawn, Mapping):
        return f"{type(drawn).__name__} as drawn, expected a mapping of names to numbers"
    return None


def quantize(image: Image, dtype: DTypeLike) -> Image:
    """Convert float32 in [0, 1] to uint8 or uint16, rounded half up; values outside are clipped.

    An image that has the type is returned unchanged.
    """
    if image.dtype == dtype:
        return image
    top = np.iinfo(dtype).max
    if not np.isfinite(image).all():
        raise ValueError("degrade: an LR image contains NaN or infinite values")
    out = np.minimum(np.maximum(image, np.float32(0)), np.float32(1))
    return np.floor(out * np.float32(top) + np.float32(0.5)).astype(dtype)


def check_degradation(degradation: Any, where: str, scale: int, channels: int) -> None:
    """Call a degradation with a small image. Raise ValueError if it breaks the rules of :class:`.base.Degradation`."""
    name = type(degradation).__name__
    if not hasattr(degradation, "__call__"):  # noqa: B004 - callable() would narrow the type
        raise ValueError(
            f"{where}: {name} is no degradation; give an option of the group degrade, or {{_target_: CLASS}}"
        )
    margin = getattr(degradation, "margin", None)
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise ValueError(f"{where}: {name}.margin is {margin!r}, expected an integer of at least 0, in HR pixels")
    if channels not in (1, 3):
        raise ValueError(f"{where}: a degradation takes images of 1 or 3 channels, not channels={channels}")
    ramp = np.linspace(0, 1, 24 * scale, dtype=np.float32)
    hr: Image = np.repeat((ramp[:, None] * ramp[::-1] * 2 % 1)[..., None], channels, axis=2)
    used = np.array(hr)
    first, again = (
        quantize(degrade(degradation, used, scale, Words(b"sr-train's check")).lr, np.uint16) for _ in range(2)
    )
    if not np.array_equal(used, hr):
        raise ValueError(f"{where}: {name} changes the HR image that it gets; work on a copy")
    if not np.array_equal(first, again):
        raise ValueError(
            f"{where}: {name} returns different images for equal words, so a resumed run would differ; "
            "take all random numbers from words"
        )
