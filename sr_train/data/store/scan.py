"""Estimate of a store before it is written."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """What building will take, found from the files' headers."""

    images: int
    pixels: int  #: bytes of pixels in all scales
    free: int  #: bytes free where the store will stand
