"""Generated files of every kind decode to the pixels that were written, as Pillow and tifffile do, or say why not."""

import io
import struct
from typing import Any, cast

import cv2
import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from sr_train.data.images import ImageError, decode_image, read_header, read_image, read_upright
from sr_train.data.sources import open_source
from sr_train.data.store.builder import StoreBuilder
from tests.data.generated import bmp, chunk, frame_control, png, scanlines, tiff

H, W = 13, 21
RANDOM = np.random.default_rng(5)
RGB = RANDOM.integers(0, 256, (H, W, 3)).astype(np.uint8)
RGB16 = RANDOM.integers(0, 65536, (H, W, 3)).astype(np.uint16)
ALPHA = np.array([0, 1, 90, 128, 254, 255], np.uint8)[RANDOM.integers(0, 6, (H, W, 1))]
ALPHA16 = np.array([0, 1, 300, 40000, 65534, 65535], np.uint16)[RANDOM.integers(0, 6, (H, W, 1))]
RGBA, RGBA16 = np.dstack([RGB, ALPHA]), np.dstack([RGB16, ALPHA16])
GRAY, GRAY16 = RGB[..., :1], RGB16[..., :1]
EXTREMES = np.where(GRAY > 127, 255, 0).astype(np.uint8)
PALETTE = RANDOM.integers(0, 256, (256, 3)).astype(np.uint8)
TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: np.rot90,
}


def low(bits):
    """Samples of a few bits, and the gray that they mean."""
    samples = (GRAY >> (8 - bits)).astype(np.uint8)
    return samples, (samples.astype(int) * 255 // (2**bits - 1)).astype(np.uint8)


def with_alpha(gray, alpha):
    return np.concatenate([gray] * 3 + [alpha], axis=2)


def unpremultiplied(image):
    """Straight colors as Pillow computes them, in floats of 64 bits."""
    top = np.iinfo(image.dtype).max
    alpha = image[..., 3:].astype(float)
    colors = np.floor(image[..., :3] * float(top) / np.maximum(alpha, 1) + 1e-9).clip(0, top)
    return np.concatenate([np.where(alpha == 0, 0, colors).astype(image.dtype), image[..., 3:]], axis=2)


def saved(image, form, **options):
    out = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(out, form, **options)
    return out.getvalue()


def exif(orientation):
    found = PIL.Image.Exif()
    found[0x112] = orientation
    return found


# -- the files: name -> (bytes, expected pixels) ---------------------------------------------------------------------


def tiffs():
    plain = {
        "rgb": (RGB, 2, 8, {}, RGB),
        "rgb16": (RGB16, 2, 16, {}, RGB16),
        "gray": (GRAY, 1, 8, {}, GRAY),
        "gray16": (GRAY16, 1, 16, {}, GRAY16),
        "white is zero": (GRAY, 0, 8, {}, 255 - GRAY),
        "white is zero 16": (GRAY16, 0, 16, {}, 65535 - GRAY16),
        "rgba": (RGBA, 2, 8, {"extra": [2]}, RGBA),
        "rgba16": (RGBA16, 2, 16, {"extra": [2]}, RGBA16),
        "palette": (GRAY, 3, 8, {"palette": PALETTE}, PALETTE[GRAY[..., 0]]),
    }
    found = {}
    for name, (samples, photometric, bits, more, expected) in plain.items():
        ways = {
            "raw": {},
            "big-endian": {"order": ">"},
            "deflate": {"compression": 8},
            "PackBits": {"compression": 32773},
        }
        ways |= {"old deflate": {"compression": 32946}, "one strip": {"rows": H}, "BigTIFF": {"big": True}}
        ways |= {"tiles": {"tile": (16, 16)}, "deflate tiles": {"tile": (16, 16), "compression": 8}}
        ways |= {"one tile": {"tile": (32, 16)}}
        if name != "palette":
            ways |= {"predictor": {"predictor": 2, "compression": 8}}
            ways |= {"big-endian predictor": {"predictor": 2, "compression": 8, "order": ">"}}
        for way, options in ways.items():
            found[f"{name}, {way}"] = tiff(samples, photometric, bits, **more, **options), expected
    for bits in (1, 2, 4):
        samples, gray = low(bits)
        colors = PALETTE[:: 256 // 2**bits][: 2**bits]
        for way, options in {"raw": {}, "deflate": {"compression": 8}, "tiles": {"tile": (16, 16)}}.items():
            found[f"gray{bits}, {way}"] = tiff(samples, 1, bits, **options), gray
            found[f"white is zero {bits}, {way}"] = tiff(samples, 0, bits, **options), 255 - gray
            found[f"palette{bits}, {way}"] = tiff(samples, 3, bits, palette=colors, **options), colors[samples[..., 0]]
        found[f"gray{bits}, bits reversed"] = tiff(samples, 1, bits, fill=2), gray
        found[f"gray{bits}, bits reversed, deflate"] = tiff(samples, 1, bits, fill=2, compression=8), gray
    for number, turn in TURNED.items():
        for name in ("rgb", "rgb16", "gray16", "palette", "rgba16"):
            samples, photometric, bits, more, expected = plain[name]
            for order in "<>":
                data = tiff(samples, photometric, bits, orientation=number, order=order, **more)
                found[f"{name}, orientation {number}, {order}"] = data, turn(expected)
    found["rgb, two planes more"] = tiff(np.dstack([RGB, GRAY, GRAY]), 2, extra=[0, 0]), RGB
    found["rgb, a channel without meaning"] = tiff(RGBA, 2, extra=[0]), RGB
    found["rgb16, a channel without meaning"] = tiff(RGBA16, 2, 16, extra=[0]), RGB16
    found["rgba, not said what the fourth is"] = tiff(RGBA, 2), RGBA
    found["rgba, premultiplied"] = tiff(RGBA, 2, extra=[1]), unpremultiplied(RGBA)
    found["rgba, premultiplied, deflate"] = tiff(RGBA, 2, extra=[1], compression=8), unpremultiplied(RGBA)
    found["rgba16, premultiplied"] = tiff(RGBA16, 2, 16, extra=[1]), unpremultiplied(RGBA16)
    found["gray with alpha"] = tiff(np.dstack([GRAY, ALPHA]), 1, extra=[2]), with_alpha(GRAY, ALPHA)
    found["gray, a channel without meaning"] = tiff(np.dstack([GRAY, ALPHA]), 1, extra=[0]), GRAY
    found["gray, bits reversed"] = tiff(GRAY, 1, fill=2), GRAY
    found["planes"] = tiff(RGB, 2, planes=True), RGB
    found["planes, deflate"] = tiff(RGB, 2, planes=True, compression=8), RGB
    found["planes, tiles"] = tiff(RGB, 2, planes=True, tile=(16, 16)), RGB
    found["thumbnails behind"] = tiff(RGB, 2, pages=3, subfile=1), RGB
    return found


def odd_tiles():
    return {
        f"{name}, tiles of {tile}, {compression}": (
            tiff(samples, 2 if samples.shape[2] == 3 else 1, bits, tile=tile, compression=compression),
            expected,
        )
        for tile in ((20, 12), (24, 7), (5, 5), (33, 40))
        for compression in (1, 8)
        for name, samples, bits, expected in (("rgb", RGB, 8, RGB), ("rgb16", RGB16, 16, RGB16), ("gray1", *low_1()))
    }


def low_1():
    samples, gray = low(1)
    return samples, 1, gray


def bmps():
    found = {}
    indices = {1: low(1)[0][..., 0], 4: low(4)[0][..., 0], 8: GRAY[..., 0]}
    for bits, index in indices.items():
        colors = PALETTE[: 2**bits]
        for size in (12, 40, 64, 108, 124):
            found[f"palette{bits}, header {size}"] = bmp(index, bits, size, palette=colors), colors[index]
        found[f"palette{bits}, top down"] = bmp(index, bits, palette=colors, top_down=True), colors[index]
    found["palette8, RLE"] = bmp(indices[8], 8, palette=PALETTE, rle=True), PALETTE[indices[8]]
    swapped = np.array([[255] * 3, [0] * 3], np.uint8)
    found["palette1, swapped"] = bmp(indices[1], 1, palette=swapped), swapped[indices[1]]
    for size in (12, 40, 64, 108, 124):
        found[f"rgb, header {size}"] = bmp(RGB, 24, size), RGB
    found["rgb, top down"] = bmp(RGB, 24, top_down=True), RGB
    wide = RGBA.astype(np.uint32)
    bgra = wide[..., 3] << 24 | wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    found["32 bits"] = bmp(bgra, 32), RGB
    usual = (0xFF0000, 0xFF00, 0xFF)
    found["32 bits, header 52"] = bmp(bgra, 32, 52, masks=usual), RGB
    for size in (56, 108, 124):
        found[f"32 bits with alpha, header {size}"] = bmp(bgra, 32, size, masks=(*usual, 0xFF000000)), RGBA
    rgba = wide[..., 3] << 24 | wide[..., 2] << 16 | wide[..., 1] << 8 | wide[..., 0]
    found["32 bits, RGBA, header 56"] = bmp(rgba, 32, 56, masks=(0xFF, 0xFF00, 0xFF0000, 0xFF000000)), RGBA
    five, six = wide >> 3, wide >> 2
    packed = five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]
    found["15 bits"] = bmp(packed, 16), (five[..., :3] * 255 // 31).astype(np.uint8)
    packed = five[..., 0] << 11 | six[..., 1] << 5 | five[..., 2]
    expected = np.dstack([five[..., 0] * 255 // 31, six[..., 1] * 255 // 63, five[..., 2] * 255 // 31]).astype(np.uint8)
    found["16 bits"] = bmp(packed, 16, 56, masks=(0xF800, 0x7E0, 0x1F, 0)), expected
    return found


def pngs():
    found = {}
    for interlaced in (False, True):
        way = "interlaced" if interlaced else "plain"
        kinds = {"rgb": (RGB, 2, 8), "rgb16": (RGB16, 2, 16), "rgba": (RGBA, 6, 8), "rgba16": (RGBA16, 6, 16)}
        kinds |= {"gray": (GRAY, 0, 8), "gray16": (GRAY16, 0, 16)}
        for name, (samples, color, bits) in kinds.items():
            found[f"{name}, {way}"] = png(samples, color, bits, interlaced=interlaced), samples
        for bits, gray, alpha in ((8, GRAY, ALPHA), (16, GRAY16, ALPHA16)):
            samples = np.concatenate([gray, alpha], axis=2)
            found[f"gray and alpha {bits}, {way}"] = (
                png(samples, 4, bits, interlaced=interlaced),
                with_alpha(gray, alpha),
            )
        for bits in (1, 2, 4):
            samples, gray = low(bits)
            found[f"gray{bits}, {way}"] = png(samples, 0, bits, interlaced=interlaced), gray
            key = chunk(b"tRNS", struct.pack(">H", 1))
            alpha = np.where(samples == 1, 0, 255).astype(np.uint8)
            found[f"gray{bits}, tRNS, {way}"] = (
                png(samples, 0, bits, interlaced=interlaced, before=[key]),
                with_alpha(gray, alpha),
            )
        for bits in (1, 2, 4, 8):
            samples = (GRAY >> (8 - bits)).astype(np.uint8)
            colors = PALETTE[: 2**bits]
            plte = chunk(b"PLTE", colors.tobytes())
            expected = colors[samples[..., 0]]
            found[f"palette{bits}, {way}"] = png(samples, 3, bits, interlaced=interlaced, before=[plte]), expected
            opacity = np.arange(2**bits, dtype=np.uint8) * (255 // (2**bits - 1))
            chunks = [plte, chunk(b"tRNS", opacity.tobytes())]
            expected = np.dstack([expected, opacity[samples[..., 0]]])
            found[f"palette{bits}, tRNS, {way}"] = png(samples, 3, bits, interlaced=interlaced, before=chunks), expected
        for name, samples, color, top in (
            ("gray", GRAY, 0, 255),
            ("gray16", GRAY16, 0, 65535),
            ("rgb", RGB, 2, 255),
            ("rgb16", RGB16, 2, 65535),
        ):
            key = samples[3, 4]
            before = [chunk(b"tRNS", key.astype(">u2").tobytes())]
            alpha = np.where((samples == key).all(axis=2, keepdims=True), 0, top).astype(samples.dtype)
            colors = np.concatenate([samples] * (1 if color else 3), axis=2)
            data = png(samples, color, 16 if top > 255 else 8, interlaced=interlaced, before=before)
            found[f"{name}, tRNS, {way}"] = data, np.concatenate([colors, alpha], axis=2)
    one = [chunk(b"acTL", struct.pack(">II", 1, 0)), frame_control(0, W, H)]
    found["animation of one frame"] = png(RGB, 2, before=one), RGB
    found["animation of one frame, 16 bits"] = png(RGB16, 2, 16, before=one), RGB16
    return found


KINDS = {"tif": {**tiffs(), **odd_tiles()}, "bmp": bmps(), "png": pngs()}
EXACT = {f"{kind}: {name}": case for kind, made in KINDS.items() for name, case in made.items()}


def lossy():
    """Files that only a decoder can interpret, compared with Pillow: JPEG, WebP, AVIF, JPEG in TIFF, CMYK."""
    smooth = np.asarray(PIL.Image.fromarray(RGB).resize((64, 48), PIL.Image.Resampling.BICUBIC))
    picture = PIL.Image.fromarray(smooth)
    alpha = PIL.Image.fromarray(np.dstack([smooth, smooth[..., 0]]))
    found = {}
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            found[f"jpg: {mode}, progressive {progressive}"] = saved(
                picture.convert(mode), "JPEG", progressive=progressive
            )
    for sampling in (0, 1, 2):
        for quality in (30, 100):
            options = {"subsampling": sampling, "quality": quality}
            found[f"jpg: subsampling {sampling}, quality {quality}"] = saved(picture, "JPEG", **options)
    for number in range(1, 9):
        found[f"jpg: orientation {number}"] = saved(picture, "JPEG", exif=exif(number))
        found[f"png: EXIF orientation {number}"] = saved(picture, "PNG", exif=exif(number))
        found[f"webp: orientation {number}"] = saved(picture, "WEBP", lossless=True, exif=exif(number))
    for name, image in (
        ("rgb", picture),
        ("rgba", alpha),
        ("palette", picture.quantize(9)),
        ("gray", picture.convert("L")),
    ):
        for options in ({"lossless": True, "exact": True}, {"quality": 60}):
            found[f"webp: {name}, {options}"] = saved(image, "WEBP", **options)
        if PIL.features.check("avif"):
            found[f"avif: {name}"] = saved(image, "AVIF", quality=70)
    modes = (picture, alpha, picture.convert("L"), picture.quantize(16), picture.convert("1"))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"):
        for image in (*modes, picture.convert("CMYK"), picture.convert("LA")):
            try:
                data = saved(image, "TIFF", compression=compression)
            except OSError:  # this Pillow lacks the compression
                continue
            found[f"tif: {image.mode}, {compression}"] = data
    found["tif: gray, JPEG"] = saved(picture.convert("L"), "TIFF", compression="jpeg")
    found["tif: rgb, JPEG"] = saved(picture, "TIFF", compression="jpeg")
    found["tif: YCbCr, JPEG"] = saved(picture.convert("YCbCr"), "TIFF", compression="jpeg")
    for fax in ("group3", "group4", "tiff_ccitt"):
        found[f"tif: {fax}"] = saved(picture.convert("1"), "TIFF", compression=fax)
    found["tif: gray with premultiplied alpha"] = tiff(np.dstack([GRAY, ALPHA]), 1, extra=[1])
    found["tif: palette with alpha"] = tiff(np.dstack([GRAY, ALPHA]), 3, extra=[2], palette=PALETTE)
    found["tif: CMYK planes"] = tiff(RGBA, 5, planes=True)
    return found


LOSSY = lossy()


def by_pillow(data):
    """The pixels of an 8-bit image according to Pillow, without help from sr-train; None for 16-bit colors."""
    image = PIL.Image.open(io.BytesIO(data))
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        white_is_zero = cast("Any", image).tag_v2.get(262) == 0 if image.format == "TIFF" else False
        return None if white_is_zero or "transparency" in image.info else pixels[..., None]  # Pillow ignores both
    if any(mode in str(tile[3]) for tile in image.tile for mode in (";16L", ";16B", ";16N")):
        return None
    if image.mode == "La":
        image = image.convert("LA")
    if "A" in image.mode or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def check_file(tmp_path, name, data):
    """Write the file, compare the header with the pixels, and return them."""
    path = tmp_path / f"x.{name.partition(':')[0]}"
    path.write_bytes(data)
    pixels, header = read_image(path), read_header(path)
    assert (header.height, header.width, header.channels) == pixels.shape
    assert header.dtype == pixels.dtype
    assert np.array_equal(decode_image(data, path), pixels)
    return pixels


@pytest.mark.parametrize("name", EXACT)
def test_files_written_byte_by_byte_decode_to_what_was_written(tmp_path, name):
    data, expected = EXACT[name]
    pixels = check_file(tmp_path, name, data)
    assert pixels.dtype == expected.dtype
    assert np.array_equal(pixels, expected)


# Pillow misplaces tiles of odd widths, and compares the transparent gray of 2 and 4 bits with samples that it has spread
OTHERWISE = ("tiles of", "png: gray2, tRNS", "png: gray4, tRNS", "tif: white is zero 16, big-endian")


@pytest.mark.parametrize("name", [n for n in EXACT if not any(o in n for o in OTHERWISE)])
def test_pillow_agrees_where_it_does_not_reduce_depth(name):
    data, expected = EXACT[name]
    seen = by_pillow(data)
    if seen is None:
        assert expected.dtype == np.uint16
    else:
        assert np.array_equal(seen, expected)


@pytest.mark.parametrize("name", LOSSY)
def test_compressed_files_decode_as_pillow_says(tmp_path, name):
    expected = by_pillow(LOSSY[name])
    assert expected is not None
    assert np.array_equal(check_file(tmp_path, name, LOSSY[name]), expected)


@pytest.mark.parametrize(
    "name", [n for n in EXACT if n.startswith("tif: ") and "orientation" not in n and "PackBits" not in n]
)
def test_tifffile_agrees_about_the_samples(name):
    """tifffile returns samples as stored: no palette, no inversion, no alpha, no orientation."""
    data, expected = EXACT[name]
    if "palette" in name or "gray1" in name or "gray2" in name or "gray4" in name or "premultiplied" in name:
        pytest.skip("tifffile returns the samples before they are interpreted")
    if " 1, " in name or " 2, " in name or " 4, " in name:
        pytest.skip("tifffile returns the samples before they are interpreted")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        samples = file.pages[0].asarray()
    samples = samples.transpose(1, 2, 0) if name.startswith("tif: planes") else samples
    samples = samples[..., None] if samples.ndim == 2 else samples
    samples = np.iinfo(samples.dtype).max - samples if "white is zero" in name else samples
    samples = with_alpha(samples[..., :1], samples[..., 1:]) if samples.shape[2] == 2 else samples
    assert np.array_equal(samples[..., : expected.shape[2]], expected)


def test_16_bit_colors_in_every_compression_of_opencv(tmp_path):
    seen = 0
    for kind in (1, 5, 8, 32773, 32946):
        for image in (RGB16, RGBA16):
            order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
            done, data = cv2.imencode(".tiff", cv2.cvtColor(image, order), [cv2.IMWRITE_TIFF_COMPRESSION, kind])
            assert done
            assert np.array_equal(check_file(tmp_path, "tif: x", data.tobytes()), image)
            seen += 1
    assert seen == 10


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_upright_is_upright_once(tmp_path, kind, number):
    form = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
    path = tmp_path / f"x.{kind}"
    path.write_bytes(saved(RGB, form, exif=exif(number), **({"lossless": True} if kind == "webp" else {})))
    with PIL.Image.open(path) as image:
        stored = np.asarray(image)
        expected = stored if kind == "tif" else np.asarray(PIL.ImageOps.exif_transpose(image))
    assert np.array_equal(read_upright(path), expected)
    assert np.array_equal(read_image(path), expected if kind == "tif" else stored)
    if kind != "jpg":
        assert np.array_equal(expected, TURNED[number](RGB))


def test_training_stores_and_upscaling_see_the_same_pixels(tmp_path):
    names = [
        "tif: rgb16, orientation 6, <", "tif: rgba, premultiplied", "tif: white is zero 16, raw", "tif: palette4, raw",
        "bmp: 32 bits with alpha, header 56", "bmp: palette1, header 12", "png: gray16, tRNS, plain", "png: palette2, plain",
    ]  # fmt: skip
    (tmp_path / "images").mkdir()
    for k, name in enumerate(names):
        (tmp_path / "images" / f"{k}.{name[:3]}").write_bytes(EXACT[name][0])
    StoreBuilder(tmp_path / "images", tmp_path / "x.lmdb", scales=[]).build()
    folder, store = open_source(tmp_path / "images"), open_source(tmp_path / "x.lmdb")
    for k, name in enumerate(names):
        expected = EXACT[name][1]
        assert np.array_equal(folder.read(k), expected)
        assert np.array_equal(store.read(k), expected)
        assert folder.shape(k) == store.shape(k) == expected.shape
        assert np.array_equal(read_upright(tmp_path / "images" / f"{k}.{name[:3]}"), expected)


# -- what is refused -------------------------------------------------------------------------------------------------


def animation(form, count=3):
    frames = [PIL.Image.fromarray(np.roll(RGB, k, axis=1)) for k in range(count)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


def refused():
    rest = [chunk(b"acTL", struct.pack(">II", 1, 0))]
    apart = [frame_control(0, W, H), chunk(b"fdAT", struct.pack(">I", 1) + scanlines(RGB, 8))]
    found = {
        "png: animated": (animation("PNG"), "an animated PNG of 3 frames; a file must contain one image"),
        "png: a default image apart from the animation": (png(RGB, 2, before=rest, after=apart), "an animated PNG of 2 f"),
        "webp: animated": (animation("WEBP"), "an animated WebP of 3 frames"),
        "tif: pages": (animation("TIFF", 4), "a TIFF of 4 pages; a file must contain one image"),
        "tif: pages of another writer": (tiff(RGB, 2, pages=2), "a TIFF of 2 pages"),
        "jpg: MPO": (animation("MPO"), r"a JPEG \(MPO\) of 3 pictures"),
        "png: gif": (saved(RGB, "GIF"), "a GIF, a format that cannot be read; convert it to png"),
        "jpg: jpeg xl": (b"\xff\x0a" + bytes(50), "a JPEG XL image, a format that cannot be read; convert it to png"),
        "jpg: jpeg xl in a container": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL image"),
        "png: jpeg 2000": (saved(RGB, "JPEG2000"), "a JPEG 2000 image"),
        "jpg: heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "a HEIC image"),
        "png: ppm": (saved(RGB, "PPM"), "a PPM image"),
        "tif: int8": (tiff(GRAY, 1, kind=2), "contains int8 pixels; 8 and 16 bit are supported"),
        "tif: int16": (tiff(GRAY16, 1, 16, kind=2), "contains int16 pixels"),
        "tif: half": (tiff(GRAY16, 1, 16, kind=3), "contains float16 pixels"),
        "tif: 12 bits": (tiff(GRAY16 >> 4, 1, 12, rows=H), "contains uint12 pixels; 8 and 16 bit are supported"),
        "tif: RGB of 4 bits": (tiff(RGB >> 4, 2, 4), "contains RGB of 4 bits per sample, which cannot be decoded; save"),
        "tif: unequal bits": (tiff(RGB, 2, tags=[(258, 3, [5, 6, 5])]), r"samples of unequal size \(5, 6, 5 bits\)"),
        "tif: gray16 with alpha": (
            tiff(np.dstack([GRAY16, ALPHA16]), 1, 16, extra=[2]),
            r"16-bit gray with more samples per pixel \(alpha\) cannot be decoded",
        ),
        "tif: two samples": (tiff(np.dstack([GRAY, ALPHA]), 1), "has 2 samples per pixel; gray needs 1, or 2 with alpha"),
        "tif: CMYK16": (tiff(RGBA16, 5, 16), "contains 16-bit CMYK colors"),
        "tif: other inks": (tiff(RGBA, 5, tags=[(332, 3, [2])]), "contains other inks than CMYK"),
        "tif: Lab": (tiff(RGB, 8), r"contains CIE L\*a\*b\* colors, which cannot be decoded; save the image as gray"),
        "tif: raw": (tiff(GRAY16, 32803, 16), "contains the raw pixels of a camera"),
        "tif: DNG": (tiff(RGB, 2, tags=[(50706, 4, [1])]), r"the raw photograph of a camera \(DNG\); develop it"),
        "tif: planes of 16 bits": (tiff(RGB16, 2, 16, planes=True), "a 16-bit TIFF with separate color planes"),
        "tif: planes with alpha": (tiff(RGBA, 2, planes=True, extra=[1]), "a TIFF with separate color planes and alpha"),
        "tif: reversed bits of RGB": (tiff(RGB, 2, fill=2), r"in reverse order \(FillOrder 2\)"),
        "tif: a strip is missing": (tiff(RGB, 2, drop=1), "corrupt or truncated image .it has 2 of 3 strips"),
        "tif: a tile is missing": (tiff(RGB16, 2, 16, tile=(16, 16), drop=1), "it has 1 of 2 strips or tiles"),
        "tif: RGB16, LZMA": (tiff(RGB16, 2, 16, compression=34925), "OpenCV cannot decode the compression LZMA of this TIFF"),
        "tif: RGB16, zstd": (tiff(RGB16, 2, 16, compression=50000), "OpenCV cannot decode the compression zstd of this TIFF"),
        "tif: RGB16, LERC": (tiff(RGB16, 2, 16, compression=34887), "OpenCV cannot decode the compression LERC"),
        "tif: LERC": (tiff(RGB, 2, compression=34887), "Pillow cannot decode the compression LERC of this TIFF; save it with"),
        "tif: JPEG XL": (tiff(RGB, 2, compression=50002), "Pillow cannot decode the compression JPEG XL"),
        "tif: unknown compression": (tiff(RGB, 2, compression=12345), "Pillow cannot decode the compression number 12345"),
        "tif: damaged LZMA": (tiff(RGB, 2, compression=34925)[:300] + b"?" * 900, "corrupt|header cannot be read"),
        "bmp: fields of 10 bits": (
            bmp(GRAY16[..., 0].astype(np.uint32), 32, 56, masks=(0x3FF00000, 0xFFC00, 0x3FF, 0)),
            "header cannot be read: Unsupported BMP bitfields layout",
        ),
    }  # fmt: skip
    if PIL.features.check("avif"):
        found["avif: animated"] = animation("AVIF"), "an animated AVIF of 3 frames"
        deep = bytearray(saved(RGB, "AVIF"))
        deep[deep.index(b"av1C") + 6] |= 0x40
        found["avif: 10 bits"] = (
            bytes(deep),
            "an AVIF of 10 bits, but Pillow decodes only 8 bits; convert it to a 16-bit png",
        )
    return found


REFUSED = refused()


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_not_decoded_are_refused_with_the_true_reason(tmp_path, name):
    data, reason = REFUSED[name]
    path = tmp_path / f"x.{name.partition(':')[0]}"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=rf"x\.\w+: .*{reason}"):
        read_image(path)


def test_there_are_many_kinds():
    assert len(EXACT) + len(LOSSY) + len(REFUSED) >= 150
    assert len({case[0] for case in EXACT.values()}) > 250  # different files, not different names
