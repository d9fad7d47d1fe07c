"""Patterns and lists as values of input= and weights=."""

import json

import numpy as np
import pytest
import torch

from sr_train.config.paths import matching
from sr_train.data.images import read_image, write_image
from sr_train.models.edsr import EDSR
from sr_train.weights.file import Weights, load_weights, save_weights
from tests.helpers import EDSR_MODEL


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("photos/b.png", "photos/a.png", "photos/c.jpg", "more/deep/d.png", "photos/[e].png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.full((6, 8, 3), 40 * i, np.uint8))
    return tmp_path


def _upscale(invoke, *arguments):
    return invoke("sr-upscale", "weights=bicubic", "scale=2", "device=cpu", *arguments)


def _names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_value_is_a_path_before_it_is_a_pattern(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert matching("input", "photos/*.png") == ["photos/[e].png", "photos/a.png", "photos/b.png"]
    assert matching("input", "photos/[e].png") == ["photos/[e].png"]
    assert matching("input", "photos/[ab].png") == ["photos/a.png", "photos/b.png"]
    assert matching("input", "**/d.png") == ["more/deep/d.png"]
    assert matching("input", "gone.png") == ["gone.png"]  # the command reports it
    with pytest.raises(FileNotFoundError, match=r"input=photos/\*\.bmp: no file or folder matches this pattern in "):
        matching("input", "photos/*.bmp")


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        ("photos/*.png", ["[e].png", "a.png", "b.png"]),
        ("photos/a*.png", ["a.png"]),
        ("[photos/a.png,more]", ["a.png", "more/deep/d.png"]),
        ("[photos/*.jpg,photos/b.png]", ["b.png", "c.jpg"]),
        ("mor*", ["more/deep/d.png"]),
    ],
)
def test_images_of_a_pattern_or_a_list_are_upscaled(folder, invoke, typed, made):
    done = _upscale(invoke, f"input={typed}", "output=out")
    assert done.returncode == 0, done.stderr
    assert _names(folder / "out") == made
    assert read_image(folder / "out" / made[-1]).shape[:2] == (12, 16)


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        (("input=photos/*.bmp", "output=out"), 1, "input=photos/*.bmp: no file or folder matches this pattern in "),
        (("input=[photos/a.png,gone.png]", "output=out"), 1, "gone.png: there is no such file or folder"),
        (("input=photos/a*.png", "output=out.png"), 1, "out.png: is the name of a file; for several inputs give a folder"),
        (("input=[]", "output=out"), 2, "input=[]: expected a file, a folder, a pattern such as 'photos/*.png', or a list"),
        (("input=[photos/a.png,a/a.png]", "output=out"), 1, "would both become a.png"),
    ],
)  # fmt: skip
def test_wrong_patterns_and_lists_are_refused(folder, invoke, typed, code, message):
    (folder / "a").mkdir()
    write_image(folder / "a" / "a.png", np.zeros((4, 4, 3), np.uint8))
    done = _upscale(invoke, *typed)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not (folder / "out").exists()


def test_an_output_is_literal(folder, invoke):
    done = _upscale(invoke, "input=photos/a.png", "output=ou*[t]")
    assert done.returncode == 0, done.stderr
    assert _names(folder / "ou*[t]") == ["a.png"]


def test_a_store_as_input_is_refused_with_what_to_type(folder, invoke):
    assert invoke("sr-prepare", "images=photos", "store=s.lmdb", "scales=[]", "workers=1").returncode == 0
    done = _upscale(invoke, "input=s.lmdb", "output=out")
    assert done.returncode == 2
    assert (
        "input=s.lmdb: is an LMDB; sr-upscale reads image files: give the folder that it was made from" in done.stderr
    )
    assert "sr-eval weights=FILE hr=s.lmdb out=DIR save=true" in done.stderr


def test_weights_of_a_pattern_are_compared_and_mixed(folder, invoke):
    for i, name in enumerate(("runs/b/x2", "runs/a/x2")):
        torch.manual_seed(i)
        network = EDSR(**{k: v for k, v in EDSR_MODEL.items() if k != "_target_"})
        (folder / name).mkdir(parents=True)
        save_weights(folder / name / "weights.safetensors", Weights(EDSR_MODEL, network.state_dict()))
    (folder / "hr").mkdir()
    write_image(folder / "hr" / "x.png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    done = invoke("sr-eval", "weights=[bicubic,runs/*/x2]", "hr=hr", "out=scores", "protocols=[rgb]", "metrics=[psnr]")
    assert done.returncode == 0, done.stderr
    text = (folder / "scores" / "metrics.json").read_text()
    assert list(json.loads(text)) == ["bicubic", "a/x2", "b/x2"]
    assert invoke("sr-interp", "weights=runs/*/x2", "alpha=1", "out=mixed").returncode == 0
    mixed, last = (load_weights(folder / n) for n in ("mixed/alpha_1.00.safetensors", "runs/b/x2/weights.safetensors"))
    assert all(torch.equal(mixed.state[k], v) for k, v in last.state.items())
    wrong = invoke("sr-eval", "weights=runs/*/x4", "hr=hr")
    assert wrong.returncode == 1
    assert "weights=runs/*/x4: no file or folder matches this pattern" in wrong.stderr
