import io
import math

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from scipy import ndimage

from sr_train.data.degradation.base import Words
from sr_train.data.degradation.blur import MixedBlur, ScaledBlur, SincFilter
from sr_train.data.degradation.context import Context
from sr_train.data.degradation.jpeg import Jpeg, decode_jpeg, encode_jpeg
from sr_train.data.degradation.kernels import gaussian, plateau, sinc
from sr_train.data.degradation.noise import GaussianNoise, GeneralNoise, PoissonNoise, rotation
from sr_train.data.degradation.pixels import from_bytes, to_bytes
from sr_train.data.degradation.resize import Downsample, Halve, RandomResize, ToSize
from sr_train.data.degradation.sharpen import usm_sharpen

RNG = np.random.default_rng(7)
IMAGE = RNG.random((48, 40, 3), np.float32)
FLAT = np.full((300, 300, 3), 0.5, np.float32)


def words(i=0):
    return Words(i.to_bytes(16, "little"))


def run(operator, image, i=0, lr_size=(12, 10), scale=4):
    context = Context(lr_size=lr_size, scale=scale, name="x")
    return operator(image, words(i), context), context


def photo():
    """Return smooth color gradients with an edge, uint8 [96, 80, 3]."""
    y, x = np.mgrid[:96, :80] / 96
    image = np.dstack([x, y, 0.5 + 0.4 * np.sin(9 * x * y)])
    image[30:60, 20:50] *= 0.3
    return (255 * image).astype(np.uint8)


def blurred(image, kernel):
    return np.stack([ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(image.shape[2])], 2)


def kernel_of(drawn):
    """Compute the kernel of what MixedBlur, ScaledBlur or SincFilter has recorded."""
    kind, size = drawn.get("x.kernel", "sinc"), drawn["x.size"]
    if kind == "sinc":
        return sinc(size, drawn["x.cutoff"] * math.pi)
    sigma, beta = drawn["x.sigma"], drawn.get("x.beta", 1.0)
    shape = plateau if kind.startswith("plateau") else gaussian
    return shape(size, sigma, drawn.get("x.sigma_y", sigma), drawn.get("x.angle", 0.0), beta)


KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc"]
BLURS = [
    *(MixedBlur(kinds={kind: 1}) for kind in KINDS),
    ScaledBlur(isotropic=0),
    ScaledBlur(isotropic=1),
    SincFilter(),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("blur", BLURS, ids=lambda b: next(iter(getattr(b, "kinds", [type(b).__name__]))))
def test_blurs_apply_the_kernel_that_they_record(blur, channels):
    for i in range(4):
        image = IMAGE[..., :channels]
        out, context = run(blur, image, i)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, blurred(image, kernel_of(context.drawn)), atol=5e-6)


def area_matrix(n, m):
    """Return the part of old pixel j in new pixel i, [m, n]."""
    edges = np.arange(m + 1) * n / m
    j = np.arange(n)
    overlap = np.minimum(edges[1:, None], j + 1) - np.maximum(edges[:-1, None], j)
    return np.maximum(overlap, 0) * m / n


@pytest.mark.parametrize("size", [(12, 10), (31, 29), (48, 40), (47, 7)])
def test_area_reduction_is_the_average_over_the_area(size):
    expected = np.einsum("ih,jw,hwc->ijc", area_matrix(48, size[0]), area_matrix(40, size[1]), IMAGE)
    out, _ = run(ToSize(methods=["area"]), IMAGE, lr_size=size)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 10), (31, 29), (61, 55), (60, 80)])
def test_interpolations_equal_torch(method, size):
    out, _ = run(ToSize(methods=[method]), IMAGE, lr_size=size)
    tensor = torch.from_numpy(IMAGE.transpose(2, 0, 1)[None])
    expected = torch.nn.functional.interpolate(tensor, size, mode=method, align_corners=False)
    np.testing.assert_allclose(out, expected[0].numpy().transpose(1, 2, 0), atol=1e-4)


def test_bilinear_upscaling_equals_pillow():
    image = PIL.Image.fromarray(IMAGE[..., 0])
    out, _ = run(ToSize(methods=["bilinear"]), IMAGE[..., :1], lr_size=(61, 77))
    expected = np.asarray(image.resize((77, 61), PIL.Image.Resampling.BILINEAR))
    np.testing.assert_allclose(out[..., 0], expected, atol=1e-4)


def test_random_resizes_have_the_drawn_size():
    for i in range(20):
        for to, base in (("image", (48, 40)), ("lr", (12, 10))):
            resize = RandomResize(ways={"up": 1, "down": 2, "keep": 1}, factor=[0.15, 1.5], relative_to=to)
            out, context = run(resize, IMAGE, i)
            factor = context.drawn["x.factor"]
            assert {"up": factor > 1, "down": factor < 1, "keep": factor == 1}[context.drawn["x.way"]]
            assert out.shape == (*(max(1, round(n * factor)) for n in base), 3)


def ramp(scale, size):
    """Return an image whose value is linear in x + 2 y, and its LR image without a shift."""
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    hr = (x + 2 * y)[..., None] / (3 * size)
    y, x = (np.mgrid[: size // scale, : size // scale].astype(np.float32) + 0.5) * scale
    return hr.repeat(3, 2), (x + 2 * y)[..., None].repeat(3, 2) / (3 * size)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_no_resize_moves_the_image(scale):
    hr, lr = ramp(scale, 96)
    size = 96 // scale
    inner = slice(16 // scale + 1, -(16 // scale) - 1)
    shifted, _ = run(Downsample(shifted=1), hr, scale=scale)
    np.testing.assert_allclose(shifted[inner, inner], lr[inner, inner], atol=1e-3)
    for method in ("area", "bilinear", "bicubic"):
        out, _ = run(ToSize(methods=[method]), hr, lr_size=(size, size))
        np.testing.assert_allclose(out[inner, inner], lr[inner, inner], atol=1e-5)


def test_halving_halves_the_scale_of_what_follows():
    for matlab in (0, 1):
        out, context = run(Halve(probability=1, scales=[4], matlab=matlab), IMAGE)
        assert (out.shape, out.dtype, context.scale) == ((24, 20, 3), np.float32, 2)
        assert (context.drawn["x.method"] == "matlab") is bool(matlab)
    out, context = run(Halve(probability=1, scales=[4]), IMAGE, scale=2)
    assert out is IMAGE
    assert (context.scale, context.drawn) == (2, {})


@pytest.mark.parametrize("gray", [0, 1])
def test_gaussian_noise_has_its_standard_deviation(gray):
    out, context = run(GaussianNoise(sigma=[10, 20], gray=gray), FLAT)
    noise = (out - FLAT).reshape(-1, 3) * 255
    assert 10 <= context.drawn["x.sigma"] <= 20
    assert noise.std(0) == pytest.approx([context.drawn["x.sigma"]] * 3, rel=0.02)
    assert noise.mean(0) == pytest.approx([0] * 3, abs=0.25)
    if gray:
        assert np.ptp(out, axis=2).max() == 0
    else:
        assert np.corrcoef(noise.T) == pytest.approx(np.eye(3), abs=0.02)


@pytest.mark.parametrize("level", [0.02, 0.25, 0.8])
@pytest.mark.parametrize("gray", [0, 1])
def test_poisson_noise_has_its_variance(level, gray):
    image = np.full((250, 250, 3), level, np.float32)
    image[0, :200] = np.arange(200, dtype=np.float32)[:, None] / 255  # more than 128 levels, so that v is 256
    out, context = run(PoissonNoise(scale=[0.8, 1.2], gray=gray), image)
    assert context.drawn["x.rate"] == 256
    x = round(level * 255) / 255
    noise = (out - image)[1:]
    assert noise.mean() == pytest.approx(0, abs=5e-4)
    assert noise.std() == pytest.approx(
        context.drawn["x.scale"] * math.sqrt(x / 256), rel=0.08 if level < 0.1 else 0.02
    )
    assert (np.ptp(noise, axis=2).max() < 1e-6) == bool(gray)


def test_the_rate_of_poisson_noise_is_the_number_of_levels_rounded_to_a_power_of_two():
    for levels, rate in ((1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (256, 256)):
        image = (np.arange(300) % levels / 255).astype(np.float32).reshape(15, 20, 1)
        assert run(PoissonNoise(scale=[1, 1]), image)[1].drawn["x.rate"] == rate


def test_general_noise_is_independent_gray_or_correlated():
    for kind in ("color", "gray", "correlated"):
        out, context = run(GeneralNoise(kinds={kind: 1}, sigma=[8, 12]), FLAT, 3)
        noise = (out - FLAT).reshape(-1, 3) * 255
        covariance = np.cov(noise.T)
        assert math.sqrt(np.trace(covariance) / 3) == pytest.approx(context.drawn["x.sigma"], rel=0.02)
        correlation = np.abs(np.corrcoef(noise.T)[np.triu_indices(3, 1)])
        if kind == "correlated":
            assert correlation.max() > 0.1
            assert np.linalg.eigvalsh(covariance).max() <= 25**2 * 1.03
        else:
            assert correlation == pytest.approx([float(kind == "gray")] * 3, abs=0.02)


def test_rotations_of_normal_quaternions_are_uniform():
    matrices = np.stack([rotation(q) for q in np.random.default_rng(0).normal(size=(4000, 4))])
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-12)
    assert np.linalg.det(matrices) == pytest.approx(1)
    assert np.abs(matrices.mean(0)).max() < 0.05
    assert (matrices**2).mean(0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.02)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [30, 62, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_has_pillows_tables_and_pixels(quality, subsampling, channels):
    image = photo()[..., :channels]
    data = encode_jpeg(image, quality, subsampling)
    file = io.BytesIO()
    pillow = PIL.Image.fromarray(image[..., 0] if channels == 1 else image)
    pillow.save(file, "JPEG", quality=quality, subsampling=subsampling)
    ours, theirs = PIL.Image.open(io.BytesIO(data.tobytes())), PIL.Image.open(file)
    assert ours.quantization == theirs.quantization
    if channels == 3:  # sampling factors
        assert [layer[1:3] for layer in ours.layer] == [layer[1:3] for layer in theirs.layer]
    assert ours.mode == ("L" if channels == 1 else "RGB")
    difference = np.abs(decode_jpeg(data, channels).astype(float) - np.reshape(np.asarray(theirs), image.shape))
    assert difference.mean() < 0.1


def test_jpeg_compresses_at_the_drawn_quality():
    image = from_bytes(photo())
    for i in range(5):
        out, context = run(Jpeg(quality=[30, 95]), image, i)
        expected = decode_jpeg(encode_jpeg(photo(), context.drawn["x.quality"]), 3)
        np.testing.assert_array_equal(to_bytes(out), expected)


def test_bytes_are_rounded_and_limited():
    values = np.array([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 1.0, 1.7], np.float32).reshape(1, 7, 1)
    assert to_bytes(values).ravel().tolist() == [0, 0, 0, 1, 127, 255, 255]
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_bytes(from_bytes(every)), every)


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpening_follows_the_formula(channels):
    image = from_bytes(photo())[..., :channels]
    line = np.exp(-0.5 * (np.arange(-25, 26) / 8.0) ** 2)  # 0.3 * (25 - 1) + 0.8 = 8
    line /= line.sum()

    def blur(x):
        return ndimage.correlate1d(ndimage.correlate1d(x, line, 0, mode="mirror"), line, 1, mode="mirror")

    image = image.astype(np.float64)
    residual = image - blur(image)
    mask = blur((np.abs(residual) * 255 > 10).astype(np.float64))
    expected = mask * np.clip(image + 0.5 * residual, 0, 1) + (1 - mask) * image
    out = usm_sharpen(image.astype(np.float32))
    assert (out.dtype, out.shape) == (np.float32, image.shape)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert out.std() > image.std()
    np.testing.assert_allclose(usm_sharpen(FLAT), FLAT, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MixedBlur(kinds={"isotropic": 1}), "kinds: 'isotropic' is unknown; choose from iso, aniso"),
        (lambda: MixedBlur(kinds={"iso": 0}), "at least one above 0"),
        (lambda: MixedBlur(kinds={"iso": 1}, size=[8, 21]), "sizes of kernels are odd"),
        (lambda: MixedBlur(kinds={"iso": 1}, sigma=[3, 1]), r"sigma=\[3, 1\]: expected \[LOW, HIGH\]"),
        (lambda: MixedBlur(kinds={"iso": 1}, sigma=3), r"sigma=3: expected \[LOW, HIGH\]"),
        (lambda: MixedBlur(kinds=["iso"]), r"kinds=.*expected a mapping to numbers; choose from iso"),
        (lambda: MixedBlur(kinds={"iso": None}), "expected a mapping to numbers"),
        (lambda: ToSize(methods="area"), "methods=area: expected a list; choose from nearest, area"),
        (lambda: SincFilter(probability=None), "probability=None: expected a probability"),
        (lambda: Jpeg(quality=["low", 3]), r"expected \[LOW, HIGH\]"),
        (lambda: SincFilter(probability=1.2), "probability=1.2: expected a probability from 0 to 1"),
        (lambda: SincFilter(cutoff=[0.3, 1.2]), "from 0.01 to 1"),
        (lambda: ScaledBlur(sigma_base=-1), "must not be negative"),
        (lambda: RandomResize(ways={"up": 1}, factor=[0.2, 0.9]), "a HIGH of at least 1"),
        (lambda: RandomResize(ways={"up": 1}, factor=[1, 2], methods=["lanczos"]), "choose from nearest, area"),
        (lambda: RandomResize(ways={"up": 1}, factor=[1, 2], relative_to="hr"), "choose from image, lr"),
        (lambda: Halve(scales=[3]), "only even scales"),
        (lambda: Downsample(factor_low=0), "expected numbers above 0"),
        (lambda: GaussianNoise(sigma=[-1, 3]), "at least 0"),
        (lambda: GeneralNoise(kinds={"gray": 1}, sigma=[0.5, 2]), "expected integers"),
        (lambda: Jpeg(quality=[0, 95]), "from 1 to 100"),
        (lambda: Jpeg(subsampling=420), "choose from 4:2:0, 4:2:2, 4:4:4"),
        (lambda: usm_sharpen(FLAT, radius=0), "radius of at least 1"),
    ],
)
def test_wrong_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_results_do_not_depend_on_the_threads_of_opencv():
    large = RNG.random((200, 200, 3), np.float32)
    results, before = [], cv2.getNumThreads()
    for threads in (0, 4):
        cv2.setNumThreads(threads)
        steps = [MixedBlur(kinds={"sinc": 1}), MixedBlur(kinds={"iso": 1}), ToSize(methods=["bicubic"]), Jpeg()]
        results.append([run(s, large, 2, lr_size=(77, 91))[0] for s in steps] + [usm_sharpen(large)])
    cv2.setNumThreads(before)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
