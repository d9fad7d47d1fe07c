import copy
import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from sr_train.models.features import FILES, FeatureExtractor
from sr_train.models.frozen_features import FeatureError

MAKERS = {"vgg19": torchvision.models.vgg19, "vgg16": torchvision.models.vgg16, "alexnet": torchvision.models.alexnet}
TAPS = {  # torchvision's index of a layer
    "vgg19": {"conv1_2": 2, "relu2_2": 8, "conv5_4": 34, "relu5_4": 35},
    "vgg16": {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29},
    "alexnet": {"relu1": 1, "pool1": 2, "relu2": 4, "relu3": 7, "conv4": 8, "relu4": 9, "relu5": 11},
}


@pytest.fixture(scope="module")
def networks():
    """torchvision's own networks' convolutions with random weights."""
    torch.manual_seed(0)
    made = {}
    for name, make in MAKERS.items():
        with torch.device("meta"):
            outline = make().features
        layers = outline.to_empty(device="cpu")
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.normal_(layer.bias, std=0.1)
            elif isinstance(layer, nn.ReLU):
                layer.inplace = False
        made[name] = layers.eval()
    return made


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name, layers in networks.items():
        paths[name] = str(folder / f"{name}.safetensors")
        save_file({f"features.{k}": v for k, v in layers.state_dict().items()}, paths[name])
    return paths


@pytest.mark.parametrize("network", MAKERS)
def test_features_equal_torchvisions(network, networks, files):
    extractor = FeatureExtractor(network=network, layers=list(TAPS[network]), weights=files[network])
    image = torch.rand(2, 3, 40, 33)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    expected = {}
    for i, layer in enumerate(networks[network][: max(TAPS[network].values()) + 1]):
        x = layer(x)
        expected[i] = x
    actual = extractor(image)
    assert list(actual) == list(TAPS[network])
    for name, index in TAPS[network].items():
        assert extractor.channels[name] == expected[index].shape[1]
        torch.testing.assert_close(actual[name], expected[index], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("network", MAKERS)
def test_file_names_are_torchvisions(network):
    weights = {"vgg19": torchvision.models.VGG19_Weights, "vgg16": torchvision.models.VGG16_Weights,
               "alexnet": torchvision.models.AlexNet_Weights}[network]  # fmt: skip
    assert weights.IMAGENET1K_V1.url == f"https://download.pytorch.org/models/{FILES[network]}"


@pytest.mark.parametrize("form", ["pth", "pth without a prefix", "half"])
def test_weights_come_in_several_forms(form, networks, files, tmp_path):
    state = networks["alexnet"].state_dict()
    path = tmp_path / "alexnet.pth"
    if form == "pth":
        torch.save({**{f"features.{k}": v for k, v in state.items()}, "classifier.1.weight": torch.ones(2, 2)}, path)
    else:
        torch.save({k: v.half() if form == "half" else v for k, v in state.items()}, path)
    image = torch.rand(1, 3, 40, 40)
    a = FeatureExtractor(network="alexnet", layers=["relu3"], weights=str(path))(image)["relu3"]
    b = FeatureExtractor(network="alexnet", layers=["relu3"], weights=files["alexnet"])(image)["relu3"]
    assert a.dtype == torch.float32
    torch.testing.assert_close(a, b, atol=0.05 if form == "half" else 0, rtol=0.05 if form == "half" else 0)


def test_only_what_is_needed_is_loaded(files, tmp_path):
    shallow = FeatureExtractor(network="vgg19", layers=["conv1_2"], weights=files["vgg19"])
    assert {n for n, _ in shallow.named_parameters()} == {f"conv1_{i}_{p}" for i in (1, 2) for p in ("weight", "bias")}


def test_a_feature_before_its_activation_keeps_its_negatives(files):
    extractor = FeatureExtractor(network="vgg19", layers=["relu1_2", "conv1_2"], weights=files["vgg19"])
    features = extractor(torch.rand(1, 3, 16, 16))
    assert features["conv1_2"].min() < 0
    assert torch.equal(features["relu1_2"], features["conv1_2"].clamp(min=0))
    image = torch.rand(1, 3, 16, 16)
    before = image.clone()
    extractor(image)
    assert torch.equal(image, before)


def test_the_extractor_is_frozen_stays_in_eval_and_has_an_empty_state_dict(files):
    extractor = FeatureExtractor(network="alexnet", layers=["relu2"], weights=files["alexnet"])
    parent = nn.Sequential(nn.Conv2d(3, 3, 1), extractor)
    parent.train()
    assert parent.training
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())
    assert set(parent.state_dict()) == {"0.weight", "0.bias"}
    parent.load_state_dict(parent.state_dict(), strict=True)
    copied = copy.deepcopy(extractor)
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert torch.equal(copied(image)["relu2"], extractor(image)["relu2"])
    extractor(image)["relu2"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert all(p.grad is None for p in extractor.parameters())


def test_bf16_normalizes_in_float32(files):
    extractor = FeatureExtractor(network="vgg16", layers=["relu2_2"], weights=files["vgg16"])
    image = torch.rand(1, 3, 32, 32)
    plain = extractor(image)["relu2_2"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = extractor(image)["relu2_2"]
    assert mixed.dtype == torch.bfloat16
    assert ((mixed.float() - plain).norm() / plain.norm()).item() < 0.02


@pytest.mark.parametrize(
    ("network", "layer", "minimum"),
    [("vgg19", "conv5_4", 16), ("vgg19", "pool5", 32), ("vgg16", "relu1_2", 1), ("alexnet", "relu5", 31),
     ("alexnet", "relu1", 7)],
)  # fmt: skip
def test_only_images_below_the_minimum_are_refused(network, layer, minimum, files):
    extractor = FeatureExtractor(network=network, layers=[layer], weights=files[network])
    assert extractor.minimum == minimum
    assert extractor(torch.rand(1, 3, minimum, minimum + 2))[layer].numel() > 0
    with pytest.raises(ValueError, match=rf"at {layer} need RGB images .* at least {minimum}x{minimum} pixels"):
        extractor(torch.rand(1, 3, minimum - 1, 64))
    with pytest.raises(ValueError, match="need RGB images"):
        extractor(torch.rand(1, 2, 64, 64))


def test_layers_and_networks_that_do_not_exist_are_refused(files):
    with pytest.raises(ValueError, match=r"layer 'conv5_5': vgg19 has no such layer; did you mean conv5_4"):
        FeatureExtractor(network="vgg19", layers=["conv5_5"], weights=files["vgg19"])
    with pytest.raises(ValueError, match="choose from vgg19, vgg16, alexnet"):
        FeatureExtractor(network="resnet", layers=["x"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="give at least one"):
        FeatureExtractor(network="vgg19", layers=[], weights=files["vgg19"])


def test_a_missing_or_wrong_file_is_refused_before_training(files, tmp_path):
    with pytest.raises(FeatureError, match=r"gone\.pth: there is no such file\. Expected vgg19-dcbb9e9d\.pth"):
        FeatureExtractor(network="vgg19", layers=["conv5_4"], weights=str(tmp_path / "gone.pth"))
    with pytest.raises(FeatureError, match=r"not the weights of vgg19: features.16.weight \(conv3_4\) is missing"):
        FeatureExtractor(network="vgg19", layers=["conv5_4"], weights=files["vgg16"])
    with pytest.raises(FeatureError, match=re.escape("is [64, 3, 11, 11], expected [64, 3, 3, 3]")):
        FeatureExtractor(network="vgg16", layers=["relu1_1"], weights=files["alexnet"])


def test_the_error_without_file_cache_and_network_contains_url_and_path(tmp_path, monkeypatch):
    def unreachable(url, *args, **kwargs):
        raise OSError("name resolution failed")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth"
    with pytest.raises(FeatureError) as caught:
        FeatureExtractor(network="vgg19", layers=["conv5_4"])
    for part in (
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        str(place),
        "name res",
    ):
        assert part in str(caught.value)


def test_torchs_cache_is_used_and_a_download_is_checked_by_its_hash(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def download(url, path, hash_prefix):
        asked.append((url.rpartition("/")[2], hash_prefix))
        torch.save({f"features.{k}": v for k, v in networks["alexnet"].state_dict().items()}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        FeatureExtractor(network="alexnet", layers=["relu1"])
    assert asked == [("alexnet-owt-7be5be79.pth", "7be5be79")]


def test_features_in_bf16_are_close_and_pass_a_gradient_on(files):
    layers, images = (
        ["conv2_2"],
        [torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0), requires_grad=True) for _ in range(2)],
    )
    full, half = (
        FeatureExtractor(network="vgg19", layers=layers, weights=files["vgg19"], precision=p) for p in ("auto", "bf16")
    )
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    a, b = full(images[0])["conv2_2"], half(images[1])["conv2_2"]
    assert b.dtype == torch.bfloat16
    assert (a - b.float()).norm() < 0.01 * a.norm()
    a.square().mean().backward()
    b.float().square().mean().backward()
    assert images[1].grad.dtype == torch.float32
    assert (images[0].grad - images[1].grad).norm() < 0.06 * images[0].grad.norm()
    assert full.digest() != half.digest()
    with pytest.raises(ValueError, match="precision=fp8: expected auto or bf16"):
        FeatureExtractor(network="vgg19", layers=layers, precision="fp8")
