"""Training patches by a degradation: a window of HR, degraded, equals a part of the whole image, degraded."""

from typing import Any

import numpy as np
import pytest
from helpers import photograph

from sr_train.data.degradation.base import Degraded
from sr_train.data.degradation.maker import LRMaker, Place, check_degradation, quantize
from sr_train.data.degradation.sharpen import usm_sharpen
from sr_train.data.degrade import modcrop, reduce_image
from sr_train.data.images import to_real

CHELSEA = photograph()[:211, :230]
WORDS = [3**40 * k % 2**64 for k in range(8)]


class Blur:
    """Means of 5x5 pixels, then every n-th pixel. All sums are exact, so they do not depend on the window."""

    margin = 2

    def __call__(self, hr, scale, words):
        wide = np.pad(np.round(hr * 255).astype(np.int64), ((2, 2), (2, 2), (0, 0)), mode="reflect")
        total = np.sum([wide[y : y + len(hr), x : x + hr.shape[1]] for y in range(5) for x in range(5)], axis=0)
        return Degraded((total / (25 * 255)).astype(np.float32)[::scale, ::scale], {"side": 5})


class Corner(Blur):
    """The mean of all pixels, and the size of the window that it gets."""

    margin = 8

    def __call__(self, hr, scale, words):
        return Degraded(hr[::scale, ::scale], {"height": hr.shape[0], "width": hr.shape[1]})


def cut(maker, image, top, left, side=12, scale=2, words=WORDS) -> Any:
    seen = []

    def fetch(y, x, h, w):
        seen.append((y, x, h, w))
        assert 0 <= y < y + h <= len(image)
        assert 0 <= x < x + w <= image.shape[1]
        return image[y : y + h, x : x + w]

    made: Any = maker.make(Place(fetch, image.shape[:2], scale, top, left, side, "chelsea"), words)
    assert len(seen) == 1  # a file is decoded once
    return made


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_patch_is_that_of_the_degraded_whole_image(scale, deep):
    image = CHELSEA.astype(np.uint16) * 257 if deep else CHELSEA
    whole = quantize(Blur()(to_real(modcrop(image, scale)), scale, None).lr, image.dtype)
    last = [n // scale - 12 for n in image.shape[:2]]
    for top, left in ((0, 0), (7, 1), (last[0], 3), tuple(last)):
        made = cut(LRMaker(Blur()), image, top, left, scale=scale)
        assert np.array_equal(made.lr, whole[top : top + 12, left : left + 12])
        hr = image[top * scale : (top + 12) * scale, left * scale : (left + 12) * scale]
        assert np.array_equal(made.hr, hr)
        assert (made.lr.dtype, made.target, made.drawn) == (image.dtype, None, {"side": 5})


def test_the_window_has_the_margin_and_up_to_seven_pixels_more():
    """So the patch lies anywhere in the blocks of a JPEG that starts at the window's corner."""
    sizes = set()
    for k in range(200):
        drawn = cut(LRMaker(Corner()), CHELSEA, 40, 40, words=[*WORDS[:6], k, 2 * k]).drawn
        sizes.add((drawn["height"], drawn["width"]))
    assert {h for h, _ in sizes} == {w for _, w in sizes} == {24 + 16 + 2 * more for more in range(8)}
    assert len(sizes) > 50  # rows and columns are drawn independently
    edge = cut(LRMaker(Corner()), CHELSEA, 0, 0).drawn
    assert (edge["height"], edge["width"]) == (24 + 8, 24 + 8)


@pytest.mark.parametrize("degradation", [Blur(), None])
def test_usm_makes_lr_of_the_sharpened_image_which_is_also_the_target(degradation):
    sharp = usm_sharpen(to_real(modcrop(CHELSEA, 2)))
    eight = quantize(sharp, np.uint8)
    whole = reduce_image(eight, 2) if degradation is None else quantize(degradation(sharp, 2, None).lr, np.uint8)
    for top, left in ((0, 0), (50, 61), (93, 103)):
        made = cut(LRMaker(degradation, usm=True), CHELSEA, top, left)
        rows, columns = slice(2 * top, 2 * top + 24), slice(2 * left, 2 * left + 24)
        assert np.array_equal(made.hr, CHELSEA[rows, columns])
        # OpenCV's sums of floats depend on the window in their last bit
        assert np.abs(made.target.astype(int) - eight[rows, columns]).max() <= 1
        assert np.abs(made.lr.astype(int) - whole[top : top + 12, left : left + 12]).max() <= 1
        assert (made.target != eight[rows, columns]).mean() < 0.01
    assert np.abs(made.target.astype(int) - made.hr).max() > 3


def test_given_lr_stays_as_it_is_and_gets_a_sharpened_target():
    lr = CHELSEA[:12, :12]
    place = Place(lambda y, x, h, w: CHELSEA[y : y + h, x : x + w], CHELSEA.shape[:2], 2, 30, 20, 12, "chelsea")
    made: Any = LRMaker(None, usm=True).sharpen(place, lr)
    assert made.lr is lr
    assert np.array_equal(made.target, cut(LRMaker(Blur(), usm=True), CHELSEA, 30, 20).target)


def test_values_are_rounded_half_up_and_clipped():
    image = np.array([[[-0.1], [0.5 / 255], [0.49 / 255], [1.2]]], np.float32)
    assert quantize(image, np.uint8).ravel().tolist() == [0, 1, 0, 255]
    assert quantize(np.arange(65536, dtype=np.float32) / np.float32(65535), np.uint16).tolist() == list(range(65536))
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize(np.array([np.nan], np.float32), np.uint8)


# -- rules that a class of the user's must keep ---------------------------------------------------------------------


def returning(result, margin: object = 0):
    return type("Mine", (), {"margin": margin, "__call__": lambda self, hr, scale, words: result(hr, scale, words)})()


def changing(hr, scale, words):
    hr[5] = 0.7
    return Degraded(hr[::scale, ::scale], {})


def unseeded(hr, scale, words):
    return Degraded(np.random.default_rng().random(hr[::scale, ::scale].shape, np.float32), {})


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        (returning(lambda hr, s, w: hr), r"Mine returned ndarray, expected Degraded\(lr, drawn\)"),
        (returning(lambda hr, s, w: (hr, {})), r"array of float32 \[48, 48, 3\] as lr, .*float32 \[24, 24, 3\]"),
        (returning(lambda hr, s, w: (hr[::s, ::s].astype(float), {})), "array of float64"),
        (returning(lambda hr, s, w: (None, {})), "NoneType as lr"),
        (returning(lambda hr, s, w: (hr[::s, ::s], 3)), "int as drawn, expected a mapping"),
        (returning(lambda hr, s, w: (hr[::s, ::s] * np.float32(np.nan), {})), "NaN"),
        (returning(changing), "changes the HR image"),
        (returning(unseeded), "different images for equal words, .* take all random numbers from words"),
        (returning(None, margin=-1), "Mine.margin is -1, expected an integer of at least 0"),
        (returning(None, margin=2.0), r"Mine.margin is 2\.0"),
        (3, "int is no degradation"),
    ],
)
def test_a_class_that_breaks_a_rule_is_refused(mine, message):
    with pytest.raises(ValueError, match=message):
        check_degradation(mine, "degrade", 2, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_class_that_keeps_the_rules_is_accepted(channels):
    check_degradation(Blur(), "degrade", 3, channels)
    with pytest.raises(ValueError, match="1 or 3 channels, not channels=4"):
        check_degradation(Blur(), "degrade", 3, 4)
