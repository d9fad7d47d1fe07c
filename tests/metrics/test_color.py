import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr

from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.metrics.color import luma


@pytest.fixture(scope="module")
def photograph():
    return read_image(toy_files("coffee")["coffee"])


def test_luma_equals_scikit_image(photograph):
    ours = luma(torch.from_numpy(photograph).permute(2, 0, 1))[0].numpy()
    np.testing.assert_allclose(ours, rgb2ycbcr(photograph)[..., 0], atol=1e-9)


def test_rounded_luma_rounds_halves_up(photograph):
    plain = luma(torch.from_numpy(photograph).permute(2, 0, 1))
    rounded = luma(torch.from_numpy(photograph).permute(2, 0, 1), rounded=True)
    assert torch.equal(rounded, torch.floor(plain + 0.5))
    assert not torch.equal(rounded, plain)


@pytest.mark.parametrize(("pixel", "y"), [((0, 0, 0), 16.0), ((255, 255, 255), 235.0)])
def test_luma_spans_the_studio_range(pixel, y):
    assert luma(torch.tensor(pixel, dtype=torch.uint8).view(3, 1, 1)).item() == pytest.approx(y, abs=1e-12)


def test_luma_of_gray_is_refused():
    with pytest.raises(ValueError, match="needs RGB"):
        luma(torch.zeros(1, 4, 4))
