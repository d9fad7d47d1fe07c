import math
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
import torch

from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.resampling import ARITHMETICS, imresize, imresize_torch, output_size, round_half_up, taps

PHASES = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2), Fraction(3)]


@pytest.fixture(scope="module")
def photograph():
    return read_image(toy_files("chelsea")["chelsea"])[80:177, 120:251]


def cubic(x):
    """Keys 1981, a = -1/2, straight from the paper."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def mirrored(position, length):
    while not 0 <= position < length:
        position = -1 - position if position < 0 else 2 * length - 1 - position
    return position


def repeated(position, length):
    return min(max(position, 0), length - 1)


def resize_line(line, out_length, scale, antialias, beyond):
    """One line, pixel by pixel, in exact rationals; positions as MATLAB counts them, from one."""
    stretch = min(scale, Fraction(1)) if antialias else Fraction(1)
    out = []
    for x in range(1, out_length + 1):
        u = x / scale + (1 - 1 / scale) / 2
        reach = 2 / stretch
        taken = range(math.floor(u - reach), math.ceil(u + reach) + 1)
        weights = [stretch * cubic(stretch * (u - p)) for p in taken]
        total = sum(w * line[beyond(p - 1, len(line))] for w, p in zip(weights, taken, strict=True))
        out.append(total / sum(weights))
    return out


def resize_naively(image, size, scales, antialias=True, beyond=mirrored, between=lambda v: v):
    """[H][W] rationals -> size; the axis of the smaller scale first, rows first when equal, as MATLAB sorts them."""
    out = [[Fraction(float(v)) for v in row] for row in image]
    for n, axis in enumerate([0, 1] if scales[0] <= scales[1] else [1, 0]):
        lines = list(zip(*out, strict=True)) if axis == 0 else out
        lines = [resize_line(line, size[axis], scales[axis], antialias, beyond) for line in lines]
        out = [list(row) for row in zip(*lines, strict=True)] if axis == 0 else lines
        if n == 0:
            out = [[between(v) for v in row] for row in out]
    return out


def as_float(image):
    return np.array([[float(v) for v in row] for row in image])


def rounded(value, largest):
    return min(max(math.floor(value + Fraction(1, 2)), 0), largest)


@pytest.mark.parametrize("antialias", [True, False], ids=["antialias", "plain"])
@pytest.mark.parametrize("scale", PHASES, ids=str)
@pytest.mark.parametrize("shape", [(7, 11), (5, 4)], ids=str)
def test_factors_equal_a_naive_resize_in_exact_rationals(scale, shape, antialias):
    image = np.random.default_rng(1).random(shape)
    size = tuple(math.ceil(scale * n) for n in shape)
    naive = resize_naively(image, size, (scale, scale), antialias)
    ours = imresize(image, float(scale), antialias=antialias)
    assert ours.shape == size
    assert np.abs(ours - as_float(naive)).max() < 1e-12


@pytest.mark.parametrize("antialias", [True, False], ids=["antialias", "plain"])
@pytest.mark.parametrize(
    ("shape", "size"), [((7, 9), (5, 4)), ((5, 6), (9, 7)), ((8, 5), (3, 7)), ((5, 9), (7, 4)), ((1, 7), (2, 3))]
)
def test_sizes_equal_a_naive_resize_in_exact_rationals(shape, size, antialias):
    image = np.random.default_rng(2).random(shape)
    scales = tuple(Fraction(n, m) for n, m in zip(size, shape, strict=True))
    naive = resize_naively(image, size, scales, antialias)
    assert np.abs(imresize(image, size=size, antialias=antialias) - as_float(naive)).max() < 1e-12


def test_results_equal_numbers_of_matlab():
    image = np.arange(16.0).reshape(4, 4)
    wide = [[0.75055188, 2.1004415, 3.45033113], [6.15011038, 7.5, 8.84988962], [11.54966887, 12.8995585, 14.24944812]]
    plain = [[0.54398148, 1.93518519, 3.32638889], [6.1087963, 7.5, 8.8912037], [11.67361111, 13.06481481, 14.45601852]]
    assert np.abs(imresize(image, size=(3, 3)) - wide).max() < 1e-8
    assert np.abs(imresize(image, size=(3, 3), antialias=False) - plain).max() < 1e-8


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_interior_equals_pillow_which_has_the_same_kernel(photograph, scale):
    grey = photograph[: 97 - 97 % scale, : 131 - 131 % scale, 1].astype(np.float32)
    size = (grey.shape[0] // scale, grey.shape[1] // scale)
    pillow = PIL.Image.fromarray(grey).resize(size[::-1], PIL.Image.Resampling.BICUBIC)
    inner = (slice(3, -3), slice(3, -3))  # at the border Pillow leaves out what MATLAB mirrors
    ours = imresize(grey, 1 / scale)
    assert ours.shape == size
    assert np.abs(ours - np.asarray(pillow))[inner].max() < 1e-4  # float32 at 255: 1.5e-5 a step
    assert np.abs(ours - np.asarray(pillow)).max() > 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1, 4), Fraction(2)], ids=str)
def test_the_integer_arithmetics_round_between_the_passes_and_float_only_once(scale, dtype):
    # Weights of these factors are dyadic: even halves are exact in floating point, and rounded up.
    largest = np.iinfo(dtype).max
    image = np.random.default_rng(3).integers(0, largest + 1, (10, 13)).astype(dtype)
    image[2:5, 3:8] = largest  # an edge that overshoots and is clamped
    size = tuple(math.ceil(scale * n) for n in image.shape)

    def to_integer(value):
        return rounded(value, largest)

    results = []
    for arithmetic, beyond, between in [
        ("float", mirrored, Fraction),
        ("uint8", mirrored, to_integer),
        ("uint8_replicate", repeated, to_integer),
    ]:
        naive = resize_naively(image, size, (scale, scale), True, beyond, between)
        ours = imresize(image, float(scale), arithmetic=arithmetic)
        assert ours.dtype == dtype
        assert ours.tolist() == [[to_integer(v) for v in row] for row in naive], arithmetic
        results.append(ours)
    assert all((a != b).any() for a, b in [results[:2], results[1:], results[::2]])


@pytest.mark.parametrize("size", [(5, 9), (9, 3)])
def test_the_axis_of_the_smaller_scale_is_rounded_first(size):
    image = np.random.default_rng(4).integers(0, 256, (8, 6)).astype(np.uint8)
    scales = tuple(Fraction(n, m) for n, m in zip(size, image.shape, strict=True))
    naive = resize_naively(image, size, scales, between=lambda v: rounded(v, 255))
    assert imresize(image, size=size, arithmetic="uint8").tolist() == [[rounded(v, 255) for v in row] for row in naive]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mirrored_and_replicated_edges_differ_only_in_the_two_outermost_pixels(photograph, scale):
    a = imresize(photograph, 1 / scale, arithmetic="uint8")
    b = imresize(photograph, 1 / scale, arithmetic="uint8_replicate")
    # A kernel reaches two low-resolution pixels from its center.
    cut = (slice(2, photograph.shape[0] // scale - 2), slice(2, photograph.shape[1] // scale - 2))
    assert np.array_equal(a[cut], b[cut])
    assert (a != b).any()


def test_the_arithmetics_are_one_level_apart_where_nothing_is_clamped(photograph):
    soft = photograph // 2 + 64
    results = [imresize(soft, 1 / 3, arithmetic=a).astype(int)[2:-2, 2:-2] for a in ARITHMETICS]
    # The middle rounding moves a value by 1/2 at most, the second pass by the sum of its absolute weights times that.
    assert np.abs(taps(24, 8, 1 / 3).weight).sum(axis=1).max() < 2
    assert max(np.abs(r - results[0]).max() for r in results) == 1


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3])
def test_constant_images_stay_constant(arithmetic, scale):
    every = np.broadcast_to(np.arange(256, dtype=np.uint8), (9, 7, 256))
    assert np.array_equal(imresize(every, scale, arithmetic=arithmetic)[0, 0], np.arange(256))
    assert np.ptp(imresize(every, scale, arithmetic=arithmetic), axis=(0, 1)).max() == 0
    deep = np.broadcast_to(np.array([0, 1, 32768, 65534, 65535], np.uint16), (9, 7, 5))
    assert (imresize(deep, scale, arithmetic=arithmetic) == deep[0, 0]).all()


def test_upscaling_by_one_changes_nothing(photograph):
    for arithmetic in ARITHMETICS:
        assert np.array_equal(imresize(photograph, 1, arithmetic=arithmetic), photograph)


def test_a_ramp_stays_a_ramp_inside():
    ramp = np.add.outer(5.0 * np.arange(24), 3.0 * np.arange(36))
    small = imresize(ramp, 1 / 3)[2:-2, 2:-2]
    # Pixel k of the small image is centered on pixel 3 k + 1 of the large one; cubic convolution reproduces planes.
    assert np.abs(small - ramp[1::3, 1::3][2:-2, 2:-2]).max() < 1e-12


def test_integers_come_back_rounded_and_clamped_and_reals_do_not():
    step = np.zeros((8, 8), np.uint8)
    step[:, 4:] = 255
    real = imresize(step.astype(np.float64), 2)
    assert real.min() < -5
    assert real.max() > 260
    assert imresize(step, 2).tolist() == np.clip(np.floor(real + 0.5), 0, 255).tolist()
    assert imresize(step.astype(np.float32), 2).dtype == np.float64


def test_halves_are_rounded_up_and_types_clamped():
    values = np.array([-0.5, -0.51, 0.49, 0.5, 1.5, 254.49, 254.5, 300.0])
    assert round_half_up(values, np.dtype(np.uint8)).tolist() == [0, 0, 0, 1, 2, 254, 255, 255]
    assert round_half_up(np.array([65534.5, 7e4]), np.dtype(np.uint16)).tolist() == [65535, 65535]


def test_channels_are_independent_and_gray_needs_no_axis(photograph):
    whole = imresize(photograph, 1 / 4)
    for channel in range(3):
        assert np.array_equal(whole[..., channel], imresize(photograph[..., channel], 1 / 4))


def test_the_output_size_is_the_ceiling_without_rounding_accidents():
    assert output_size(7, 9, 1 / 3) == (3, 3)
    assert 0.07 * 100 > 7
    assert output_size(100, 101, 0.07) == (7, 8)
    for n in range(1, 300):
        for scale in (2, 3, 4, 5, 6, 7, 8):
            assert output_size(n * scale, n * scale + 1, 1 / scale) == (n, n + 1)
            assert output_size(n, n, scale) == (n * scale, n * scale)


def test_taps_are_shared_and_therefore_cannot_be_written():
    pixel, weight = taps(24, 8, 1 / 3)
    assert weight.sum(axis=1) == pytest.approx(1, abs=1e-15)
    assert pixel.min() == 0
    assert pixel.max() == 23
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 7


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 0.7, 2, 3, 4])
@pytest.mark.parametrize("shape", [(17, 23), (2, 3, 13, 10), (2, 2, 3, 9, 14)], ids=str)
def test_the_torch_version_equals_numpy_for_images_batches_and_clips(scale, shape):
    x = np.random.default_rng(5).random(shape)
    ours = imresize_torch(torch.from_numpy(x), scale).numpy()
    flat = x.reshape(-1, *shape[-2:])
    expected = np.stack([imresize(plane, scale) for plane in flat])
    assert ours.shape == (*shape[:-2], *expected.shape[-2:])
    assert np.abs(ours - expected.reshape(ours.shape)).max() < 1e-12
    plain = imresize_torch(torch.from_numpy(x), scale, antialias=False).numpy()
    assert np.abs(plain.reshape(expected.shape)[0] - imresize(flat[0], scale, antialias=False)).max() < 1e-12


def test_the_torch_version_keeps_the_type_and_passes_gradients():
    x = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = imresize_torch(x, 1 / 4)
    assert y.dtype == torch.float32
    assert (y.double() - imresize_torch(x.double(), 1 / 4)).abs().max() < 1e-6
    y.sum().backward()
    # Each output pixel's weights sum to one, so all that flows back sums to the number of output pixels.
    assert x.grad.sum().item() == pytest.approx(y.numel(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 2, "arithmetic": "int8"}, "arithmetic='int8' is not one of float, uint8, uint8_replicate"),
        ({}, "give either scale= or size="),
        ({"scale": 2, "size": (4, 4)}, "and not both"),
        ({"scale": 0}, "scale=0 must be a positive number"),
        ({"scale": -1.5}, r"scale=-1\.5 must be a positive number"),
        ({"scale": math.nan}, "scale=nan must be a positive number"),
        ({"scale": math.inf}, "scale=inf must be a positive number"),
        ({"size": (0, 4)}, r"size=\(0, 4\) must be at least 1x1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        imresize(np.zeros((6, 6), np.uint8), **arguments)


def test_empty_images_and_integer_arithmetic_on_reals_are_refused():
    with pytest.raises(ValueError, match="cannot resize an empty image of 0x5"):
        imresize(np.zeros((0, 5), np.uint8), 2)
    with pytest.raises(ValueError, match="needs an integer image; this image is float64"):
        imresize(np.zeros((4, 4)), 2, arithmetic="uint8")
    with pytest.raises(ValueError, match="scale=0 must be a positive number"):
        imresize_torch(torch.zeros(1, 3, 4, 4), 0)
