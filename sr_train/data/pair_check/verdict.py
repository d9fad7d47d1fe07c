"""Verdict on one pair: the kernel that made LR from HR, or the most likely fault of the pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from sr_train.batch import Image
from sr_train.data.images import to_rgb, to_uint8
from sr_train.data.pair_check.faults import luma, reduced, smoothness
from sr_train.data.pair_check.kernels import Reduce, reductions, uncropped_reductions
from sr_train.data.pair_check.windows import psnr, score

Kind = Literal[
    "kernel", "unclear", "degraded", "jpeg",  # not an error
    "size", "stretched", "rotated", "shifted", "bgr", "gray", "range", "other",
]  # fmt: skip

GOOD = 45.0  #: dB; above, LR was made by the kernel
_NEAR = 52.0  # dB; below, another kernel of nearly the same shape is possible
_TIE = 1.5  # dB; kernels that are closer to each other cannot be told apart unless one is identical
_MANY = 6  # at most 5 kernels are the same by definition: those that take the center pixel at x3


class PairVerdict(NamedTuple):
    """Result of :func:`.check.check_pair`. It is small and can be pickled.

    Args:
        kind: ``kernel`` (made by a known kernel), ``unclear`` (constant or too smooth to tell), ``degraded`` (aligned with
            HR, but made by no known kernel: realistic sets), ``jpeg`` (JPEG-compressed after the reduction), or a fault:
            ``size``, ``stretched`` (HR was not cropped to a multiple of the scale), ``rotated`` (also flipped, transposed),
            ``shifted``, ``bgr``, ``gray``, ``range`` (another gamma or range), ``other`` (another image).
        text: one line for a message, e.g. "made by MATLAB bicubic, arithmetic=float (identical)".
        error: the pair is wrong; false for ``kernel``, ``unclear``, ``degraded`` and ``jpeg``.
        kernels: names of the kernels that fit best, best first; several if they cannot be told apart.
        psnr: PSNR in dB of the first of them, infinite if identical; after the fault was undone, if one was found.
        scores: PSNR in dB between LR and HR reduced by each known kernel, for the pair as given, best first.
        change: the fault in words that agree for all pairs of a set, e.g. "shifted right by 1 LR pixel"; empty without one.
    """

    kind: Kind
    text: str
    error: bool
    kernels: tuple[str, ...]
    psnr: float
    scores: Mapping[str, float]
    change: str = ""


def decibel(value: float) -> str:
    """Return "identical" or a PSNR with its unit."""
    return "identical" if value == float("inf") else f"{value:.1f} dB"


def best_kernels(scores: Mapping[str, float]) -> tuple[tuple[str, ...], float]:
    """Return the kernels that explain LR best and cannot be told apart, and their PSNR. ``scores`` is sorted, best first."""
    top = next(iter(scores.values()), float("-inf"))
    near = 0.0 if top == float("inf") else _TIE
    return tuple(name for name, value in scores.items() if value == top or value >= top - near), top


def one_of(kernels: tuple[str, ...]) -> str:
    """Return the name of a kernel, or "one of A, B"."""
    if len(kernels) == 1:
        return kernels[0]
    more = f"; ... ({len(kernels)} in all)" if len(kernels) > _MANY else ""
    return f"one of {'; '.join(kernels[:_MANY])}{more}"


def made_by(scores: Mapping[str, float]) -> str:
    """Return "made by KERNEL (PSNR)"."""
    kernels, value = best_kernels(scores)
    near = " or a kernel very close to it" if value < _NEAR and len(kernels) == 1 else ""
    return f"made by {one_of(kernels)}{near} ({decibel(value)})"


def same_kind(hr: Image, lr: Image) -> tuple[Image, Image]:
    """Return HR and LR without alpha, with the same depth and the same number of channels; a gray one is repeated."""
    if hr.dtype != lr.dtype:
        hr, lr = to_uint8(hr), to_uint8(lr)
    hr, lr = hr[..., :3], lr[..., :3]
    if hr.shape[2] != lr.shape[2]:
        hr, lr = to_rgb(hr), to_rgb(lr)
    return hr, lr


def shown(image: Image) -> str:
    """Return WIDTHxHEIGHT."""
    return f"{image.shape[1]}x{image.shape[0]}"


def kernel_verdict(lr: Image, scores: Mapping[str, float]) -> PairVerdict | None:
    """Return the verdict if a known kernel made LR, or if LR is too smooth to tell; otherwise None."""
    kernels, value = best_kernels(scores)
    if value < GOOD:
        return None
    if len(kernels) > _MANY or (value < float("inf") and smoothness(luma(lr)) > GOOD):
        text = "cannot tell how LR was made: the image is too smooth, all kernels give nearly the same"
        return PairVerdict("unclear", text, False, kernels, value, scores)
    return PairVerdict("kernel", made_by(scores), False, kernels, value, scores)


def _uncropped(hr: Image, lr: Image, scale: int) -> Mapping[str, float]:
    """Return the PSNR of reductions of a whole HR image, whose size is no multiple of the scale."""
    top = float(np.iinfo(lr.dtype).max)
    scores: dict[str, float] = {}
    for name, reduce in uncropped_reductions(scale).items():
        made = reduce(hr, (lr.shape[0], lr.shape[1]))
        scores[name] = psnr(float(np.square(made.astype(np.float32) - lr).mean(dtype=np.float64)), top)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def stretched_verdict(hr: Image, lr: Image, scale: int, scores: Mapping[str, float]) -> PairVerdict | None:
    """Return the verdict if LR was reduced from the whole HR image instead of from HR cropped to a multiple of the scale."""
    if not (hr.shape[0] % scale or hr.shape[1] % scale):
        return None
    found = _uncropped(hr, lr, scale)
    kernels, value = best_kernels(found)
    if value < GOOD:
        return None
    change = f"reduced from HR that was not cropped to a multiple of {scale}"
    text = (
        f"{change}: HR {shown(hr)} became LR {shown(lr)}, {made_by(found)}; so LR drifts against HR; "
        f"make LR again from HR cropped at the bottom and right"
    )
    return PairVerdict("stretched", text, True, kernels, value, scores, change)


def size_verdict(hr: Image, lr: Image, scale: int, known: Mapping[str, Reduce]) -> PairVerdict:
    """Return the verdict on a pair whose sizes do not fit."""
    height, width = lr.shape[:2]
    up, down = tuple(-(-n // scale) for n in hr.shape[:2]), tuple(n // scale for n in hr.shape[:2])
    what = f"LR is {shown(lr)}, HR is {shown(hr)}, which at scale {scale} needs LR of {down[1]}x{down[0]}"
    if all(n in pair for n, pair in zip((height, width), zip(up, down, strict=True), strict=True)):
        found = _uncropped(hr, lr, scale)
        kernels, value = best_kernels(found)
        made = f", {made_by(found)}" if value >= GOOD else ""
        text = f"{what}: the size of LR was rounded up{made}; make LR again from HR cropped to a multiple of {scale}"
        return PairVerdict("size", text, True, kernels if made else (), value, {}, "the size of LR was rounded up")
    if 0 <= down[0] - height <= 24 and 0 <= down[1] - width <= 24:
        scores = score(hr[: height * scale, : width * scale], lr, scale, known)
        kernels, value = best_kernels(scores)
        if value >= GOOD:
            change = "LR was made from a smaller crop of HR"
            text = f"{what}: {change}, {width * scale}x{height * scale} from the top left; crop HR to it"
            return PairVerdict("size", text, True, kernels, value, scores, change)
    if lr.shape[:2] == hr.shape[:2]:
        text = f"{what}: LR has the size of HR (upscaled already, or HR instead of LR)"
        return PairVerdict("size", text, True, (), 0.0, {}, "LR has the size of HR")
    fits = [k for k in range(1, 17) if (hr.shape[0] // k, hr.shape[1] // k) == (height, width)]
    hint = f": is scale={fits[0]} right?" if fits else ": probably the LR of another image"
    return PairVerdict("size", what + hint, True, (), 0.0, {}, f"LR of scale {fits[0]}" if fits else "sizes differ")


def small(hr: Image, size: tuple[int, int]) -> Image:
    """Return HR reduced by averaging, [h, w, C]."""
    return reduced(hr, size).reshape(*size, hr.shape[2])


def known_kernels(scale: int) -> dict[str, Reduce]:
    """Return the known reductions of a scale. Raises ValueError for a scale below 1."""
    if scale < 1:
        raise ValueError(f"scale={scale}: expected an integer of at least 1")
    return reductions(scale)
