import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from scipy.special import gamma

from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.metrics import niqe as module
from sr_train.metrics.niqe import NoScoreError, has_score, niqe, pristine
from sr_train.resampling import imresize

# Values of basicsr 1.4.2's calculate_niqe (crop_border=0), which rounds to float32 between its steps. For baboon.png of
# BasicSR's tests, scripts/bench/niqe.py gives 5.72957388; MATLAB gives 5.72957338.
BASICSR = {"astronaut": 3.0649476661849033, "chelsea": 2.625524381291432, "coffee": 4.115241615372864}


def photograph(name):
    return torch.from_numpy(read_image(toy_files(name)[name])).permute(2, 0, 1)


@pytest.mark.parametrize("name", BASICSR)
def test_niqe_of_photographs_is_basicsrs(name):
    assert niqe(photograph(name)) == pytest.approx(BASICSR[name], rel=2e-4)


def moments(x):
    """Fit by search over the table of shapes, as the paper's equation 7 says."""
    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left, right = (np.sqrt(np.mean(x[side] ** 2)) for side in (x < 0, x > 0))
    g = left / right
    ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = shapes[np.argmin((ratios - ratio) ** 2)]
    return alpha, *(side * np.sqrt(gamma(1 / alpha) / gamma(3 / alpha)) for side in (left, right))


def test_niqe_is_the_papers_computed_whole_with_scipy():
    rng = np.random.default_rng(0)
    values = np.clip(128 + 60 * np.cumsum(rng.normal(size=(200, 300)), 1) / 20, 0, 255).round()
    image = torch.from_numpy(values.astype(np.uint8))[None]
    x, both = values[:192, :288], []
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    for side in (96, 48):
        mean, square = (convolve(v, window / window.sum(), mode="nearest") for v in (x, x * x))
        z = (x - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
        rows = []
        for block in (
            z[i : i + side, j : j + side] for i in range(0, 2 * side, side) for j in range(0, 3 * side, side)
        ):
            alpha, left, right = moments(block)
            row = [alpha, (left + right) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                alpha, left, right = moments(block * np.roll(block, shift, (0, 1)))
                row += [alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right]
            rows.append(row)
        both.append(rows)
        x = imresize(x, 0.5)
    features = np.concatenate(both, 1)
    mean, covariance = (t.numpy() for t in pristine())
    d = mean - features.mean(0)
    expected = np.sqrt(d @ np.linalg.pinv((covariance + np.cov(features, rowvar=False)) / 2) @ d)
    assert niqe(image) == pytest.approx(expected, rel=1e-6)


def test_bands_change_nothing_and_the_border_is_cut(monkeypatch):
    image = photograph("chelsea")
    whole = niqe(image)
    assert niqe(image, border=4) == niqe(image[:, 4:-4, 4:-4])
    assert niqe(image.float() / 255) == whole
    monkeypatch.setattr(module, "_BAND", 96 * 400)
    assert niqe(image) == pytest.approx(whole, rel=1e-12)


def test_images_without_a_score_are_refused_with_the_reason():
    with pytest.raises(NoScoreError, match="two blocks of 96x96 pixels; the image has 120x180"):
        niqe(torch.zeros(3, 180, 120, dtype=torch.uint8))
    with pytest.raises(NoScoreError, match="two blocks with texture; the image has 0"):
        niqe(torch.full((1, 96, 192), 77, dtype=torch.uint8))
    with pytest.raises(ValueError, match="gray or RGB"):
        niqe(torch.zeros(4, 200, 200, dtype=torch.uint8))
    assert has_score(96, 192)
    assert not has_score(96, 192, border=2)


@pytest.mark.parametrize("value", [0, 31, 77, 200, 255])
def test_a_flat_block_has_no_features_whatever_the_rounding_of_its_mean(value):
    features = module._all_features(torch.full((96, 192), value, dtype=torch.uint8))
    shapes = [0, 2, 6, 10, 14, 18, 20, 24, 28, 32]  # the authors' search finds the first shape for NaN
    assert (features[:, shapes] == 0.2).all()
    others = [i for i in range(36) if i not in shapes]
    assert features[:, others].isnan().all()


def test_the_file_of_parameters_has_its_license():
    from safetensors import safe_open

    with safe_open(module._PRISTINE, framework="pt") as file:
        header = file.metadata()
    assert "The University of Texas at Austin" in header["license"]
    mean, covariance = pristine()
    assert mean[0].item() == pytest.approx(2.60131368)
    torch.testing.assert_close(covariance, covariance.T)
