"""Operators that add noise. Units of sigma: 1/255 of the range of the image, so that 10 is 10 gray levels of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.degradation.arguments import check_probability, integers, interval, weights
from sr_train.data.degradation.context import Context
from sr_train.data.degradation.pixels import clip, from_bytes, luma, to_bytes
from sr_train.data.degradation.words import Words


def _noisy(image: Image, noise: NDArray[np.float32], factor: float) -> Image:
    """Return the image plus noise * factor, limited to [0, 1]. The array of the noise is used for the result."""
    noise *= np.float32(factor)
    if noise.shape == image.shape:
        noise += image
        return clip(noise)
    return clip(image + noise)


class GaussianNoise:
    """Add Gaussian noise, independent for every pixel (Real-ESRGAN, section 3.1). The result is limited to [0, 1].

    Args:
        sigma: [low, high] of the standard deviation in 1/255, uniform.
        gray: probability of gray noise (equal in all channels); otherwise the channels are independent.
        probability: probability that noise is added.
    """

    def __init__(self, *, sigma: Sequence[float], gray: float = 0.4, probability: float = 1.0) -> None:
        self.sigma = interval("sigma", sigma, 0)
        self.gray = check_probability("gray", gray)
        self.probability = check_probability("probability", probability)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Add noise to [H, W, C]."""
        if not words.chance(self.probability):
            return image
        sigma, gray = words.uniform(*self.sigma), words.chance(self.gray)
        context.note(sigma=sigma, color="gray" if gray else "color")
        height, width, channels = image.shape
        return _noisy(image, words.normal((height, width, 1 if gray else channels)), sigma / 255)


class PoissonNoise:
    """Add Poisson (shot) noise (Real-ESRGAN, section 3.1). The result is limited to [0, 1].

    x is the image, rounded to 8 bits; for gray noise its luma. The noise is a * (Poisson(x * v) / v - x), with v the
    number of different levels in x, rounded up to a power of two. Its standard deviation is a * sqrt(x / v).

    Args:
        scale: [low, high] of a, uniform.
        gray: probability of gray noise (equal in all channels); otherwise the channels are independent.
        probability: probability that noise is added.
    """

    def __init__(self, *, scale: Sequence[float], gray: float = 0.4, probability: float = 1.0) -> None:
        self.scale = interval("scale", scale, 0)
        self.gray = check_probability("gray", gray)
        self.probability = check_probability("probability", probability)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Add noise to [H, W, C]."""
        if not words.chance(self.probability):
            return image
        scale, gray = words.uniform(*self.scale), words.chance(self.gray)
        levels = to_bytes(luma(image) if gray else image)
        different = int(np.count_nonzero(np.bincount(levels.ravel(), minlength=256)))
        rate = 2 ** (different - 1).bit_length()  # of a white pixel
        context.note(scale=scale, rate=rate, color="gray" if gray else "color")
        x = from_bytes(levels)
        noise = words.poisson(x * np.float32(rate))
        noise *= np.float32(1 / rate)
        noise -= x
        return _noisy(image, noise, scale)


class GeneralNoise:
    """Add Gaussian noise with a covariance between the channels (BSRGAN, section 3.3). The result is limited to [0, 1].

    color: independent channels of standard deviation sigma. gray: equal in all channels. correlated: covariance
    L^2 U diag(d) U^T, with d uniform in [0, 1)^3 and U a uniformly random rotation. For a gray image, correlated noise
    has the variance L^2 d.

    Args:
        kinds: relative frequencies of color, gray, correlated.
        sigma: [low, high] of sigma in 1/255; integers, equally likely.
        correlated_sigma: L in 1/255.
        probability: probability that noise is added.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, float],
        sigma: Sequence[int] = (2, 25),
        correlated_sigma: float = 25.0,
        probability: float = 1.0,
    ) -> None:
        self.kinds = weights("kinds", kinds, ("color", "gray", "correlated"))
        self.sigma = integers("sigma", sigma, 0, 255)
        self.correlated_sigma = interval("correlated_sigma", (0, correlated_sigma), 0)[1]
        self.probability = check_probability("probability", probability)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Add noise to [H, W, C]."""
        if not words.chance(self.probability):
            return image
        height, width, channels = image.shape
        kind = words.choice(list(self.kinds), list(self.kinds.values()))
        context.note(color=kind)
        if kind == "correlated":
            root = self._root(words, channels)
            context.note(sigma=float((root**2).sum() / channels) ** 0.5 * self.correlated_sigma)
            noise = words.normal((height, width, channels)) @ root.astype(np.float32)
            return _noisy(image, noise, self.correlated_sigma / 255)
        sigma = self.sigma[0] + words.integer(self.sigma[1] - self.sigma[0] + 1)
        context.note(sigma=sigma)
        return _noisy(image, words.normal((height, width, 1 if kind == "gray" else channels)), sigma / 255)

    @staticmethod
    def _root(words: Words, channels: int) -> NDArray[np.float64]:
        """Return A with A^T A = U diag(d) U^T, so that the noise z A has this covariance."""
        deviations = words.uniforms((3, 1)) ** 0.5
        return deviations[:1] if channels == 1 else deviations * rotation(words.normal((4,)).astype(np.float64))


def rotation(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation [3, 3] of a quaternion (w, x, y, z) of any length; four normal numbers give uniform rotations."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
