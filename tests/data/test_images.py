import io
import os
import resource
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import PIL.Image
import pytest

from sr_train.console import UsageError, forget_warnings
from sr_train.data import images
from sr_train.data.images import (
    SUFFIXES,
    WRITABLE,
    BadFilesError,
    ImageError,
    decode_image,
    encode_image,
    limit_pixels,
    list_images,
    read_header,
    read_image,
    to_rgb,
    to_uint8,
    write_image,
)
from sr_train.data.toy import TRAIN, VALIDATE, toy_files

JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")
CHANNELS = {".png": (1, 3, 4), ".bmp": (1, 3), ".webp": (3, 4), ".tif": (1, 3, 4), ".tiff": (1, 3, 4)}
CHANNELS |= dict.fromkeys(JPEGS, (1, 3))
DEEP = (".png", ".tif", ".tiff")
HELD = [(s, c, d) for s in WRITABLE for c in CHANNELS[s] for d in (np.uint8, np.uint16) if d == np.uint8 or s in DEEP]
RGB = read_image(toy_files("chelsea")["chelsea"])[100:131, 150:197]


def noise(channels, dtype, shape=(31, 47)):
    random = np.random.default_rng(channels)
    return random.integers(0, np.iinfo(dtype).max + 1, (*shape, channels)).astype(dtype)


def smooth(channels):
    """A picture that JPEG likes, each channel another."""
    y, x = np.mgrid[:31, :47]
    planes = [128 + 90 * np.sin(x / 9 + c) * np.cos(y / (7 + c)) for c in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


def check_header(path):
    """Compare the header with the decoded image and return the image."""
    image = read_image(path)
    header = read_header(path)
    assert (header.height, header.width, header.channels) == image.shape
    assert header.dtype == image.dtype
    return image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, color=2, extra=b"", pixels=b""):
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def pillow(image, suffix, **options):
    out = io.BytesIO()
    image.save(out, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **options)
    return out.getvalue()


def samples():
    """Small files of every kind: suffix and bytes."""
    rgb = PIL.Image.fromarray(RGB)
    deep = RGB.astype(np.uint16) * 257
    return {
        "png": (".png", encode_image(RGB, ".png")),
        "png16": (".png", encode_image(deep, ".png")),
        "png palette": (".png", pillow(rgb.quantize(16), ".png")),
        "jpg": (".jpg", encode_image(RGB, ".jpg")),
        "jpg progressive": (".jpg", pillow(rgb, ".jpg", progressive=True)),
        "jpg cmyk": (".jpg", pillow(rgb.convert("CMYK"), ".jpg")),
        "bmp": (".bmp", encode_image(RGB, ".bmp")),
        "bmp palette": (".bmp", pillow(rgb.quantize(16), ".bmp")),
        "webp": (".webp", encode_image(RGB, ".webp")),
        "webp lossy": (".webp", pillow(rgb, ".webp", quality=80)),
        "tiff": (".tif", encode_image(RGB, ".tif")),
        "tiff16": (".tif", encode_image(deep, ".tif")),
        "tiff raw": (".tif", pillow(rgb, ".tif")),
    }


SAMPLES = samples()


# -- what is written is what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "channels", "dtype"), HELD)
def test_what_is_written_is_what_is_read(tmp_path, suffix, channels, dtype):
    path = tmp_path / f"image{suffix}"
    lossy = suffix in JPEGS
    image = smooth(channels) if lossy else noise(channels, dtype)
    write_image(path, image)
    back = check_header(path)
    assert back.shape == image.shape
    assert back.dtype == dtype
    if lossy:
        assert np.abs(back.astype(int) - image).max() <= 10
        assert np.abs(back.astype(int) - image).mean() < 1.5
    else:
        assert np.array_equal(back, image)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".jpg"])
def test_red_is_red_for_other_readers_too(tmp_path, suffix):
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    write_image(tmp_path / f"red{suffix}", image)
    assert np.abs(np.asarray(PIL.Image.open(tmp_path / f"red{suffix}").convert("RGB")).astype(int) - image).max() <= 2


@pytest.mark.parametrize("suffix", WRITABLE)
def test_suffixes_may_be_written_in_capitals(tmp_path, suffix):
    path = tmp_path / f"image{suffix.upper()}"
    write_image(path, smooth(3))
    assert read_image(path).shape == (31, 47, 3)


def test_grey_may_be_written_without_a_channel_axis(tmp_path):
    image = noise(1, np.uint16)
    write_image(tmp_path / "grey.png", image[..., 0])
    assert np.array_equal(read_image(tmp_path / "grey.png"), image)


def test_grey_becomes_rgb_in_webp_which_knows_no_grey(tmp_path):
    image = noise(1, np.uint8)
    write_image(tmp_path / "grey.webp", image)
    assert np.array_equal(check_header(tmp_path / "grey.webp"), to_rgb(image))


@pytest.mark.parametrize("name", list(SAMPLES))
def test_every_sample_decodes_to_what_its_header_says(tmp_path, name):
    suffix, data = SAMPLES[name]
    (tmp_path / f"x{suffix}").write_bytes(data)
    image = check_header(tmp_path / f"x{suffix}")
    assert image.shape == RGB.shape
    assert np.abs(to_uint8(image).astype(int) - RGB).mean() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_files_of_other_programs_decode_as_pillow_says(tmp_path, suffix, mode):
    image = PIL.Image.fromarray(RGB).convert("RGB" if mode == "P" else mode)
    image = image.quantize(8) if mode == "P" else image
    path = tmp_path / f"x{suffix}"
    try:
        image.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    except OSError:
        assert (suffix, mode) in REFUSED_BY_PILLOW
        return
    assert (suffix, mode) not in REFUSED_BY_PILLOW
    decoded = check_header(path)
    with PIL.Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(to_rgb(decoded), expected)


REFUSED_BY_PILLOW = {
    *((".png", m) for m in ("CMYK",)),
    *((".jpg", m) for m in ("LA", "P", "RGBA")),
    *((".bmp", m) for m in ("LA", "CMYK")),
}


def test_a_palette_decodes_to_its_colors_and_its_transparency_to_alpha(tmp_path):
    image = PIL.Image.fromarray(RGB).quantize(8)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=3)
    colors = np.array(image.getpalette()[:24], np.uint8).reshape(8, 3)
    index = np.asarray(image)
    assert np.array_equal(check_header(tmp_path / "plain.png"), colors[index])
    clear = check_header(tmp_path / "clear.png")
    assert np.array_equal(clear[..., :3], colors[index])
    assert np.array_equal(clear[..., 3], np.where(index == 3, 0, 255))


def test_a_palette_of_greys_and_a_transparent_color_agree_with_their_headers(tmp_path):
    grey = PIL.Image.fromarray(RGB[..., 1])
    grey.putpalette([255 - i for i in range(256) for _ in range(3)])
    for suffix in (".png", ".bmp", ".tif"):
        grey.save(tmp_path / f"grey{suffix}")
        assert np.array_equal(check_header(tmp_path / f"grey{suffix}"), to_rgb(255 - RGB[..., 1:2]))
    PIL.Image.fromarray(RGB).save(tmp_path / "clear.png", transparency=tuple(RGB[0, 0].tolist()))
    clear = check_header(tmp_path / "clear.png")
    assert np.array_equal(clear[..., 3] == 0, (RGB[0, 0] == RGB).all(axis=2))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_pixels_of_less_than_a_byte_are_spread_over_the_whole_range(tmp_path, depth):
    levels = 2**depth
    row = bytes([0, *(sum(((k + i) % levels) << (8 - depth - k * depth) for k in range(8 // depth)) for i in range(4))])
    (tmp_path / "x.png").write_bytes(png(32 // depth, 2, depth, 0, pixels=row * 2))
    image = check_header(tmp_path / "x.png")
    expected = [(k + i) % levels * 255 // (levels - 1) for i in range(4) for k in range(8 // depth)]
    assert image[..., 0].tolist() == [expected] * 2


def mpo(*kinds):
    """A JPEG of several pictures (MPO); ``kinds`` replaces the types of those after the first."""
    out = io.BytesIO()
    more = [PIL.Image.fromarray(RGB)] * len(kinds)
    PIL.Image.fromarray(smooth(3)).save(out, "MPO", save_all=True, append_images=more)
    data = bytearray(out.getvalue())
    entries = data.index(b"MPF\0") + 4 + 8 + 2 + 3 * 12 + 4  # TIFF header, three tags, offset of the next directory
    for i, kind in enumerate(kinds, 1):
        struct.pack_into("<I", data, entries + 16 * i, kind)
    return bytes(data)


def test_a_cameras_jpeg_with_previews_is_read_and_one_of_several_pictures_refused(tmp_path):
    (tmp_path / "x.jpg").write_bytes(mpo(0x010001, 0x010002))
    with PIL.Image.open(tmp_path / "x.jpg") as image:
        assert image.format == "MPO"
    assert np.abs(check_header(tmp_path / "x.jpg").astype(int) - smooth(3)).mean() < 3
    (tmp_path / "two.jpg").write_bytes(mpo(0x020002))
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"two\.jpg: a JPEG \(MPO\) of 2 pictures; a file must contain one image"):
            read(tmp_path / "two.jpg")


def test_a_header_that_stands_at_the_end_or_behind_much_is_found(tmp_path):
    image = noise(3, np.uint8, (200, 300))
    write_image(tmp_path / "x.tif", image)  # OpenCV writes the directory behind the pixels
    assert (tmp_path / "x.tif").stat().st_size > 1 << 17
    assert np.array_equal(check_header(tmp_path / "x.tif"), image)
    data = SAMPLES["jpg"][1]
    thumbnail = b"\xff\xe2" + struct.pack(">H", 65_533) + bytes(65_531)
    (tmp_path / "x.jpg").write_bytes(data[:2] + 3 * thumbnail + data[2:])
    assert np.array_equal(check_header(tmp_path / "x.jpg"), decode_image(data, "x.jpg"))


def test_pixels_stand_as_the_file_stores_them_whatever_exif_says(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    PIL.Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=exif)
    PIL.Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    assert check_header(tmp_path / "x.jpg").shape == RGB.shape
    assert np.array_equal(check_header(tmp_path / "x.png"), RGB)


def test_to_rgb_repeats_grey_and_drops_alpha():
    assert np.array_equal(to_rgb(noise(1, np.uint8)), np.concatenate([noise(1, np.uint8)] * 3, axis=2))
    assert np.array_equal(to_rgb(noise(4, np.uint16)), noise(4, np.uint16)[..., :3])
    assert np.array_equal(to_rgb(RGB), RGB)


def test_to_uint8_rounds_to_the_nearest():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    expected = [(2 * v * 255 + 65535) // (2 * 65535) for v in range(65536)]
    assert to_uint8(every).ravel().tolist() == expected
    assert to_uint8(RGB) is RGB
    assert np.array_equal(to_uint8(RGB.astype(np.uint16) * 257), RGB)


# -- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9, 0.98, -1])
@pytest.mark.parametrize("name", list(SAMPLES))
def test_a_truncated_file_is_refused_by_name(tmp_path, name, part):
    suffix, data = SAMPLES[name]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * part) if part > 0 else -20])
    with pytest.raises(ImageError, match=rf"cut\{suffix}: "):
        read_image(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_files_texts_and_folders_are_refused_by_name(tmp_path, suffix):
    empty, text, folder, missing = (tmp_path / f"{n}{suffix}" for n in ("empty", "text", "folder", "missing"))
    empty.touch()
    text.write_text("<html>404: not an image</html>\n" * 100)
    folder.mkdir()
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=rf"empty\{suffix}: the file is empty"):
            read(empty)
        with pytest.raises(ImageError, match=rf"text\{suffix}: not a readable image \(corrupt, or not one of png, jpg"):
            read(text)
        with pytest.raises(ImageError, match=rf"folder\{suffix}: cannot be read: Is a directory"):
            read(folder)
        with pytest.raises(ImageError, match=rf"missing\{suffix}: cannot be read: No such file"):
            read(missing)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_file_without_permission_is_refused_by_name(tmp_path):
    write_image(tmp_path / "x.png", RGB)
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(ImageError, match=r"x\.png: cannot be read: Permission denied"):
        read_image(tmp_path / "x.png")


def test_a_decompression_bomb_is_refused_before_anything_is_allocated(tmp_path, monkeypatch):
    monkeypatch.setattr("sr_train.data.decoding.header.free_memory", lambda device: 8 << 30)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 60_000, pixels=bytes(1000)))
    assert path.stat().st_size < 200
    tracemalloc.start()
    try:
        for read in (read_image, read_header):
            with pytest.raises(ImageError, match=r"bomb\.png: refused .* 60000x60000 pixels need about 27.0 GB"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_png_that_is_too_short_for_its_size_is_refused_however_much_memory_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr("sr_train.data.decoding.header.free_memory", lambda device: 1 << 50)
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000, pixels=bytes(1000)))
    with pytest.raises(ImageError, match=r"bomb\.png: corrupt image: \d+ bytes cannot contain the 30000x30000 pixels"):
        read_image(tmp_path / "bomb.png")


def test_free_memory_decides_how_large_an_image_may_be_and_max_pixels_lowers_it(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(png(14_000, 14_000, depth=1, color=0, pixels=bytes(1751 * 14_000)))  # 196 megapixels
    assert check_header(path).shape == (14_000, 14_000, 1)
    limit_pixels(196_000_000)
    try:
        assert read_header(path).width == 14_000
        limit_pixels(195_999_999)
        for read in (read_image, read_header):
            with pytest.raises(ImageError, match=r"14000x14000 pixels \(196000000\), more than max_pixels=195999999"):
                read(path)
    finally:
        limit_pixels(None)
    monkeypatch.setattr("sr_train.data.decoding.header.free_memory", lambda device: 400_000_000)
    with pytest.raises(ImageError, match=r"need about 0\.5 GB of memory, 0\.4 GB are free"):
        read_header(path)
    for wrong in (0, -1, True, 1.5, "many"):
        with pytest.raises(UsageError, match=r"max_pixels=.*: expected an integer of at least 1, or null"):
            limit_pixels(cast("Any", wrong))


def test_bytes_behind_a_right_header_are_refused_by_name(tmp_path):
    bad = bytearray(SAMPLES["png"][1])
    bad[len(bad) // 2] ^= 0xFF
    (tmp_path / "bad.png").write_bytes(bad)
    assert read_header(tmp_path / "bad.png").height == 31
    with pytest.raises(ImageError, match=r"bad\.png: corrupt or truncated image"):
        read_image(tmp_path / "bad.png")


def test_a_png_chunk_that_claims_gigabytes_is_refused_before_anything_is_allocated(tmp_path):
    data = bytearray(SAMPLES["png"][1])
    data[33] = 0xF8  # the length of the chunk behind the header: 4 GB
    (tmp_path / "large.png").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"large\.png: corrupt or truncated image"):
        read_image(tmp_path / "large.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_an_image_of_no_pixels_is_refused(tmp_path):
    data = bytearray(SAMPLES["bmp"][1])
    data[18:22] = bytes(4)  # its width
    (tmp_path / "none.bmp").write_bytes(data)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"none\.bmp: "):
            read(tmp_path / "none.bmp")


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int32])
def test_tiffs_of_other_numbers_are_refused(tmp_path, dtype):
    path = tmp_path / "x.tif"
    assert cv2.imwrite(str(path), np.ones((9, 8), dtype))
    with pytest.raises(ImageError, match=r"x\.tif: contains .* pixels; 8 and 16 bit are supported"):
        read_image(path)
    assert cv2.imwrite(str(path), np.ones((9, 8, 3), dtype))
    with pytest.raises(ImageError, match=r"x\.tif: "):
        read_image(path)


def test_a_cmyk_tiff_is_not_taken_for_one_with_alpha(tmp_path):
    PIL.Image.fromarray(RGB).convert("CMYK").save(tmp_path / "x.tif")
    assert np.abs(check_header(tmp_path / "x.tif").astype(int) - RGB).max() <= 1


def tiff_of_planes(planes):
    """An uncompressed TIFF [3, H, W] with PlanarConfiguration 2, one strip a plane."""
    _, height, width = planes.shape
    bits, strip = 8 * planes.itemsize, planes[0].nbytes
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 158), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 164)]
    tags += [(277, 3, 1, 3), (278, 4, 1, height), (279, 4, 3, 176), (284, 3, 1, 2)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)
    body = struct.pack("<3H3I3I", *[bits] * 3, *(188 + k * strip for k in range(3)), *[strip] * 3)
    return head.ljust(158, b"\0") + body + planes.astype(planes.dtype.newbyteorder("<")).tobytes()


def test_tiffs_of_separate_planes_are_read_in_8_bits_and_refused_in_16(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff_of_planes(RGB.transpose(2, 0, 1)))
    assert np.array_equal(check_header(tmp_path / "x.tif"), RGB)
    (tmp_path / "deep.tif").write_bytes(tiff_of_planes(noise(3, np.uint16).transpose(2, 0, 1)))
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"deep\.tif: a 16-bit TIFF with separate color planes"):
            read(tmp_path / "deep.tif")


@pytest.mark.parametrize("name", list(SAMPLES))
def test_three_hundred_damaged_files_decode_or_say_why_not(tmp_path, name):
    suffix, data = SAMPLES[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    path = tmp_path / f"x{suffix}"
    refused = 0
    for _ in range(300):
        bad = bytearray(data)
        if random.random() < 0.3:
            del bad[int(random.integers(len(bad))) :]
        for _ in range(int(random.integers(1, 6))):
            if bad:  # headers are hit as often as pixels
                reach = min(len(bad), 200) if random.random() < 0.5 else len(bad)
                bad[int(random.integers(reach))] = int(random.integers(256))
        path.write_bytes(bad)
        for read in (read_image, read_header):
            try:
                result = read(path)
            except ImageError as error:
                refused += str(path) in str(error)  # an error that does not name the file counts as none
            else:
                assert isinstance(result, images.Header) or result.dtype in (np.uint8, np.uint16)
    assert 60 < refused < 600


@pytest.mark.parametrize(
    ("image", "suffix", "message"),
    [
        (RGB, ".gif", r"cannot write an image as '\.gif': choose one of \.png"),
        (RGB, "", "cannot write an image as 'a file without suffix'"),
        (RGB.astype(np.float32), ".png", r"an image is \[H, W, 1\|3\|4\] uint8 or uint16, not float32"),
        (RGB[..., :2], ".png", r"not uint8 \(31, 47, 2\)"),
        (RGB[None], ".png", r"not uint8 \(1, 31, 47, 3\)"),
        (noise(3, np.uint16), ".jpg", r"\.jpg files have 8 bits per sample, the image has 16: write \.png or \.tiff"),
        (noise(3, np.uint16), ".webp", r"\.webp files have 8 bits per sample"),
        (noise(3, np.uint16), ".BMP", r"\.bmp files have 8 bits per sample"),
        (noise(4, np.uint8), ".jpg", r"\.jpg files have no alpha channel: write \.png, \.webp or \.tiff"),
        (noise(4, np.uint8), ".bmp", r"\.bmp files have no alpha channel"),
        (np.zeros((1, 70_000, 3), np.uint8), ".jpg", r"cannot encode \(1, 70000, 3\) as \.jpg"),
        (np.zeros((20_000, 1, 3), np.uint8), ".webp", r"cannot encode \(20000, 1, 3\) as \.webp"),
        (np.zeros((0, 5, 3), np.uint8), ".png", r"cannot encode \(0, 5, 3\) as \.png"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_the_old_file_left_alone(tmp_path, image, suffix, message):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"the old file")
    with pytest.raises(ValueError, match=message):
        write_image(path, image)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    write_image(path, RGB)

    def fail(*_):
        raise OSError("no space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="no space left"):
                write_image(path, noise(3, np.uint8))
        assert list(tmp_path.iterdir()) == [path]
        assert np.array_equal(read_image(path), RGB)


def test_a_written_file_has_the_usual_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        write_image(tmp_path / "x.png", RGB)
    finally:
        os.umask(mask)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o640


# -- folders ---------------------------------------------------------------------------------------------------------


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_listed_by_their_path_without_suffix_and_sorted(tmp_path):
    make(tmp_path, "b.png", "a/2.JPG", "a/1.TIFF", "a.c.webp", "Z.bmp", "notes.txt", "a/b/c/d.jpeg", "e.tif", "png")
    make(tmp_path, ".hidden.png", ".thumbnails/x.png", "a/.cache/x.png")
    found = list_images(tmp_path)
    assert list(found) == ["Z", "a.c", "a/1", "a/2", "a/b/c/d", "b", "e"]
    assert found["a/2"] == tmp_path / "a" / "2.JPG"
    assert list_images(str(tmp_path)) == found


def test_files_of_other_kinds_are_named_in_one_warning(tmp_path, capsys):
    forget_warnings()
    make(tmp_path, "1.png", "2.jfif", "3.JPE", "4.avif", "a/5.gif", "notes.txt", "6.jxl", "a/README", ".hidden.gif")
    for _ in range(2):
        assert list(list_images(tmp_path)) == ["1", "2", "3", "4"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: {tmp_path}: 4 files are ignored, because their names have no suffix of images: "
        "6.jxl, a/5.gif, a/README, notes.txt"
    ]


def test_linked_folders_are_followed(tmp_path):
    make(tmp_path, "disk/1.png", "images/2.png")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "disk")
    assert list(list_images(tmp_path / "images")) == ["2", "more/1"]


def test_all_files_that_share_a_name_are_listed(tmp_path):
    make(tmp_path, "1.png", "1.jpg", "1.bmp", "2.png", "a/3.png", "a/3.PNG", "4.png", "a/4.png")
    with pytest.raises(BadFilesError, match="several files share a name; rename or remove one of each") as error:
        list_images(tmp_path)
    text = str(error.value)
    assert all(name in text for name in ("1.png", "1.jpg", "1.bmp", "3.png", "3.PNG", "'1'", "'a/3'"))
    assert "2.png" not in text
    assert "4.png" not in text
    assert len(error.value.problems) == 3


def test_folders_without_images_are_refused(tmp_path):
    make(tmp_path, "notes.txt", ".hidden.png", "1.png.part")
    with pytest.raises(ValueError, match=r"no images in this folder or below it \(\.png, \.jpg"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt: is not a folder; give the folder that holds"):
        list_images(tmp_path / "notes.txt")


def test_a_long_list_of_problems_is_cut_and_counted():
    error = BadFilesError("data", [f"file {k}" for k in range(25)])
    assert str(error).splitlines()[0] == "data:"
    assert len(str(error).splitlines()) == 22
    assert str(error).endswith("... and 5 more")
    assert len(error.problems) == 25


def test_the_toy_photographs_can_all_be_decoded():
    files = toy_files(",".join((*TRAIN, *VALIDATE)))
    for path in files.values():
        header = read_header(path)
        assert min(header.height, header.width) >= 200
        assert header.dtype == np.uint8
    assert all(isinstance(p, Path) for p in files.values())
    assert toy_files(" coffee , rocket ").keys() == {"coffee", "rocket"}


@pytest.mark.parametrize("names", ["nessie", "coffee,nessie", ","])
def test_a_toy_photograph_that_is_not_there_is_refused_with_those_that_are(names):
    with pytest.raises(ValueError, match=r"no photograph .*astronaut.*chelsea"):
        toy_files(names)


def test_a_link_in_a_circle_is_followed_once(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "self").symlink_to(tmp_path, target_is_directory=True)
    assert list(list_images(tmp_path)) == ["a"]
