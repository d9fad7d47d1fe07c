"""TODO sr_train.data.store.reader.scan."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """What building will take, found from the files' headers."""

    images: int
    pixels: int  #: bytes of pixels in all scales
    free: int  #: bytes free where the store will stand
