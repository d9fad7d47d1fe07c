import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.metrics.functional import psnr, quantize, ssim


@pytest.fixture(scope="module")
def pair():
    image = torch.from_numpy(read_image(toy_files("chelsea")["chelsea"])).permute(2, 0, 1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) * 9
    return image, (image + noise).clamp(0, 255).to(torch.uint8)


def test_psnr_equals_scikit_image(pair):
    a, b = pair
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255), abs=1e-9)


def test_ssim_equals_scikit_image_in_the_valid_region(pair):
    a, b = pair
    values = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        _, whole = structural_similarity(
            x, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11, full=True
        )
        values.append(whole[5:-5, 5:-5].mean())
    assert ssim(a, b) == pytest.approx(sum(values) / 3, abs=1e-9)


def test_equal_images_have_infinite_psnr_and_ssim_one(pair):
    a, _ = pair
    assert math.isinf(psnr(a, a))
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_psnr_of_a_constant_difference_of_one_level():
    a = torch.full((3, 12, 12), 100, dtype=torch.uint8)
    assert psnr(a, a + 1) == pytest.approx(20 * math.log10(255), abs=1e-12)


def test_quantize_clamps_and_rounds_halves_up():
    x = torch.tensor([-1.0, 0.0, 0.5 / 255, 0.49 / 255, 1.0, 7.0], dtype=torch.float64)
    assert quantize(x).tolist() == [0, 0, 1, 0, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantize(every), every.double())
    assert torch.equal(quantize(every.float() / 255), every.double())


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        psnr(torch.zeros(3, 12, 12), torch.zeros(1, 12, 12))


def test_images_below_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(torch.zeros(3, 10, 30), torch.zeros(3, 10, 30))
