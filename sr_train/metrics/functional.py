"""Formulas of PSNR and SSIM for 8-bit values, computed in float64. Colors and borders are chosen in ``protocol.py``."""

from __future__ import annotations

import torch

WINDOW = 11  #: side of SSIM's window in pixels

_SIGMA = 1.5


def quantize(image: torch.Tensor) -> torch.Tensor:
    """Round pixels as in a saved 8-bit file: float in [0, 1] (clamped) or uint8 -> float64 with integer values 0 to 255."""
    if image.dtype == torch.uint8:
        return image.double()
    return torch.floor(image.double().clamp(0, 1) * 255 + 0.5)


def _check(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images have different shapes: {tuple(a.shape)} and {tuple(b.shape)}")


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(255^2 / mse), with mse over all pixels and channels.

    Args:
        a: [C, H, W], values in [0, 255].
        b: image with the same shape.

    Returns:
        PSNR in dB; infinity for equal images.
    """
    _check(a, b)
    return psnr_of(torch.mean((a.double() - b.double()) ** 2))


def psnr_of(mse: torch.Tensor) -> float:
    """Return PSNR in dB of a mean squared error of values in [0, 255]."""
    return float(10 * torch.log10(255.0**2 / mse))


def gaussian(length: int, sigma: float) -> list[float]:
    """Return a Gaussian window of ``length`` pixels that sums to one."""
    offsets = torch.arange(length, dtype=torch.float64) - length // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return [float(weight) for weight in weights / weights.sum()]


def blur(x: torch.Tensor, kernel: list[float], axis: int) -> torch.Tensor:
    """Apply a window (a kernel that sums to one) along one axis, only where the window lies inside the image."""
    length = x.shape[axis] - len(kernel) + 1
    out = x.narrow(axis, 0, length) * kernel[0]
    for k in range(1, len(kernel)):
        out.add_(x.narrow(axis, k, length), alpha=kernel[k])
    return out


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the structural similarity of two images (Wang et al. 2004), the mean over pixels and channels.

    The window is an 11x11 Gaussian with sigma 1.5. Only pixels whose window lies inside the image are used.

    Args:
        a: [C, H, W], values in [0, 255], at least 11x11 pixels.
        b: image with the same shape.
    """
    return float(ssim_map(a, b).mean())


def ssim_map(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return SSIM of each pixel whose window lies inside the image: [C, H, W] each -> [C, H - 10, W - 10] float64."""
    _check(a, b)
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs an image of at least {WINDOW}x{WINDOW} pixels without its ignored border, got {tuple(a.shape[-2:])}"
        )
    kernel = gaussian(WINDOW, _SIGMA)
    a, b = a.double(), b.double()
    moments = torch.stack([a, b, a * a, b * b, a * b])
    mean_a, mean_b, square_a, square_b, product = blur(blur(moments, kernel, -2), kernel, -1)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    variance = square_a - mean_a**2 + square_b - mean_b**2
    structure = (2 * (product - mean_a * mean_b) + c2) / (variance + c2)
    return luminance * structure
