"""Size of a result that differs from the network's output: ``size=``, ``longest=`` and ``outscale=``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sr_train.console import UsageError

_LARGEST = 1 << 20  # pixels of a side


@dataclass(frozen=True)
class OutputSize:
    """Requested size of results. The network's output is resampled to it by MATLAB's bicubic ``imresize``.

    At most one of the three is given; with none the result is the network's output.

    Args:
        size: (width, height) in pixels.
        longest: longer side in pixels; the shape is kept.
        outscale: pixels of the result per pixel of the input along a side.
    """

    size: tuple[int, int] | None = None
    longest: int | None = None
    outscale: float | None = None

    def of(self, height: int, width: int, scale: int) -> tuple[int, int] | None:
        """Return (height, width) of the result for an input of height x width pixels; None for the network's own output.

        Raises ValueError if ``size`` would change the shape of the image by more than the rounding of a side.
        """
        if self.size is not None:
            found = self.size[1], self.size[0]
            self._check_shape(height, width)
        elif self.longest is not None:
            factor = self.longest / max(height, width)
            found = _round(height * factor), _round(width * factor)
        elif self.outscale is not None:
            found = _round(height * self.outscale), _round(width * self.outscale)
        else:
            return None
        return None if found == (height * scale, width * scale) else found

    def _check_shape(self, height: int, width: int) -> None:
        assert self.size is not None
        wide, high = self.size
        by_width, by_height = _round(height * wide / width), _round(width * high / height)
        if abs(by_width - high) > 1 and abs(by_height - wide) > 1:
            raise ValueError(
                f"size={wide}x{high} would change the shape of an image of {width}x{height} pixels; "
                f"give size={wide}x{by_width}, size={by_height}x{high} or longest={max(wide, high)}"
            )


def _round(value: float) -> int:
    return max(1, math.floor(value + 0.5))


def output_size(size: object = None, longest: object = None, outscale: object = None) -> OutputSize:
    """Check the three options as typed and return the size. Raises UsageError for a wrong value or several options.

    ``size`` is a string ``WIDTHxHEIGHT``, or a tuple (width, height).
    """
    given = {k: v for k, v in (("size", size), ("longest", longest), ("outscale", outscale)) if v is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'{k}={v}' for k, v in given.items())}: give only one of them")
    if size is not None:
        match = re.fullmatch(r"(\d+)[xX\u00d7](\d+)", size) if isinstance(size, str) else None
        sides = (int(match[1]), int(match[2])) if match else size
        if not (isinstance(sides, tuple) and len(sides) == 2 and all(_is_side(n) for n in sides)):
            raise UsageError(f"size={size!r}: expected WIDTHxHEIGHT in pixels, e.g. size=1920x1080")
        return OutputSize(size=sides)
    if longest is not None and not _is_side(longest):
        raise UsageError(f"longest={longest!r}: expected an integer of at least 1, the longer side in pixels")
    if outscale is not None and (
        isinstance(outscale, bool) or not isinstance(outscale, (int, float)) or not 0 < outscale <= 64
    ):
        raise UsageError(f"outscale={outscale!r}: expected a positive number of at most 64, e.g. outscale=2")
    return OutputSize(longest=longest, outscale=outscale)  # pyright: ignore[reportArgumentType]


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST
