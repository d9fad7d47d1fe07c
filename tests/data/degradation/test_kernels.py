import math

import numpy as np
import pytest
from scipy import ndimage, special, stats

from sr_train.data.degradation.kernels import (
    apply_gaussian,
    apply_kernel,
    bessel_j1,
    gaussian,
    plateau,
    shifted_gaussian,
    sinc,
    trimmed,
)

SHAPES = [(7, 0.4, 0.4, 0.0), (21, 2.5, 0.7, 0.9), (13, 0.2, 3.0, -2.4), (9, 1.3, 1.1, math.pi / 2)]


def forms(size, sigma_x, sigma_y, angle):
    """Compute x^T S^-1 x pixel by pixel, with S = R diag R^T inverted by numpy."""
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(rotation @ np.diag([sigma_x**2, sigma_y**2]) @ rotation.T)
    points = [[np.array([j - size // 2, i - size // 2]) for j in range(size)] for i in range(size)]
    return np.array([[p @ inverse @ p for p in row] for row in points])


@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_kernels_are_the_normal_density(shape):
    size, sigma_x, sigma_y, angle = shape
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = rotation @ np.diag([sigma_x**2, sigma_y**2]) @ rotation.T
    y, x = np.mgrid[:size, :size] - size // 2
    density = stats.multivariate_normal(cov=covariance).pdf(np.dstack([x, y]))
    np.testing.assert_allclose(gaussian(*shape), density / density.sum(), atol=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_generalized_and_plateau_kernels_follow_their_formulas(shape, beta):
    form = forms(*shape)
    for kernel, expected in (
        (gaussian(*shape, beta), np.exp(-0.5 * form**beta)),
        (plateau(*shape, beta), 1 / (form**beta + 1)),
    ):
        np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-12)


def test_bessel_function_equals_scipy():
    x = np.linspace(0, 230, 4001)
    np.testing.assert_allclose(bessel_j1(x), special.j1(x), atol=1e-13)


@pytest.mark.parametrize(("size", "cutoff"), [(7, 3.1), (21, math.pi / 5), (13, 1.0)])
def test_sinc_kernels_follow_their_formula(size, cutoff):
    y, x = np.mgrid[:size, :size] - size // 2
    r = np.maximum(np.hypot(x, y), 1e-9)
    expected = cutoff * special.j1(cutoff * r) / (2 * math.pi * r)
    np.testing.assert_allclose(sinc(size, cutoff), expected / expected.sum(), atol=1e-12)


def test_the_sinc_filter_passes_frequencies_below_its_cutoff_in_every_direction():
    cutoff = 0.4 * math.pi
    kernel = np.zeros((256, 256))
    kernel[:101, :101] = sinc(101, cutoff)
    response = np.abs(np.fft.fft2(kernel))
    w = 2 * math.pi * np.fft.fftfreq(256)
    radius = np.hypot(w[:, None], w[None])
    assert response[radius < 0.85 * cutoff].min() > 0.9
    assert response[radius > 1.15 * cutoff].max() < 0.1
    assert response[np.abs(radius - cutoff) < 0.01].mean() == pytest.approx(0.5, abs=0.05)


def test_shifted_kernels_have_their_center_of_mass_at_the_shift():
    y, x = np.mgrid[:25, :25] - 12
    for sigma in (0.1, 0.5, 2.4):
        kernel = shifted_gaussian(25, sigma, 1.5)
        assert kernel.sum() == pytest.approx(1)
        assert [(kernel * x).sum(), (kernel * y).sum()] == pytest.approx([1.5, 1.5], abs=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [5, 11, 13, 21])  # OpenCV computes kernels above 11 by Fourier transforms
def test_kernels_are_applied_with_mirrored_borders(size, channels):
    rng = np.random.default_rng(size)
    image = rng.random((37, 50, channels), np.float32)
    kernel = rng.random((size, size))  # without symmetry
    kernel /= kernel.sum()
    expected = np.stack([ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(channels)], 2)
    out = apply_kernel(image, kernel)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "sigma"), [(7, 0.2), (7, 3.0), (21, 1.0), (21, 3.0), (25, 2.8)])
def test_isotropic_gaussians_by_rows_and_columns_equal_the_kernel(size, sigma, channels):
    image = np.random.default_rng(0).random((40, 33, channels), np.float32)
    kernel = gaussian(size, sigma, sigma)
    expected = np.stack([ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(channels)], 2)
    np.testing.assert_allclose(apply_gaussian(image, size, sigma), expected, atol=3e-6)


def test_only_negligible_rings_are_cut_off():
    kernel = gaussian(21, 0.5, 0.5)
    small = trimmed(kernel)
    assert small.shape == (5, 5)
    assert np.abs(kernel[8:13, 8:13] - small).max() < 1e-6
    assert trimmed(gaussian(21, 3.0, 0.3)).shape == (21, 21)
    assert trimmed(gaussian(7, 0.01, 0.01)).shape == (1, 1)
