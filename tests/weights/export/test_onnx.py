"""ONNX files compute what the network computes, at every size, in onnxruntime."""

import json

import numpy as np
import pytest
import torch
from exports import NETWORKS, SEVERAL, VIDEO, weights_of

from sr_train.console import UsageError
from sr_train.models import contract
from sr_train.weights.export import write
from sr_train.weights.export.compare import without_batchnorm
from sr_train.weights.network import build_network, one_scale

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in SEVERAL])
def test_a_file_computes_the_same_at_every_size(name, precision, tmp_path):
    weights = weights_of(name)
    done = write.export(tmp_path / "net.onnx", "onnx", weights, precision=precision)
    assert done.files == [tmp_path / "net.onnx"] == list(tmp_path.iterdir())
    assert done.difference <= {"fp32": 1e-4, "fp16": 2e-2}[precision]
    sides = [s[-2:] for s in done.sizes]
    assert (sides[1][0] / sides[0][0], sides[2][0] / sides[0][0]) == (1.5, 3)
    assert {s[0] for s in done.sizes} == {1, 2}
    model = onnx.load(tmp_path / "net.onnx")
    count = sum(np.prod(t.dims, dtype=int) for t in model.graph.initializer if t.data_type == 1)
    if precision == "fp16" and name not in VIDEO:  # all weights are stored in float16
        assert count < 0.02 * sum(v.numel() for v in weights.state.values())
    assert [i.type.tensor_type.elem_type for i in (*model.graph.input, *model.graph.output)] == [1, 1]


def test_the_comparison_is_not_by_our_own_function(tmp_path):
    weights = weights_of("edvr")
    write.export(tmp_path / "net.onnx", "onnx", weights)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    network = build_network(weights, where="edvr")
    for size in ((1, 3, 3, 32, 32), (3, 3, 3, 36, 44), (1, 3, 3, 68, 20)):  # above and below powers of two
        x = torch.rand(size)
        with torch.no_grad():
            expected = network(x)
        assert expected.std() > 0.05
        (found,) = session.run(None, {"input": x.numpy()})
        assert np.abs(found - expected.numpy()).max() < 2e-5


def test_one_branch_of_mdsr_is_exported(tmp_path, invoke):
    from sr_train.weights.file import save_weights

    save_weights(tmp_path / "mdsr.safetensors", weights_of("mdsr"))
    refused = invoke("sr-convert", "weights=mdsr.safetensors", "out=net.onnx")
    assert refused.returncode == 1
    assert "give scale=2 or scale=3 or scale=4" in refused.stderr
    done = invoke("sr-convert", "weights=mdsr.safetensors", "out=release/", "format=onnx", "scale=3")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "release").iterdir()] == ["3x_mine_gan.onnx"]
    assert "MDSR x3" in done.stdout
    assert "opened by onnxruntime" in done.stdout
    weights = one_scale(weights_of("mdsr"), 3, where="mdsr")
    network = contract.branch(build_network(weights, where="mdsr"), 3)
    session = onnxruntime.InferenceSession(tmp_path / "release" / "3x_mine_gan.onnx")
    x = torch.rand(1, 3, 21, 17)
    with torch.no_grad():
        assert np.abs(session.run(None, {"input": x.numpy()})[0] - network(x).numpy()).max() < 1e-5


def test_the_file_describes_itself(tmp_path):
    from sr_train.weights.export.card import About

    weights = weights_of("rrdbnet_x4")
    about = About(name="mine", author="Me", license="MIT")
    write.export(tmp_path / "net.onnx", "onnx", weights, precision="fp16", about=about)
    props = {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert {
        "name": "mine",
        "author": "Me",
        "license": "MIT",
        "scale": "4",
        "precision": "fp16",
    }.items() <= props.items()
    assert json.loads(props["model"])["growth"] == 32
    assert json.loads(props["scores"])["set5/y/psnr"] == 30.1234
    assert json.loads(props["origin"])["step"] == 700


def test_batch_normalization_becomes_a_factor_and_a_summand():
    network = build_network(weights_of("srresnet_x2"), where="srresnet")
    copied = without_batchnorm(network)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in copied.modules())
    x = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), network(x), atol=1e-6, rtol=1e-6)


def test_values_beyond_float16_are_refused_with_advice(tmp_path):
    weights = weights_of("edsr_x2")
    large = {k: v * 3e4 if k == "body.0.conv1.weight" else v / 3e4 if k == "body.0.conv2.weight" else v
             for k, v in weights.state.items()}  # fmt: skip
    weights = type(weights)(weights.model, large, weights.origin, weights.scores)
    with pytest.raises(ValueError, match=r"a layer of the network reaches .* float16 is 65,504; give precision=fp32"):
        write.export(tmp_path / "net.onnx", "onnx", weights, precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UsageError, match=r'needs the packages onnx and onnxruntime.*pip install "\.\[onnx\]"'):
        write.export(tmp_path / "net.onnx", "onnx", weights_of("edsr_x2"))
    assert list(tmp_path.iterdir()) == []
