"""A card contains the facts of the header, and nothing that nobody said."""

import hashlib
import json
import re

import pytest
import yaml
from exports import weights_of

from sr_train.weights.export import write
from sr_train.weights.export.card import About, front_matter, openmodeldb, readme
from sr_train.weights.file import Weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("card")
    about = About(name="My net", author="me", license="CC-BY-4.0", description="For photographs.")
    write.export(path / "4x_My_net.pth", "pth", weights_of("rrdbnet_x4"), about=about, card=True)
    return path


def test_the_page_has_hugging_faces_metadata(folder):
    text = (folder / "README.md").read_text()
    start, head, page = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert (start, page[:10]) == ("", "\n# My net\n")
    assert (head["license"], head["pipeline_tag"]) == ("cc-by-4.0", "image-to-image")
    assert {"super-resolution", "rrdbnet", "x4"} <= set(head["tags"])
    (index,) = head["model-index"]
    assert index["name"] == "My net"
    first = index["results"][0]
    assert first["task"]["type"] == "image-to-image"
    assert (first["dataset"]["type"], first["metrics"][0]["type"], first["metrics"][0]["value"]) == (
        "set5",
        "psnr",
        30.1234,
    )
    assert head["metrics"] == ["psnr", "ssim"]
    for fact in ("For photographs.", "| training steps | 700 |", "| training data | DIV2K |", "| set5 | y | PSNR | 30.1234 |",
                 "growth=32", "`4x_My_net.pth`", "spandrel yes"):  # fmt: skip
        assert fact in text, fact


def test_the_entry_has_openmodeldbs_fields(folder):
    entry = json.loads((folder / "4x-My-net.json").read_text())
    assert re.fullmatch(r"\d+x-[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*", "4x-My-net")  # OpenModelDB's pattern of ids
    needed = {"name": str, "author": str, "license": str, "tags": list, "description": str, "date": str, "architecture": str,
              "size": list, "scale": int, "inputChannels": int, "outputChannels": int,
              "resources": list, "images": list}  # fmt: skip
    assert {k: type(entry[k]) for k in needed} == needed
    assert (entry["architecture"], entry["scale"], entry["size"]) == ("esrgan", 4, ["12nf", "2nb"])
    assert (entry["trainingIterations"], entry["dataset"]) == (700, "DIV2K")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
    (file,) = entry["resources"]
    content = (folder / "4x_My_net.pth").read_bytes()
    assert (file["platform"], file["type"], file["size"]) == ("pytorch", "pth", len(content))
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_nothing_is_invented():
    weights = weights_of("rrdbnet_x2")
    bare = Weights(weights.model, weights.state)
    about = About(name="n", license="My own terms 1.0")
    head = front_matter(bare, about)
    assert (head["license"], head["license_name"]) == ("other", "my-own-terms-1.0")
    assert not {"model-index", "metrics", "datasets"} & head.keys()
    entry = openmodeldb(bare, about, [])
    assert (entry["author"], entry["inputChannels"]) == (None, 3)  # 12 input channels are 2x2 folded pixels
    assert not {"trainingIterations", "dataset"} & entry.keys()
    page = readme(bare, about, [])
    assert not any(word in page for word in ("training", "author", "Scores"))
