"""Bad folders and files: refused by name, with a remedy."""

import pytest
from spoil import EVAL, TRAIN, UPSCALE, Case, check, folder, nothing

CASES = [
    Case(
        "no images",
        (*UPSCALE, "input=e"),
        folder("e"),
        1,
        "e: no images or videos in this folder or below it (.png, .jpg",
    ),
    Case(
        "no images to train on",
        (*TRAIN[:-2], "data.train=[{hr: e}]", "name=n"),
        folder("e"),
        1,
        "e: no images in this folder",
    ),
    Case(
        "file for a folder",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr/0000.png"),
        nothing,
        1,
        "hr/0000.png: is not a folder; give the folder",
    ),
    Case(
        "folder for weights",
        (*EVAL, "weights=hr"),
        nothing,
        1,
        "hr: this folder contains no weights.safetensors and no checkpoints",
    ),
    Case(
        "run for a stage",
        (*EVAL, "weights=runs/quickstart_edsr"),
        nothing,
        1,
        "its stages are x2; give e.g. weights=runs/quickstart_edsr/x2",
    ),
    Case(
        "image for weights",
        (*EVAL, "weights=hr/0000.png"),
        nothing,
        1,
        "hr/0000.png: not a readable safetensors or torch file",
    ),
    Case(
        "weights for an image", (*UPSCALE, "input=net.safetensors"), nothing, 1, "net.safetensors: not a readable image"
    ),
    Case(
        "output below a file",
        (*UPSCALE[:-1], "input=hr/0000.png", "output=net.safetensors/out"),
        nothing,
        1,
        "net.safetensors/out: Not a directory",
    ),
    Case(
        "scores below a file",
        (*EVAL, "weights=net.safetensors", "out=net.safetensors/out"),
        nothing,
        1,
        "net.safetensors/out: Not a directory",
    ),
    Case(
        "scores into a file",
        (*EVAL, "weights=net.safetensors", "out=x3.safetensors"),
        nothing,
        1,
        "x3.safetensors: File exists",
    ),
    Case(
        "runs below a file",
        (*TRAIN, "paths.runs=net.safetensors"),
        nothing,
        1,
        "net.safetensors: File exists, but a folder is needed",
    ),
    Case(
        "store below a file",
        ("sr-prepare", "images=hr", "store=net.safetensors/y.lmdb"),
        nothing,
        1,
        "net.safetensors: File exists",
    ),
    Case("name with ..", (*TRAIN, "name=../../etc/x"), nothing, 2, "expected the name of a folder below runs"),
    Case("absolute name", (*TRAIN, "name=/tmp/x"), nothing, 2, "expected the name of a folder below runs"),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)
