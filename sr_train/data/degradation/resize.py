"""Operators that resize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np

from sr_train.batch import Image
from sr_train.data.degradation.arguments import check_probability, interval, names, odd_sizes, weights
from sr_train.data.degradation.context import Context
from sr_train.data.degradation.kernels import shifted_gaussian
from sr_train.data.degradation.pixels import METHODS, clip, resize, with_channels
from sr_train.data.degradation.words import Words
from sr_train.resampling import imresize

AVERAGING = ("area", "bilinear", "bicubic")  #: the interpolations of the papers, equally likely

_WAYS = ("up", "down", "keep")


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class RandomResize:
    """Resize up, down or not at all, by a random factor and a random interpolation (Real-ESRGAN, section 3.1).

    Args:
        ways: relative frequencies of up, down and keep.
        factor: [low, high]. Down: uniform in [low, 1]. Up: uniform in [1, high]. Keep: 1.
        methods: interpolations, equally likely: area, bilinear, bicubic, nearest.
        relative_to: size that is multiplied by the factor: ``image`` is the size of the image, ``lr`` is the size of
            the LR patch.
    """

    def __init__(
        self,
        *,
        ways: Mapping[str, float],
        factor: Sequence[float],
        methods: Sequence[str] = AVERAGING,
        relative_to: Literal["image", "lr"] = "image",
    ) -> None:
        self.ways = weights("ways", ways, _WAYS)
        low, high = interval("factor", factor, 0.01, 10)
        if (low > 1 and self.ways.get("down")) or (high < 1 and self.ways.get("up")):
            raise ValueError(f"factor={list(factor)}: expected a LOW of at most 1 (down) and a HIGH of at least 1 (up)")
        self.factor = low, high
        self.methods = names("methods", methods, METHODS)
        if relative_to not in ("image", "lr"):
            raise ValueError(f"relative_to={relative_to!r}: choose from image, lr")
        self.relative_to = relative_to

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Resize [H, W, C]. Bicubic interpolation may overshoot [0, 1]."""
        way = words.choice(list(self.ways), list(self.ways.values()))
        factor = {"up": (1.0, self.factor[1]), "down": (self.factor[0], 1.0), "keep": (1.0, 1.0)}[way]
        drawn, method = words.uniform(*factor), words.choice(self.methods)
        context.note(way=way, factor=drawn, method=method)
        base = context.lr_size if self.relative_to == "lr" else image.shape[:2]
        return resize(image, _scaled((base[0], base[1]), drawn), method)


class ToSize:
    """Resize to the size of the LR patch, by a random interpolation. A degradation needs one as its last resize.

    Args:
        methods: interpolations, equally likely: area, bilinear, bicubic, nearest.
    """

    def __init__(self, *, methods: Sequence[str] = AVERAGING) -> None:
        self.methods = names("methods", methods, METHODS)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Resize [H, W, C] to [h, w, C]."""
        method = words.choice(self.methods)
        context.note(method=method)
        return resize(image, context.lr_size, method)


class Halve:
    """Halve the image and the scale of the operators that follow, for some scales only (BSRGAN, section 3.2).

    Args:
        probability: probability that the image is halved.
        scales: scales at which this is done; at others, the image is not changed.
        matlab: probability of MATLAB's bicubic reduction (with a low-pass filter); otherwise one of ``methods``.
        methods: interpolations, equally likely: area, bilinear, bicubic, nearest.
    """

    def __init__(
        self,
        *,
        probability: float = 0.25,
        scales: Sequence[int] = (4,),
        matlab: float = 0.5,
        methods: Sequence[str] = AVERAGING,
    ) -> None:
        self.probability = check_probability("probability", probability)
        if any(s % 2 for s in scales):
            raise ValueError(f"scales={list(scales)}: only even scales can be halved")
        self.scales = tuple(scales)
        self.matlab = check_probability("matlab", matlab)
        self.methods = names("methods", methods, METHODS)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Halve [H, W, C], and ``context.scale``."""
        if context.scale not in self.scales or not words.chance(self.probability):
            return image
        method = "matlab" if words.chance(self.matlab) else words.choice(self.methods)
        context.note(method=method)
        context.scale //= 2
        if method == "matlab":
            return clip(imresize(image, 0.5).astype(np.float32))
        return clip(resize(image, (image.shape[0] // 2, image.shape[1] // 2), method))


class Downsample:
    """Reduce by a random factor, or by the scale s with a shifted blur and every s-th pixel (BSRGAN, section 3.2).

    Interpolation: the factor is 1 / u, u uniform in [factor_low, factor_per_scale * s]. Shifted: a Gaussian of
    standard deviation uniform in [sigma_low, sigma_per_scale * s] pixels, whose center is (s - 1) / 2 pixels to the
    right of and below the middle, then pixels 0, s, 2 s, ... Without the shift, the LR image would move by that much.

    Args:
        shifted: probability of the shifted blur.
        factor_low: smallest u.
        factor_per_scale: largest u, divided by the scale.
        sigma_low: smallest standard deviation in pixels.
        sigma_per_scale: largest standard deviation in pixels, divided by the scale.
        size: side of the shifted kernel in pixels, odd.
        methods: interpolations, equally likely: area, bilinear, bicubic, nearest.
    """

    def __init__(
        self,
        *,
        shifted: float = 0.25,
        factor_low: float = 1.0,
        factor_per_scale: float = 2.0,
        sigma_low: float = 0.1,
        sigma_per_scale: float = 0.6,
        size: int = 25,
        methods: Sequence[str] = AVERAGING,
    ) -> None:
        self.shifted = check_probability("shifted", shifted)
        if not (0 < factor_low <= 2 * factor_per_scale and 0 < sigma_low <= 2 * sigma_per_scale):
            raise ValueError(
                f"factor_low={factor_low}, factor_per_scale={factor_per_scale}, sigma_low={sigma_low}, sigma_per_scale="
                f"{sigma_per_scale}: expected numbers above 0, with each low at most twice the number per scale"
            )
        self.factor = factor_low, factor_per_scale
        self.sigma = sigma_low, sigma_per_scale
        self.size = odd_sizes("size", (size, size))[0]
        self.methods = names("methods", methods, METHODS)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Reduce [H, W, C]."""
        scale = context.scale
        if words.chance(self.shifted):
            sigma = words.uniform(self.sigma[0], self.sigma[1] * scale)
            context.note(method="shifted", sigma=sigma)
            kernel = shifted_gaussian(self.size, sigma, (scale - 1) / 2).astype(np.float32)
            out = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
            return clip(with_channels(out)[::scale, ::scale])
        factor, method = words.uniform(self.factor[0], self.factor[1] * scale), words.choice(self.methods)
        context.note(method=method, factor=1 / factor)
        return clip(resize(image, _scaled((image.shape[0], image.shape[1]), 1 / factor), method))
