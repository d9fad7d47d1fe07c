"""Operator that compresses as JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.degradation.arguments import check_probability, integers
from sr_train.data.degradation.context import Context
from sr_train.data.degradation.pixels import from_bytes, to_bytes, with_channels
from sr_train.data.degradation.words import Words

_FACTORS = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def encode_jpeg(image: NDArray[np.uint8], quality: int, subsampling: str = "4:2:0") -> NDArray[np.uint8]:
    """Return the bytes of a JPEG file of [H, W, 3] RGB or [H, W, 1] gray."""
    pixels: Any = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.shape[2] == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _FACTORS[subsampling]]
    done, data = cv2.imencode(".jpg", pixels, options)
    assert done, "OpenCV has no JPEG encoder"
    return cast("NDArray[np.uint8]", data)


def decode_jpeg(data: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return [H, W, channels] of the bytes of a JPEG file."""
    image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    return cast("NDArray[np.uint8]", cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if channels == 3 else with_channels(image))


class Jpeg:
    """Compress as JPEG and decompress, in memory (libjpeg-turbo in OpenCV). The image is rounded to 8 bits first.

    A gray image is compressed as a gray JPEG.

    Args:
        quality: [low, high] of the quality from 1 to 100 (libjpeg's scale); integers, equally likely.
        subsampling: resolution of the two color channels: 4:2:0 (half in both directions, as cameras and websites
            do), 4:2:2 (half horizontally), 4:4:4 (full).
        probability: probability that the image is compressed.
    """

    def __init__(
        self,
        *,
        quality: Sequence[int] = (30, 95),
        subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0",
        probability: float = 1.0,
    ) -> None:
        self.quality = integers("quality", quality, 1, 100)
        if subsampling not in _FACTORS:
            raise ValueError(f"subsampling={subsampling!r}: choose from {', '.join(_FACTORS)} (in quotes)")
        self.subsampling = subsampling
        self.probability = check_probability("probability", probability)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Compress and decompress [H, W, C]."""
        if not words.chance(self.probability):
            return image
        quality = self.quality[0] + words.integer(self.quality[1] - self.quality[0] + 1)
        context.note(quality=quality)
        data = encode_jpeg(to_bytes(image), quality, self.subsampling)
        return from_bytes(decode_jpeg(data, image.shape[2]))
