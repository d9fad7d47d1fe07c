"""Verdict on one pair: the kernel that made LR from HR, or the most likely fault of the pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from sr_train.batch import Image

Kind = Literal[
    "kernel", "unclear", "degraded",  # not an error
    "size", "stretched", "rotated", "shifted", "bgr", "gray", "range", "jpeg", "other",
]  # fmt: skip


class PairVerdict(NamedTuple):
    """Result of :func:`check_pair`. It is small and can be pickled.

    Args:
        kind: ``kernel`` (made by a known kernel), ``unclear`` (constant or too smooth to tell), ``degraded`` (aligned with
            HR, but made by no known kernel: realistic sets), or a fault: ``size``, ``stretched`` (HR was not cropped to a
            multiple of the scale), ``rotated`` (also flipped, transposed), ``shifted``, ``bgr``, ``gray``, ``range`` (another
            gamma or 16-235), ``jpeg``, ``other`` (another image).
        text: one line for a message, e.g. "made by MATLAB bicubic, arithmetic=float (identical)".
        error: the pair is wrong; it is false for ``kernel``, ``unclear`` and ``degraded``.
        kernels: names of the kernels that fit best, best first; several if they cannot be told apart.
        psnr: PSNR in dB of the first of them, infinite if identical; after the fault was undone, if one was found.
        scores: PSNR in dB between LR and HR reduced by each known kernel, for the pair as given.
        change: value of the fault to compare over a set, e.g. "shifted right by 1 LR pixel"; empty without one.
    """

    kind: Kind
    text: str
    error: bool
    kernels: tuple[str, ...]
    psnr: float
    scores: Mapping[str, float]
    change: str = ""


def check_pair(hr: Image, lr: Image, scale: int, *, orientation: int = 1) -> PairVerdict:
    """Compare LR with HR reduced by the known kernels.

    Args:
        hr: [H, W, C] uint8 or uint16, C = 1, 3 or 4 (alpha is ignored).
        lr: [h, w, C] uint8 or uint16.
        scale: HR pixels per LR pixel.
        orientation: EXIF orientation of the HR file, 1 to 8, to recognize LR that a program turned by it.
    """
    raise NotImplementedError
