"""Interface of degradations: HR patch -> LR patch, with random choices that depend on a key only."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sr_train.batch import Image
from sr_train.data.degradation.words import Words

__all__ = ["Degradation", "Degraded", "Words", "check_image"]


class Degraded(NamedTuple):
    """Degraded patch, and what was drawn for it."""

    lr: Image  #: float32 [H / scale, W / scale, C] in [0, 1]
    drawn: dict[str, float | str]  #: choices in order, flat, by name, e.g. {"blur_1": "iso", "blur_1.sigma": 1.3}


class Degradation(Protocol):
    """Protocol of a degradation: makes the LR patch of an HR patch."""

    margin: int
    """HR pixels around a patch that should be degraded with it, so that the patch's borders do not matter.

    The caller rounds it up to a multiple of the scale and crops the LR patch afterwards.
    """

    def __call__(self, hr: Image, scale: int, words: Words) -> Degraded:
        """Degrade an HR patch.

        Args:
            hr: float32 [H, W, C] in [0, 1]; H and W are multiples of ``scale``; C is 1 (gray) or 3 (RGB). It is not
                changed.
            scale: HR pixels per LR pixel.
            words: random numbers of this sample.
        """
        ...


def check_image(hr: Image, scale: int) -> None:
    """Raise a ValueError if a patch cannot be degraded: number of channels, type, or size."""
    if hr.ndim != 3 or hr.shape[2] not in (1, 3):
        also = ": remove the alpha channel, with channels=3" if hr.ndim == 3 and hr.shape[2] == 4 else ""
        raise ValueError(f"degrade= takes gray (1 channel) and RGB (3) images, not the shape {list(hr.shape)}{also}")
    if hr.dtype != "float32":
        raise ValueError(f"degrade= takes float32 in [0, 1], not {hr.dtype}")
    if hr.shape[0] % scale or hr.shape[1] % scale:
        raise ValueError(
            f"degrade= takes a height and width that are multiples of scale={scale}, not {hr.shape[0]} x {hr.shape[1]}"
        )
