"""Files are written, opened again and compared; one that differs is not left behind."""

import json

import pytest
import torch
from exports import BASICSR, NETWORKS, SEVERAL, VIDEO, weights_of
from helpers import equal

from sr_train.console import UsageError
from sr_train.weights.export import write
from sr_train.weights.export.card import About, default_name, file_stem
from sr_train.weights.export.compare import largest_difference
from sr_train.weights.export.openers import without_spandrel
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.network import build_network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_safetensors_file_computes_exactly_the_same(name, tmp_path):
    done = write.export(tmp_path / "net.safetensors", "safetensors", weights_of(name))
    assert (done.difference, done.bound, done.program) == (0, 0, "safetensors")
    assert len({s[-2:] for s in done.sizes}) == 4
    assert equal(load_weights(tmp_path / "net.safetensors").state, weights_of(name).state)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in SEVERAL])
def test_a_file_with_basicsrs_keys_computes_exactly_the_same(name, tmp_path):
    weights, path = weights_of(name), tmp_path / "net.pth"
    if name not in BASICSR and without_spandrel(weights.model):
        with pytest.raises(ValueError, match=r"net\.pth: not written, because BasicSR would not open it: .*NAME\.onnx"):
            write.export(path, "pth", weights)
        assert list(tmp_path.iterdir()) == []
        return
    done = write.export(path, "pth", weights)
    assert (done.difference, list(tmp_path.iterdir())) == (0, [path])
    content = torch.load(path, weights_only=True)
    assert list(content) == ["params", "params_ema"]
    assert equal(content["params"], weights.state)
    assert equal(content["params_ema"], weights.state)
    size = sum(v.numel() * v.element_size() for v in weights.state.values())
    assert path.stat().st_size < 1.5 * size + 50_000  # the tensors are stored once
    read = load_weights(path, scale=weights.scale)
    assert equal(read.state, weights.state)


def test_basicsrs_options_are_printed(tmp_path):
    done = write.export(tmp_path / "net.pth", "pth", weights_of("edsr_res_scale"))
    assert done.notes == ["in BasicSR: network_g: {type: EDSR, upscale: 2, num_feat: 12, num_block: 2, res_scale: 0.5}"]


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_file_that_differs_is_not_left_behind(kind, tmp_path, monkeypatch):
    weights = weights_of("rrdbnet_x4")
    other = Weights(weights.model, {k: v + 1e-3 if k == "conv_last.bias" else v for k, v in weights.state.items()})
    real = getattr(write, {"safetensors": "save_weights", "pth": "write_pth"}[kind])
    monkeypatch.setattr(write, real.__name__, lambda path, _: real(path, other))
    kept = tmp_path / f"net{write.KINDS[kind]}"
    kept.write_bytes(b"the old file")
    with pytest.raises(
        ValueError, match=r"net\.\w+: (not written, because its output .* differs by 0\.001|the tensors that were)"
    ):
        write.export(kept, kind, weights)
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]
    assert kept.read_bytes() == b"the old file"


def test_an_output_that_is_not_a_number_is_a_difference():
    network = build_network(weights_of("edsr_x2"), where="net")
    assert largest_difference(network, lambda x: network(x) * float("nan"), [(1, 3, 8, 8)]) == float("inf")
    assert largest_difference(network, lambda x: network(x) + 0.25, [(1, 3, 8, 8)]) == pytest.approx(0.25)


def test_names_carry_scale_and_kind(tmp_path):
    weights = weights_of("rrdbnet_x4")
    assert default_name(weights, tmp_path / "weights.safetensors") == "mine_gan"
    assert default_name(Weights(weights.model, {}), tmp_path / "4x_Nice-1.pth") == "Nice-1"
    assert file_stem(weights, "my net", "fp16") == "4x_my_net_fp16"
    assert file_stem(weights_of("mdsr"), "mdsr") == "2x3x4x_mdsr"
    assert write.path_of(f"{tmp_path}/", "ncnn", weights, "a", "fp32") == tmp_path / "4x_a.param"
    assert write.kind_of("a.ncnn.param", None) == "ncnn"
    assert write.kind_of("new/", None) == "safetensors"
    for out, form in (("a.pt", None), ("a.pth", "onnx"), ("folder/", "tflite")):
        with pytest.raises(UsageError, match=r"expected one of|give a name that ends in \.safetensors, \.pth, \.onnx"):
            write.kind_of(out, form)


def test_the_command_writes_for_a_folder_with_a_card(tmp_path, invoke):
    save_weights(tmp_path / "net.safetensors", weights_of("rrdbnet_x4"))
    typed = ["weights=net.safetensors", "out=release/", "format=pth", "name=mine", "card=true", "author=Me, and (you)"]
    refused = invoke("sr-convert", *typed)
    assert refused.returncode == 2
    assert "card=true needs the license of the weights" in refused.stderr
    assert not (tmp_path / "release").exists()
    done = invoke("sr-convert", *typed, "license=CC-BY-4.0")
    assert done.returncode == 0, done.stderr
    names = {"4x_mine.pth", "README.md", "4x-mine.json"}
    assert {p.name for p in (tmp_path / "release").iterdir()} == names
    for text in (
        "release/4x_mine.pth: RRDBNet x4, ",
        "network_g: {type: RRDBNet",
        ": equal; ",
        "spandrel yes",
        "README.md",
    ):
        assert text in done.stdout, text
    again = invoke("sr-convert", *typed, "license=CC-BY-4.0")
    assert again.returncode == 1
    assert "already exists" in again.stderr
    for file in names - {"README.md"}:
        (tmp_path / "release" / file).unlink()
    kept = invoke("sr-convert", *typed, "license=CC-BY-4.0")  # a page of the user is not replaced
    assert "README.md: already exists" in kept.stderr
    assert json.loads(invoke("sr-convert", *typed, "license=MIT", "overwrite=true").returncode == 0 and
                      (tmp_path / "release" / "4x-mine.json").read_text())["license"] == "MIT"  # fmt: skip
    again = load_weights(tmp_path / "release" / "4x_mine.pth")
    assert equal(again.state, weights_of("rrdbnet_x4").state)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["out=a.pth", "precision=fp16"], "precision=fp16 is for .onnx and .param"),
        (["out=a.onnx", "precision=half"], "precision=half: expected fp32 or fp16"),
        (["out=a.xyz"], "give a name that ends in .safetensors, .pth, .onnx, .param"),
        (["out=folder/", "format=tflite"], "format=tflite: expected one of safetensors, pth, onnx, ncnn"),
    ],
)
def test_wrong_arguments_are_refused(typed, message, tmp_path, invoke):
    save_weights(tmp_path / "net.safetensors", weights_of("edsr_x2"))
    done = invoke("sr-convert", "weights=net.safetensors", *typed)
    assert done.returncode == 2
    assert message in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_header_keeps_what_the_author_says(tmp_path):
    about = About(name="mine", author="Me", license="MIT", description="Photographs.")
    write.export(tmp_path / "a.safetensors", "safetensors", weights_of("edsr_x2"), about=about)
    origin = load_weights(tmp_path / "a.safetensors").origin
    assert origin["about"] == {"name": "mine", "author": "Me", "license": "MIT", "description": "Photographs."}
    assert origin["step"] == 700


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in (*SEVERAL, *VIDEO)])
def test_ncnn_computes_the_same(name, precision, tmp_path):
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    done = write.export(tmp_path / "net.param", "ncnn", weights_of(name), precision=precision)
    assert {p.name for p in tmp_path.iterdir()} == {"net.param", "net.bin"}
    assert done.difference <= {"fp32": 1e-4, "fp16": 2e-2}[precision]
    text = (tmp_path / "net.param").read_text()
    assert " data\n" in text
    assert " output" in text
    assert "in0" not in text


def test_a_video_network_has_no_ncnn_file(tmp_path):
    with pytest.raises(ValueError, match="ncnn cannot run it: its images have no axis of frames"):
        write.export(tmp_path / "net.param", "ncnn", weights_of("edvr"))
    assert list(tmp_path.iterdir()) == []
