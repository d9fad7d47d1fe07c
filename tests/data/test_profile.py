"""Color profiles: read from every format, written to every format, checked with Pillow and tifffile."""

import io

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import tifffile

from sr_train.data.images import WITH_PROFILE, decode_image, encode_image, read_profile

SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK = SRGB[:16] + b"CMYK" + SRGB[20:]
LONG = SRGB + bytes(200_000)  # several segments of a JPEG

KINDS = [
    (".png", np.uint8),
    (".png", np.uint16),
    (".jpg", np.uint8),
    (".webp", np.uint8),
    (".tiff", np.uint8),
    (".tif", np.uint16),
]


def image(channels, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (12, 10, channels), dtype, endpoint=True)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
@pytest.mark.parametrize("profile", [SRGB, LONG], ids=["short", "long"])
def test_a_profile_is_read_back_and_pixels_stay(suffix, dtype, channels, profile, tmp_path):
    if channels == 4 and suffix == ".jpg":
        pytest.skip("JPEG has no alpha")
    if channels == 1:
        profile = profile[:16] + b"GRAY" + profile[20:]
    pixels = image(channels, dtype)
    data = encode_image(pixels, suffix, profile=profile)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    back = 3 if suffix == ".webp" and channels == 1 else channels
    if back == channels:
        assert read_profile(path, channels) == profile
    plain = encode_image(pixels, suffix)
    assert np.array_equal(decode_image(data, path), decode_image(plain, path))
    with PIL.Image.open(io.BytesIO(data)) as opened:  # decoders that are not ours agree
        opened.load()
        assert opened.info["icc_profile"] == profile
    if suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(io.BytesIO(data)) as opened:
            assert opened.pages[0].iccprofile == profile
            assert np.array_equal(opened.asarray().reshape(pixels.shape), pixels)


def test_a_bmp_has_no_profile():
    assert ".bmp" not in WITH_PROFILE
    assert encode_image(image(3), ".bmp", profile=SRGB) == encode_image(image(3), ".bmp")


@pytest.mark.parametrize(
    ("profile", "channels"),
    [(CMYK, 3), (GRAY, 3), (SRGB, 1), (b"x" * 400, 3), (SRGB[:100], 3)],
    ids=[
        "cmyk",
        "gray",
        "rgb for gray pixels",
        "no profile",
        "cut",
    ],  # profiles contain the time at which they are made
)
def test_profiles_of_other_colors_and_damaged_ones_are_ignored(profile, channels, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_image(image(channels), ".png", profile=profile))
    assert read_profile(tmp_path / "a.png", channels) is None


def test_a_file_that_is_no_image_has_no_profile(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    assert read_profile(tmp_path / "a.png", 3) is None
    assert read_profile(tmp_path / "missing.png", 3) is None
