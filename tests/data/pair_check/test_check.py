"""LR made by Pillow, OpenCV, SciPy and MATLAB's arithmetics is named; faults are named, and honest pairs give no alarm."""

import math

import cv2
import numpy as np
import PIL.Image
import pytest
from helpers import photograph
from scipy.ndimage import correlate1d

from sr_train.data.decoding.orientation import turn
from sr_train.data.degrade import modcrop
from sr_train.data.pair_check.check import check_pair, check_pairs, look_at, summarize
from sr_train.data.pair_check.kernels import reductions
from sr_train.data.pair_check.windows import score, windows
from sr_train.resampling import imresize

NAMES = ("astronaut", "coffee", "rocket", "chelsea", "motorcycle_left")
SCALES = (2, 3, 4)


def photo(name, scale=1, height=204, width=252):
    """A detailed part of a photograph, as small as it may be."""
    return modcrop(np.ascontiguousarray(photograph(name)[60 : 60 + height, 120 : 120 + width]), scale)


def pillow(filter_):
    return lambda hr, s: np.asarray(
        PIL.Image.fromarray(hr).resize((hr.shape[1] // s, hr.shape[0] // s), PIL.Image.Resampling[filter_])
    )


def opencv(flag):
    return lambda hr, s: cv2.resize(hr, (hr.shape[1] // s, hr.shape[0] // s), interpolation=flag)


def matlab(arithmetic, antialias=True):
    return lambda hr, s: imresize(hr, 1 / s, arithmetic=arithmetic, antialias=antialias)


def blurred(hr, s):
    """MATLAB: ``imfilter(hr, fspecial('gaussian', n, 1.6), 'replicate')``, n = 12 (7 at x3), then every s-th pixel."""
    size = 7 if s == 3 else 12
    kernel = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * 1.6**2))
    kernel /= kernel.sum()
    out = hr.astype(float)
    for axis in (
        0,
        1,
    ):  # MATLAB's origin of an even filter is floor((size + 1) / 2) from 1; SciPy's is size // 2 from 0
        out = correlate1d(out, kernel, axis=axis, mode="nearest", origin=-1 if size % 2 == 0 else 0)
    first = 1 if s == 3 else s // 2 - 1
    return np.floor(out[first::s, first::s].round(9) + 0.5).astype(hr.dtype)


MADE = {
    "MATLAB bicubic, arithmetic=float": matlab("float"),
    "MATLAB bicubic, arithmetic=uint8": matlab("uint8"),
    "MATLAB bicubic, arithmetic=uint8_replicate": matlab("uint8_replicate"),
    "MATLAB bicubic without antialiasing": matlab("float", antialias=False),
    "Pillow bicubic": pillow("BICUBIC"),
    "Pillow Lanczos": pillow("LANCZOS"),
    "Pillow bilinear": pillow("BILINEAR"),
    "Pillow box": pillow("BOX"),
    "OpenCV area": opencv(cv2.INTER_AREA),
    "OpenCV linear": opencv(cv2.INTER_LINEAR),
    "OpenCV cubic": opencv(cv2.INTER_CUBIC),
    "OpenCV Lanczos4": opencv(cv2.INTER_LANCZOS4),
    "nearest, pixel (0, 0)": lambda hr, s: hr[::s, ::s],
    "nearest, pixel (1, 0)": lambda hr, s: hr[1::s, ::s],
    "BD (Gaussian": blurred,
}
# OpenCV's linear filter at x2 averages the square; at x3 every filter without antialiasing takes the center pixel.
SAME = {2: ({"OpenCV area", "OpenCV linear"},)}
CENTER = {"OpenCV linear", "OpenCV cubic", "OpenCV Lanczos4", "MATLAB bicubic without antialiasing"}
SAME[3] = (CENTER | {"nearest, pixel (1, 1) of 3x3"},)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", MADE)
def test_the_kernel_is_named(name, scale):
    for photograph_ in NAMES[:3]:
        hr = photo(photograph_, scale)
        verdict = check_pair(hr, np.ascontiguousarray(MADE[name](hr, scale)), scale)
        assert (verdict.kind, verdict.error) == ("kernel", False), verdict.text
        assert verdict.psnr == math.inf
        assert "identical" in verdict.text
        alike = next((group for group in SAME.get(scale, ()) if name in group), None)
        if alike:
            assert set(verdict.kernels) == alike
            assert "one of" in verdict.text
        else:
            assert len(verdict.kernels) == 1
            assert verdict.kernels[0].startswith(name)


@pytest.mark.parametrize("scale", SCALES)
def test_every_known_kernel_is_itself_in_windows_of_a_large_image(scale):
    hr = modcrop(photograph("astronaut"), scale)
    size = (hr.shape[0] // scale, hr.shape[1] // scale)
    small = hr[: 64 * scale, : 64 * scale]
    for name, reduce in reductions(scale).items():
        whole = np.ascontiguousarray(reduce(hr, size))
        assert len(windows(whole, scale)) == (5 if scale < 4 else 1)
        assert score(hr, whole, scale, {name: reduce})[name] == math.inf, name
        assert len(windows(reduce(small, (64, 64)), scale)) == 1


def test_the_border_tells_replicated_edges_from_mirrored_ones():
    hr = np.concatenate([photograph("astronaut")] * 2, axis=1)
    verdict = check_pair(hr, imresize(hr, 0.5, arithmetic="uint8_replicate"), 2)
    assert verdict.kernels == ("MATLAB bicubic, arithmetic=uint8_replicate",)
    assert 55 < verdict.scores["MATLAB bicubic, arithmetic=uint8"] < 90


def displaced(name, scale, down, right):
    """LR whose content is displaced: every HR pixel becomes 2x2, so that half HR pixels are exact."""
    twice = np.kron(photograph(name), np.ones((2, 2, 1), np.uint8))
    step, (height, width) = 2 * scale, (190 // scale, 240 // scale)
    top, left = (step * 12 - round(v * step) for v in (down, right))
    low = cv2.resize(
        twice[top : top + height * step, left : left + width * step], (width, height), interpolation=cv2.INTER_AREA
    )
    start = 12 * scale
    return photograph(name)[start : start + height * scale, start : start + width * scale], low


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("down", "right", "words"),
    [
        (0, 1, "shifted right by 1 LR pixel"),
        (-1, 0, "shifted up by 1 LR pixel"),
        (0.5, 0, "shifted down by 1/2 LR pixel"),
        (-0.5, -0.5, "shifted up by 1/2 and left by 1/2 LR pixel"),
        (2, -3, "shifted down by 2 and left by 3 LR pixels"),
    ],
)
def test_displaced_lr_is_named_with_direction_and_amount(scale, down, right, words):
    for name in NAMES:
        verdict = check_pair(*displaced(name, scale, down, right), scale)
        assert verdict.error, (name, verdict.text)
        assert (verdict.kind, verdict.change) == ("shifted", words), (name, verdict.text)


FAULTS = {
    "flipped horizontally": ("rotated", lambda lr: lr[:, ::-1]),
    "flipped vertically": ("rotated", lambda lr: lr[::-1]),
    "rotated by 180 degrees": ("rotated", lambda lr: lr[::-1, ::-1]),
    "rotated by 90 degrees clockwise": ("rotated", lambda lr: np.rot90(lr, -1)),
    "rotated by 90 degrees counterclockwise": ("rotated", np.rot90),
    "transposed": ("rotated", lambda lr: lr.swapaxes(0, 1)),
    "BGR": ("bgr", lambda lr: lr[..., ::-1]),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("fault", FAULTS)
def test_turned_and_bgr_lr_is_named_with_its_kernel(fault, scale):
    kind, change = FAULTS[fault]
    for name in NAMES:
        hr = photo(name, scale)
        verdict = check_pair(hr, np.ascontiguousarray(change(imresize(hr, 1 / scale))), scale)
        assert (verdict.kind, verdict.error) == (kind, True), (name, verdict.text)
        assert verdict.change.startswith(fault), (name, verdict.text)
        assert verdict.kernels == ("MATLAB bicubic, arithmetic=float",)


@pytest.mark.parametrize("scale", SCALES)
def test_the_lr_of_another_image_is_named(scale):
    images = {name: photo(name, scale) for name in NAMES}
    for name, other in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True):
        verdict = check_pair(images[name], imresize(images[other], 1 / scale), scale)
        assert (verdict.kind, verdict.error) == ("other", True), (name, other, verdict.text)


def jpeg(lr, quality):
    return cv2.imdecode(cv2.imencode(".jpg", lr[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)[..., ::-1]


VALUES = {
    "16-235": ("range", lambda lr: 16 + lr * (219 / 255) + 0.5),
    "gamma 2.2": ("range", lambda lr: (lr / 255) ** 2.2 * 255 + 0.5),
    "gamma 1/2.2": ("range", lambda lr: (lr / 255) ** (1 / 2.2) * 255 + 0.5),
    "inverted": ("range", lambda lr: 255 - lr),
    "brightness": ("range", lambda lr: lr * 0.8 + 7),
    "quality about 75": ("jpeg", lambda lr: jpeg(lr.astype(np.uint8), 75)),
    "noisy": ("degraded", lambda lr: np.clip(lr + np.random.default_rng(0).normal(0, 12, lr.shape), 0, 255)),
    "blurred": ("degraded", lambda lr: cv2.GaussianBlur(lr, (0, 0), 1.2)),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("word", VALUES)
def test_changed_values_are_named_and_unknown_degradations_are_no_error(word, scale):
    kind, change = VALUES[word]
    for name in NAMES[:3]:
        hr = photo(name, scale)
        verdict = check_pair(hr, change(imresize(hr, 1 / scale).astype(np.float64)).astype(np.uint8), scale)
        assert (verdict.kind, verdict.error) == (kind, kind == "range"), (name, verdict.text)
        assert word in verdict.text, (name, verdict.text)


@pytest.mark.parametrize("scale", SCALES)
def test_a_blurred_image_of_which_the_first_pixels_are_kept_is_no_error(scale):
    for name in NAMES[1:4]:
        hr = photo(name, scale)
        low = np.ascontiguousarray(cv2.GaussianBlur(hr, (0, 0), 0.55 * scale, sigmaY=0.9 * scale)[::scale, ::scale])
        noise = np.random.default_rng(1).normal(0, 15, low.shape)
        for lr in (low, np.clip(low + noise, 0, 255).astype(np.uint8)):
            verdict = check_pair(hr, lr, scale)
            assert verdict.kind == "degraded", (name, verdict.text)


@pytest.mark.parametrize("scale", SCALES)
def test_gray_lr_of_a_color_image_is_named_with_its_conversion(scale):
    hr = photo("coffee", scale)
    lr = imresize(hr, 1 / scale)
    gray = cv2.cvtColor(lr, cv2.COLOR_RGB2GRAY)[..., None]
    y = np.floor(lr @ np.array([65.481, 128.553, 24.966]) / 255 + 16.5).astype(np.uint8)[..., None]
    for low, word in ((gray, "luma of BT.601"), (y, "16-235"), (np.repeat(gray, 3, axis=2), "luma of BT.601")):
        verdict = check_pair(hr, low, scale)
        assert (verdict.kind, verdict.error) == ("gray", True)
        assert word in verdict.change
    gray_hr = cv2.cvtColor(hr, cv2.COLOR_RGB2GRAY)[..., None]
    assert check_pair(gray_hr, lr, scale).text == "HR is gray, LR has colors"
    single = imresize(gray_hr, 1 / scale)
    for low in (single, np.repeat(single, 3, axis=2)):
        assert check_pair(gray_hr, low, scale).psnr == math.inf


@pytest.mark.parametrize("scale", SCALES)
def test_sizes_that_do_not_fit_are_explained(scale):
    hr = photo("coffee", height=203, width=253)  # 203 and 253 are no multiples of 2, 3 or 4
    whole = (253 // scale, 203 // scale)
    kind = {
        "rounded up, made by MATLAB bicubic, arithmetic=float": imresize(hr, 1 / scale),
        "was not cropped": np.asarray(PIL.Image.fromarray(hr).resize(whole, PIL.Image.Resampling.BICUBIC)),
        "252x192 from the top left": imresize(hr[:192, :252], 1 / scale),
        "has the size of HR": hr,
        "is scale=7 right?": imresize(hr[:203, :252], 1 / 7),
        "probably the LR of another image": imresize(hr, 0.41 / scale),
    }
    for word, lr in kind.items():
        verdict = check_pair(hr, lr, scale)
        assert verdict.error, word
        assert word in verdict.text
    assert check_pair(hr, imresize(modcrop(hr, scale), 1 / scale), scale).psnr == math.inf


@pytest.mark.parametrize("orientation", range(2, 9))
def test_lr_that_was_turned_by_the_exif_orientation_of_hr_is_named(orientation):
    hr = photo("rocket", height=203, width=253)
    lr = imresize(modcrop(turn(hr, orientation), 4), 0.25)
    verdict = check_pair(hr, lr, 4, orientation=orientation)
    assert (verdict.kind, verdict.error, verdict.psnr) == ("rotated", True, math.inf), verdict.text
    assert f"EXIF orientation {orientation} of HR" in verdict.text


@pytest.mark.parametrize("scale", SCALES)
def test_smooth_constant_and_tiny_images_raise_no_alarm(scale):
    y, x = np.mgrid[:120, :144]
    ramp = np.repeat((0.2 * x + 0.1 * y).astype(np.uint8)[..., None], 3, axis=2)
    for hr in (np.full((120, 144, 3), 128, np.uint8), np.zeros((120, 144, 1), np.uint8)):
        verdict = check_pair(hr, hr[: 120 // scale, : 144 // scale], scale)
        assert verdict.kind == "unclear"
        assert "cannot tell" in verdict.text
    near = np.clip(imresize(ramp, 1 / scale).astype(int) + (np.arange(144 // scale) % 2)[None, :, None], 0, 255)
    assert check_pair(ramp, near.astype(np.uint8), scale).kind == "unclear"
    detailed = photo("coffee", height=40, width=40)
    for side in (1, 2, 3, 5, 9):
        hr = detailed[: side * scale, : side * scale]
        assert not check_pair(hr, imresize(hr, 1 / scale), scale).error


def test_depths_and_alpha_are_compared_as_training_reads_them():
    hr = photo("coffee", 2)
    lr = imresize(hr, 0.5)
    deep = hr.astype(np.uint16) * 257
    assert check_pair(deep, imresize(deep, 0.5), 2).kernels[0] == "MATLAB bicubic, arithmetic=float"
    assert check_pair(deep, lr, 2).psnr == math.inf
    assert check_pair(np.dstack([hr, np.full(hr.shape[:2], 9, np.uint8)]), lr, 2).psnr == math.inf
    with pytest.raises(ValueError, match="scale=0"):
        check_pair(hr, lr, 0)


def pairs_of(scale, make=None):
    images = {name: photo(name, scale) for name in NAMES}
    make = make or (lambda hr, index: imresize(hr, 1 / scale))
    return list(images), list(images.values()), [make(hr, i) for i, hr in enumerate(images.values())]


@pytest.mark.parametrize("scale", SCALES)
def test_the_summary_names_the_kernel_of_the_set_once(scale):
    found = check_pairs(zip(*pairs_of(scale), strict=True), scale)
    assert found.problems == []
    assert found.notes == ["LR was made by MATLAB bicubic, arithmetic=float (all of 5 pairs, identical)"]
    mixed = pairs_of(scale, lambda hr, i: (pillow("BOX") if i in (1, 3) else matlab("uint8"))(hr, scale))
    found = check_pairs(zip(*mixed, strict=True), scale)
    assert found.problems == []
    assert found.kernels == {"MATLAB bicubic, arithmetic=uint8": 3, "Pillow box": 2}
    assert "2 different kernels" in found.notes[0]
    assert "coffee, chelsea" in found.notes[0]


@pytest.mark.parametrize("scale", SCALES)
def test_faults_of_the_whole_set_are_one_line_and_of_some_pairs_another(scale):
    names, hrs, lrs = pairs_of(scale)
    bgr = check_pairs(zip(names, hrs, [np.ascontiguousarray(lr[..., ::-1]) for lr in lrs], strict=True), scale)
    assert len(bgr.problems) == 1
    assert bgr.problems[0].startswith("all of 5 pairs: LR is BGR")
    some = [np.ascontiguousarray(lr[::-1]) if i in (0, 4) else lr for i, lr in enumerate(lrs)]
    found = check_pairs(zip(names, hrs, some, strict=True), scale)
    assert found.problems[0].startswith("2 of 5 pairs (astronaut, motorcycle_left): LR is flipped vertically")
    assert found.notes == ["LR was made by MATLAB bicubic, arithmetic=float (3 of 5 pairs, identical)"]


@pytest.mark.parametrize("scale", SCALES)
def test_shifted_and_shuffled_names_are_told_apart(scale):
    names, hrs, lrs = pairs_of(scale)
    looks = [look_at(*pair, scale) for pair in zip(names, hrs, [*lrs[1:], lrs[0]], strict=True)]
    found = summarize(looks)
    assert len(found.problems) == 1
    assert "shifted by 1 image: the LR of astronaut belongs to the HR of coffee" in found.problems[0]
    assert found.belongs == dict(zip(names, [*names[1:], names[0]], strict=True))
    order = (1, 0, 2, 4, 3)
    mixed = [lrs[i] for i in order]
    looks = [look_at(*pair, scale, thorough=False) for pair in zip(names, hrs, mixed, strict=True)]
    found = summarize(looks)
    assert "shuffled: the LR of astronaut belongs to the HR of coffee" in found.problems[0]
    assert found.belongs == {name: names[i] for name, i in zip(names, order, strict=True) if name != names[i]}


def test_frames_of_a_video_that_are_one_late_are_named():
    image = photograph("coffee")
    frames = [np.ascontiguousarray(image[40 + n : 240 + n, 60 + 3 * n : 360 + 3 * n]) for n in range(12)]
    low = [imresize(frame, 0.25) for frame in frames]
    names = [f"{n:08d}" for n in range(11)]
    late = check_pairs(zip(names, frames, low[1:], strict=False), 4)
    assert len(late.problems) == 1
    assert "shifted by 1 image: the LR of 00000000 belongs to the HR of 00000001" in late.problems[0]
    right = check_pairs(zip(names, frames, low, strict=False), 4)
    assert (right.problems, right.belongs) == ([], {})
    noise = np.random.default_rng(0)
    rough = [np.clip(lr + noise.normal(0, 6, lr.shape), 0, 255).astype(np.uint8) for lr in low]
    assert check_pairs(zip(names, frames, rough, strict=False), 4).problems == []
