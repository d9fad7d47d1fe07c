"""Operators that blur: kernels of Real-ESRGAN and of BSRGAN, and the sinc filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi

from sr_train.batch import Image
from sr_train.data.degradation.arguments import check_probability, interval, odd_sizes, weights
from sr_train.data.degradation.context import Context
from sr_train.data.degradation.kernels import apply_gaussian, apply_kernel, gaussian, plateau, sinc
from sr_train.data.degradation.words import Words

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc")


def _draw_size(sizes: tuple[int, int], words: Words) -> int:
    return sizes[0] + 2 * words.integer((sizes[1] - sizes[0]) // 2 + 1)


def _draw_beta(bounds: tuple[float, float], words: Words) -> float:
    """Draw from [low, 1] and [1, high] with probability 1/2 each, as the authors' code does."""
    low, high = bounds
    if low <= 1 <= high:
        low, high = (low, 1.0) if words.chance(0.5) else (1.0, high)
    return words.uniform(low, high)


class MixedBlur:
    """Blur by a kernel of a random kind, size and shape (Real-ESRGAN: Wang et al. 2021, sections 3.1 and 3.3).

    Kinds: Gaussian exp(-q/2), generalized Gaussian exp(-q^beta / 2), plateau 1 / (1 + q^beta), each isotropic or
    anisotropic, where q = x^T S^-1 x and S has the standard deviations sigma_x, sigma_y and a rotation; and ``sinc``, the
    circular low-pass filter, which rings as over-sharpened images do. Images are mirrored at the border.

    Args:
        kinds: relative frequencies of the kinds: iso, aniso, generalized_iso, generalized_aniso, plateau_iso,
            plateau_aniso, sinc.
        probability: probability that the image is blurred.
        size: [smallest, largest] side of the kernel in pixels; odd sizes, equally likely.
        sigma: [low, high] of the standard deviations in pixels, uniform; anisotropic kernels draw two.
        beta_generalized: [low, high] of beta; with probability 1/2 uniform below 1, otherwise uniform above 1.
        beta_plateau: the same for plateau kernels. The authors' [1, 2] therefore gives 1 half of the time.
        cutoff: [low, high] of the sinc filter's cutoff, as a fraction of the Nyquist frequency (pi radians per pixel).
        cutoff_small: the same for kernels of fewer than 13 pixels, which cannot hold the rings of low frequencies.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, float],
        probability: float = 1.0,
        size: Sequence[int] = (7, 21),
        sigma: Sequence[float] = (0.2, 3.0),
        beta_generalized: Sequence[float] = (0.5, 4.0),
        beta_plateau: Sequence[float] = (1.0, 2.0),
        cutoff: Sequence[float] = (1 / 5, 1.0),
        cutoff_small: Sequence[float] = (1 / 3, 1.0),
    ) -> None:
        self.kinds = weights("kinds", kinds, KINDS)
        self.probability = check_probability("probability", probability)
        self.size = odd_sizes("size", size)
        self.sigma = interval("sigma", sigma, 0.01)
        self.beta_generalized = interval("beta_generalized", beta_generalized, 0.01)
        self.beta_plateau = interval("beta_plateau", beta_plateau, 0.01)
        self.cutoff = interval("cutoff", cutoff, 0.01, 1.0)
        self.cutoff_small = interval("cutoff_small", cutoff_small, 0.01, 1.0)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Blur [H, W, C]."""
        if not words.chance(self.probability):
            return image
        kind = words.choice(list(self.kinds), list(self.kinds.values()))
        size = _draw_size(self.size, words)
        context.note(kernel=kind, size=size)
        if kind == "sinc":
            cutoff = words.uniform(*(self.cutoff_small if size < 13 else self.cutoff))
            context.note(cutoff=cutoff)
            return apply_kernel(image, sinc(size, cutoff * pi))
        return self._gaussian_like(image, kind, size, words, context)

    def _gaussian_like(self, image: Image, kind: str, size: int, words: Words, context: Context) -> Image:
        sigma_x = sigma_y = words.uniform(*self.sigma)
        angle = 0.0
        context.note(sigma=sigma_x)
        if kind.endswith("aniso"):
            sigma_y, angle = words.uniform(*self.sigma), words.uniform(-pi, pi)
            context.note(sigma_y=sigma_y, angle=angle)
        if kind == "iso":
            return apply_gaussian(image, size, sigma_x)
        if kind == "aniso":
            return apply_kernel(image, gaussian(size, sigma_x, sigma_y, angle))
        shape, bounds = (
            (gaussian, self.beta_generalized) if kind.startswith("generalized") else (plateau, self.beta_plateau)
        )
        beta = _draw_beta(bounds, words)
        context.note(beta=beta)
        return apply_kernel(image, shape(size, sigma_x, sigma_y, angle, beta))


class ScaledBlur:
    """Blur by a Gaussian kernel whose width grows with the scale s (BSRGAN: Zhang et al. 2021, section 3.1).

    Isotropic: standard deviation u * (sigma_base + sigma_per_scale * s). Anisotropic: the two eigenvalues of the
    covariance (variances, in square pixels) are u * (variance_base + variance_per_scale * s), rotated by an angle in
    [0, pi). Each u is uniform in [0, 1). Images are mirrored at the border.

    Args:
        probability: probability that the image is blurred.
        size: [smallest, largest] side of the kernel in pixels; odd sizes, equally likely.
        isotropic: probability of an isotropic kernel.
        sigma_base: largest standard deviation in pixels, without the part that grows with the scale.
        sigma_per_scale: the part that is multiplied by the scale.
        variance_base: largest variance in square pixels, without the part that grows with the scale.
        variance_per_scale: the part that is multiplied by the scale.
    """

    def __init__(
        self,
        *,
        probability: float = 1.0,
        size: Sequence[int] = (7, 25),
        isotropic: float = 0.5,
        sigma_base: float = 2.0,
        sigma_per_scale: float = 0.2,
        variance_base: float = 4.0,
        variance_per_scale: float = 1.0,
    ) -> None:
        self.probability = check_probability("probability", probability)
        self.size = odd_sizes("size", size)
        self.isotropic = check_probability("isotropic", isotropic)
        if min(sigma_base, sigma_per_scale, variance_base, variance_per_scale) < 0:
            raise ValueError("sigma_base, sigma_per_scale, variance_base and variance_per_scale must not be negative")
        self.sigma = (sigma_base, sigma_per_scale)
        self.variance = (variance_base, variance_per_scale)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Blur [H, W, C]."""
        if not words.chance(self.probability):
            return image
        size = _draw_size(self.size, words)
        if words.chance(self.isotropic):
            sigma = max(words.uniform(0, self.sigma[0] + self.sigma[1] * context.scale), 0.01)
            context.note(kernel="iso", size=size, sigma=sigma)
            return apply_gaussian(image, size, sigma)
        most = self.variance[0] + self.variance[1] * context.scale
        sigma_x, sigma_y = (max(words.uniform(0, most), 1e-4) ** 0.5 for _ in range(2))
        angle = words.uniform(0, pi)
        context.note(kernel="aniso", size=size, sigma=sigma_x, sigma_y=sigma_y, angle=angle)
        return apply_kernel(image, gaussian(size, sigma_x, sigma_y, angle))


class SincFilter:
    """Circular low-pass filter c / (2 pi r) J1(c r), which adds ringing and overshoot (Wang et al. 2021, section 3.3).

    Args:
        probability: probability that the image is filtered.
        size: [smallest, largest] side of the kernel in pixels; odd sizes, equally likely.
        cutoff: [low, high] of c as a fraction of the Nyquist frequency (pi radians per pixel), uniform.
    """

    def __init__(
        self, *, probability: float = 1.0, size: Sequence[int] = (7, 21), cutoff: Sequence[float] = (1 / 3, 1.0)
    ) -> None:
        self.probability = check_probability("probability", probability)
        self.size = odd_sizes("size", size)
        self.cutoff = interval("cutoff", cutoff, 0.01, 1.0)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Filter [H, W, C]. Values may overshoot [0, 1]."""
        if not words.chance(self.probability):
            return image
        size, cutoff = _draw_size(self.size, words), words.uniform(*self.cutoff)
        context.note(size=size, cutoff=cutoff)
        return apply_kernel(image, sinc(size, cutoff * pi))
