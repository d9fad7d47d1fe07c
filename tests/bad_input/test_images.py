"""Bad images: refused by name, with a remedy."""

import numpy as np
import PIL.Image
import pytest
from spoil import EVAL, TRAIN, UPSCALE, Case, bomb, both, check, cut, folder, picture, remove, text

CASES = [
    Case(
        "empty image",
        ("sr-prepare", "images=hr", "store=y.lmdb"),
        text("hr/a.png", ""),
        1,
        "hr/a.png: the file is empty",
    ),
    Case(
        "text as png",
        ("sr-prepare", "images=hr", "store=y.lmdb"),
        text("hr/a.png"),
        1,
        "hr/a.png: not a readable image",
    ),
    Case("png cut", (*UPSCALE, "input=hr"), cut("hr/0001.png"), 1, "hr/0001.png: corrupt or truncated"),
    Case("png cut in scoring", (*EVAL, "weights=net.safetensors"), cut("hr/0001.png"), 1, "hr/0001.png: corrupt"),
    Case("bomb upscaled", (*UPSCALE, "input=b.png"), bomb("b.png"), 1, "b.png: refused before it is decoded"),
    Case("bomb prepared", ("sr-prepare", "images=hr", "store=y.lmdb"), bomb("hr/b.png"), 1, "hr/b.png: refused before"),
    Case(
        "bomb in training", TRAIN, both(remove("runs"), bomb("hr/b.png")), 1, "hr/b.png: refused before it is decoded"
    ),
    Case("bomb in scoring", (*EVAL, "weights=net.safetensors"), bomb("hr/b.png"), 1, "hr/b.png: refused before"),
    Case("huge but under the limit", (*UPSCALE, "input=b.png"), bomb("b.png", 12_000, 12_000), 1, "b.png: corrupt"),
    Case(
        "image of no height",
        (*UPSCALE, "input=b.png"),
        bomb("b.png", 10, 0),
        1,
        "b.png: not a readable image (corrupt, or not one of png, jpg",
    ),
    Case(
        "float tiff",
        (*UPSCALE, "input=f.tiff"),
        lambda p: PIL.Image.fromarray(np.ones((8, 8), np.float32)).save(p / "f.tiff"),
        1,
        "f.tiff: contains float32 pixels; 8 and 16 bit are supported",
    ),
    Case(
        "ppm",
        (*UPSCALE, "input=a.ppm"),
        lambda p: PIL.Image.new("RGB", (8, 8)).save(p / "a.ppm"),
        1,
        "a.ppm: a PPM image, a format that cannot be read; convert it to png",
    ),
    Case(
        "folder named png", (*UPSCALE, "input=d.png"), folder("d.png"), 1, "d.png: no images or videos in this folder"
    ),
    Case(
        "16 bit to jpg",
        (*UPSCALE, "input=deep.png", "format=jpg"),
        picture("deep.png", 8, 8, dtype=np.uint16),
        1,
        "files have 8 bits per sample, the image has 16: write .png",
    ),
    Case(
        "two names become one",
        ("sr-prepare", "images=hr", "store=y.lmdb"),
        picture("hr/0001.bmp", 8, 8),
        1,
        "would both be '0001'",
    ),
    Case(
        "too small for ssim",
        (*EVAL, "weights=net.safetensors"),
        picture("hr/9.png", 10, 10),
        1,
        "9: SSIM needs an image of at least 11x11",
    ),
    Case(
        "too small to reduce",
        ("sr-prepare", "images=hr", "store=y.lmdb", "scales=[4]"),
        picture("hr/9.png", 3, 30),
        1,
        "hr/9.png: 30x3 pixels are too few to reduce by 4",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)
