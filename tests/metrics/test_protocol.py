import pytest
import torch

from sr_train.metrics.color import luma
from sr_train.metrics.functional import psnr, quantize, ssim
from sr_train.metrics.meter import Meter
from sr_train.metrics.protocol import PROTOCOLS, get_protocols, score


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    hr = torch.randint(0, 256, (3, 60, 70), generator=generator, dtype=torch.uint8)
    sr = (hr.double() / 255 + 0.05 * torch.randn(hr.shape, generator=generator, dtype=torch.float64)).float()
    return sr, hr


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("name", "border"), [("y", 0), ("y_matlab", 0), ("rgb", 0), ("div2k", 6)])
def test_each_protocol_computes_its_definition(pair, name, border, scale):
    sr, hr = pair
    cut = border + scale
    a, b = quantize(sr), quantize(hr)
    if name.startswith("y"):
        a, b = luma(a), luma(b)
    if name == "y_matlab":
        a, b = torch.floor(a + 0.5), torch.floor(b + 0.5)
    a, b = (x[..., cut : x.shape[-2] - cut, cut : x.shape[-1] - cut] for x in (a, b))
    values = score(sr, hr, PROTOCOLS[name], scale)
    assert values == {"psnr": pytest.approx(psnr(a, b), abs=1e-12), "ssim": pytest.approx(ssim(a, b), abs=1e-12)}


@pytest.mark.parametrize("name", ["y", "rgb", "div2k", "rgb_full", "y_matlab"])
@pytest.mark.parametrize("band", [1, 3000])
def test_a_large_image_has_the_same_scores_in_bands(pair, name, band, monkeypatch):
    sr, hr = pair
    whole = score(sr, hr, PROTOCOLS[name], 4)
    monkeypatch.setattr("sr_train.metrics.protocol._BAND", band)
    in_bands = score(sr, hr, PROTOCOLS[name], 4)
    assert in_bands == {metric: pytest.approx(value, rel=1e-12) for metric, value in whole.items()}


def test_pixels_in_the_border_do_not_count(pair):
    sr, hr = pair
    spoiled = hr.clone()
    spoiled[:, :8], spoiled[:, :, -8:] = 0, 0
    assert score(sr, spoiled, PROTOCOLS["div2k"], 2) == score(sr, hr, PROTOCOLS["div2k"], 2)
    assert score(spoiled, hr, PROTOCOLS["div2k"], 2)["psnr"] == float("inf")
    assert score(spoiled, hr, PROTOCOLS["rgb"], 2)["psnr"] < 30


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose from y, y_matlab, rgb, div2k"):
        get_protocols(["Y"])
    with pytest.raises(ValueError, match="choose from"):
        get_protocols([])


def test_an_image_smaller_than_the_border_is_refused():
    with pytest.raises(ValueError, match="nothing is left of 16x16"):
        score(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), PROTOCOLS["div2k"], 2)


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match="the result has the shape"):
        score(torch.zeros(3, 16, 16), torch.zeros(3, 16, 18), PROTOCOLS["rgb"], 2)


@pytest.mark.parametrize("name", ["rgb_full", "y_full"])
def test_videos_protocols_ignore_no_border(name):
    hr = torch.randint(0, 256, (3, 40, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sr = hr.clone()
    sr[:, 0] = 255 - sr[:, 0]  # the first row alone is wrong
    found = score(sr, hr, PROTOCOLS[name], 4)["psnr"]
    a, b = hr.double(), sr.double()
    if name == "y_full":
        a, b = (16 + (65.481 * x[0] + 128.553 * x[1] + 24.966 * x[2]) / 255 for x in (a, b))
    assert abs(found - float(10 * torch.log10(255**2 / (a - b).square().mean()))) < 1e-9
    assert score(sr, hr, PROTOCOLS["rgb"], 4)["psnr"] == float("inf")


def test_every_definition_contains_color_and_border():
    for protocol in PROTOCOLS.values():
        assert f"border {'scale' if protocol.cut_scale else protocol.border}" in protocol.definition
        assert ("RGB" in protocol.definition) != ("BT.601" in protocol.definition)


def test_the_score_of_a_set_is_the_mean_over_its_images():
    meter = Meter()
    for key, value in (("a", 30.0), ("b", 34.0)):
        meter.add("set5", key, "y", {"psnr": value, "ssim": 0.9})
    meter.add("set14", "c", "y", {"psnr": 20.0, "ssim": 0.5})
    assert meter.summary() == {
        "set5": {"y": {"psnr": 32.0, "ssim": pytest.approx(0.9), "n": 2}},
        "set14": {"y": {"psnr": 20.0, "ssim": 0.5, "n": 1}},
    }
    assert dict(meter.flat())["set5/y/psnr"] == 32.0
    meter.reset()
    assert meter.summary() == {}
