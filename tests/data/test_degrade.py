import itertools

import numpy as np
import pytest

from sr_train.data.degrade import modcrop, reduce_image, reduce_window
from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.resampling import ARITHMETICS, imresize


@pytest.fixture(scope="module")
def photograph():
    return read_image(toy_files("chelsea")["chelsea"])


def as_type(image, dtype):
    """The photograph in 8 bits, or in 16 with all of them in use."""
    noise = np.random.default_rng(0).integers(0, 256, image.shape)
    return image if dtype == np.uint8 else (image.astype(np.uint16) * 256 + noise).astype(np.uint16)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_modcrop_keeps_the_top_left(photograph, scale):
    for height, width in itertools.product(range(8, 13), range(8, 13)):
        image = photograph[:height, :width]
        cut = modcrop(image, scale)
        assert cut.shape == (height // scale * scale, width // scale * scale, 3)
        assert np.array_equal(cut, image[: cut.shape[0], : cut.shape[1]])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_an_image_is_reduced_from_its_multiple_of_the_scale(photograph, arithmetic):
    image = photograph[:50, :71]
    reduced = reduce_image(image, 3, arithmetic)
    assert np.array_equal(reduced, imresize(image[:48, :69], 1 / 3, arithmetic=arithmetic))
    assert reduced.shape == (16, 23, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("surplus", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_every_window_equals_that_window_of_the_whole_bit_for_bit(photograph, scale, surplus, arithmetic, dtype):
    height, width = 7 * scale + surplus[0], 9 * scale + surplus[1]
    image = as_type(photograph[100 : 100 + height, 150 : 150 + width], dtype)
    whole = reduce_image(image, scale, arithmetic)
    assert whole.dtype == dtype
    asked = []

    def fetch(y, x, h, w):
        assert 0 <= y < y + h <= height // scale * scale
        assert 0 <= x < x + w <= width // scale * scale
        asked.append((h, w))
        return image[y : y + h, x : x + w]

    for size in [(1, 1), (3, 2), (4, 4), (7, 9)]:
        for top, left in itertools.product(range(8 - size[0]), range(10 - size[1])):
            window = reduce_window(fetch, image.shape[:2], scale, top, left, *size, arithmetic)
            assert window.dtype == dtype
            assert np.array_equal(window, whole[top : top + size[0], left : left + size[1]]), (size, top, left)
            # Two low-resolution pixels of margin on each side are all that is ever fetched.
            assert asked[-1][0] <= (size[0] + 4) * scale
            assert asked[-1][1] <= (size[1] + 4) * scale
    assert len(asked) == 63 + 5 * 8 + 4 * 6 + 1  # one fetch a window


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_windows_of_a_photograph_equal_those_of_the_whole(photograph, scale, arithmetic):
    image = photograph[:-1, :-2]
    whole = reduce_image(image, scale, arithmetic)
    random = np.random.default_rng(scale)
    corners = [(0, 0), (0, whole.shape[1] - 24), (whole.shape[0] - 24, 0), (whole.shape[0] - 24, whole.shape[1] - 24)]
    inside = [(random.integers(whole.shape[0] - 23), random.integers(whole.shape[1] - 23)) for _ in range(20)]
    for top, left in corners + inside:
        window = reduce_window(
            lambda y, x, h, w: image[y : y + h, x : x + w],
            image.shape[:2],
            scale,
            int(top),
            int(left),
            24,
            24,
            arithmetic,
        )
        assert np.array_equal(window, whole[top : top + 24, left : left + 24])


@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (5, 40)])
def test_images_smaller_than_the_kernel_are_mirrored_as_often_as_needed(photograph, shape):
    image = photograph[60 : 60 + shape[0], 90 : 90 + shape[1]]
    whole = reduce_image(image, 4)
    for left in range(whole.shape[1]):
        window = reduce_window(lambda y, x, h, w: image[y : y + h, x : x + w], shape, 4, 0, left, 1, 1)
        assert np.array_equal(window, whole[:1, left : left + 1])


def test_a_grey_and_an_rgba_image_are_reduced_channel_by_channel(photograph):
    rgba = np.concatenate([photograph, photograph[..., :1]], axis=2)[:41, :50]
    grey = photograph[:41, :50, :1]
    whole = reduce_image(rgba, 2)
    assert np.array_equal(whole[..., 3:], reduce_image(grey, 2))
    assert np.array_equal(whole[..., :3], reduce_image(rgba[..., :3], 2))


def test_real_pixels_are_reduced_without_rounding(photograph):
    image = (photograph[:41, :50] / 255).astype(np.float32)
    window = reduce_window(lambda y, x, h, w: image[y : y + h, x : x + w], (41, 50), 4, 2, 3, 5, 6)
    assert window.dtype == np.float32
    assert np.array_equal(window, imresize(image[:40, :48], 1 / 4)[2:7, 3:9].astype(np.float32))


def test_an_unknown_arithmetic_is_refused(photograph):
    with pytest.raises(ValueError, match="arithmetic='exact' is not one of float, uint8, uint8_replicate"):
        reduce_image(photograph, 2, "exact")
