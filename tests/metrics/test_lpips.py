from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from sr_train.evaluation.lpips_files import find_lpips
from sr_train.metrics.functional import quantize
from sr_train.metrics.lpips import LPIPS, VERSIONS, digest, released_version
from sr_train.models.features import FeatureExtractor
from sr_train.torch_files import read_tensors

LAYERS = {
    "alexnet": {"relu1": 1, "relu2": 4, "relu3": 7, "relu4": 9, "relu5": 11},
    "vgg16": {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29},
}


def network(name):
    """torchvision's features, written from its documentation."""
    if name == "alexnet":
        return nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(),
            nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
    layers, before = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lpips")


def written(name, folder):
    """A network with random weights, its lin layers, and the file of both."""
    torch.manual_seed(0)
    layers = network(name)
    lins = [torch.rand(1, layers[i - 1].out_channels, 1, 1) for i in LAYERS[name].values()]
    path = folder / f"{name}.safetensors"
    state = {f"features.{k}": v for k, v in layers.state_dict().items()}
    save_file({**state, **{f"lin{i}.model.1.weight": w for i, w in enumerate(lins)}}, path)
    return layers, lins, str(path)


def made(name, path):
    return LPIPS(extractor=FeatureExtractor(network=name, layers=list(LAYERS[name]), weights=path), weights=path)


@pytest.mark.parametrize("name", LAYERS)
def test_lpips_equals_the_papers_formula(name, folder):
    layers, lins, path = written(name, folder)
    a, b = torch.rand(2, 2, 3, 48, 40)
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y = (((quantize(v).float() / 255 * 2 - 1) - shift) / scale for v in (a, b))
    expected = torch.zeros(2)
    with torch.no_grad():
        for i, layer in enumerate(layers):
            x, y = layer(x), layer(y)
            if i in LAYERS[name].values():
                lin = lins[list(LAYERS[name].values()).index(i)]
                distance = (F.normalize(x, dim=1) - F.normalize(y, dim=1)) ** 2
                expected += F.conv2d(distance, lin).mean((1, 2, 3))
    actual = made(name, path)(a, b)
    assert expected.min() > 0.01
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_equal_images_have_distance_zero_and_noise_increases_it(folder):
    _, _, path = written("alexnet", folder)
    lpips = made("alexnet", path)
    image, noise = torch.rand(3, 40, 40) * 0.6 + 0.2, torch.randn(3, 40, 40)
    assert lpips.score(image, image) == 0
    near, far = (lpips.score(image, image + s * noise) for s in (0.02, 0.1))
    assert 0 < near < far
    assert lpips.score(image, image + 0.1 * noise) == pytest.approx(lpips.score(image + 0.1 * noise, image), rel=1e-5)
    eight_bit = quantize(image + 0.1 * noise).to(torch.uint8)
    assert lpips.score(quantize(image).to(torch.uint8), eight_bit) == pytest.approx(far, rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lpips.score(image, image + 0.1 * noise) == far  # an evaluation is fp32
    assert not lpips.state_dict()


def test_the_lin_layers_may_be_in_a_separate_file(folder):
    _, lins, path = written("alexnet", folder)
    torch.save({f"lin{i}.model.1.weight": w for i, w in enumerate(lins)}, folder / "alex.pth")
    extractor = FeatureExtractor(network="alexnet", layers=list(LAYERS["alexnet"]), weights=path)
    a, b = torch.rand(2, 3, 32, 32)
    assert LPIPS(extractor=extractor, weights=str(folder / "alex.pth")).score(a, b) == made("alexnet", path).score(a, b)


def test_images_of_wrong_shape_are_refused(folder):
    _, _, path = written("alexnet", folder)
    lpips = made("alexnet", path)
    with pytest.raises(ValueError, match="at least 31x31 pixels"):
        lpips.score(torch.rand(3, 30, 64), torch.rand(3, 30, 64))
    with pytest.raises(ValueError, match="RGB images of one size"):
        lpips.score(torch.rand(3, 32, 32), torch.rand(3, 32, 33))
    with pytest.raises(ValueError, match="RGB images of one size"):
        lpips.score(torch.rand(2, 32, 32), torch.rand(2, 32, 32))


def test_gray_is_repeated(folder):
    _, _, path = written("alexnet", folder)
    lpips = made("alexnet", path)
    a, b = torch.rand(2, 1, 40, 40)
    assert lpips.score(a, b) == lpips.score(a.expand(3, -1, -1), b.expand(3, -1, -1))


def test_weights_that_do_not_fit_are_refused(folder):
    _, lins, path = written("alexnet", folder)
    extractor = FeatureExtractor(network="alexnet", layers=list(LAYERS["alexnet"]), weights=path)
    with pytest.raises(ValueError, match=r"there is no such file.*alex\.pth or vgg\.pth of the lpips package"):
        LPIPS(extractor=extractor, weights=str(folder / "none.pth"))
    broken = {f"lin{i}.model.1.weight": w.clone() for i, w in enumerate(lins)}
    broken["lin1.model.1.weight"][0, 3] = -1
    save_file(broken, folder / "negative.safetensors")
    with pytest.raises(ValueError, match="weights of relu2 are negative or NaN"):
        LPIPS(extractor=extractor, weights=str(folder / "negative.safetensors"))
    save_file({"features.0.weight": torch.ones(1)}, folder / "bare.safetensors")
    with pytest.raises(ValueError, match="has no lin layers; for 5 layers expected"):
        LPIPS(extractor=extractor, weights=str(folder / "bare.safetensors"))
    _, _, other = written("vgg16", folder)
    with pytest.raises(ValueError, match="128 weights for relu2, which has 192 channels"):
        LPIPS(extractor=extractor, weights=other)


def test_released_lin_layers_are_recognized_by_their_values(folder):
    # torchmetrics, which Lightning installs, ships both files of v0.1.
    ships = Path(find_spec("torchmetrics").origin).parent / "functional" / "image" / "lpips_models"
    for file, name in {"alex.pth": "alexnet", "vgg.pth": "vgg16"}.items():
        _, _, path = written(name, folder)
        extractor = FeatureExtractor(network=name, layers=list(LAYERS[name]), weights=path)
        assert LPIPS(extractor=extractor, weights=str(ships / file)).version == "0.1"
        halved = {k: v.half() for k, v in torch.load(ships / file, map_location="cpu", weights_only=True).items()}
        torch.save(halved, folder / "half.pth")
        assert LPIPS(extractor=extractor, weights=str(folder / "half.pth")).version == "0.1"


def test_version_0_0_is_refused_and_own_layers_are_accepted(folder, monkeypatch):
    _, lins, path = written("alexnet", folder)
    assert made("alexnet", path).version is None
    assert digest(lins) not in VERSIONS
    assert sorted(VERSIONS.values()) == ["0.0", "0.0", "0.1", "0.1"]
    monkeypatch.setitem(VERSIONS, digest(lins), "0.0")
    with pytest.raises(
        ValueError, match=r"contains the lin layers of LPIPS v0\.0, .*same name from the folder weights/v0\.1"
    ):
        made("alexnet", path)
    changed = [w.clone() for w in lins]
    changed[3][0, 7] += 0.01
    assert digest(changed) not in VERSIONS


@pytest.mark.parametrize(("place", "name"), [("lpips", "alex.pth"), ("checkpoints", "LPIPS_v0.1_alex-df73285e.pth")])
def test_the_lin_layers_are_found_in_the_lpips_package_and_in_torchs_cache(tmp_path, monkeypatch, place, name):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"
    if place == "lpips":
        folder = tmp_path / "lpips" / "weights" / "v0.1"
        monkeypatch.syspath_prepend(str(tmp_path))
    folder.mkdir(parents=True)
    if place == "lpips":
        (tmp_path / "lpips" / "__init__.py").write_text("raise RuntimeError('is not imported')\n")
    (folder / name).touch()
    assert find_lpips("alex") == str(folder / name)
    assert find_lpips("vgg") != str(folder / name)


def test_the_lin_layers_of_torchmetrics_are_found_last_and_released(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for network in ("alex", "vgg"):
        found = find_lpips(network)
        assert found is not None
        assert "torchmetrics" in found
        state = read_tensors(found)
        assert released_version(found, [state[f"lin{i}.model.1.weight"] for i in range(5)]) == "0.1"
