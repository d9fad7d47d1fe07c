"""Scores of gray images: MATLAB's scripts score their own values, BasicSR converts them to RGB first."""

import numpy as np
import pytest
import torch

from sr_train.data.dataset import EvalImages
from sr_train.data.images import write_image
from sr_train.data.pairs import Pairs
from sr_train.metrics.color import gray
from sr_train.metrics.protocol import PROTOCOLS, score


def matlab(sr, hr, scale):
    """PSNR by the rule of the MATLAB scripts: only images of three channels are converted to YCbCr."""
    if hr.shape[2] == 3:
        weights = np.array([65.481, 128.553, 24.966]) / 255
        sr, hr = (np.floor(16 + (x.astype(np.float64) * weights).sum(2) + 0.5)[..., None] for x in (sr, hr))
    error = sr.astype(np.float64) - hr.astype(np.float64)
    error = error[scale:-scale, scale:-scale]
    return 10 * np.log10(255**2 / (error**2).mean())


def images(channels, seed=0):
    random = np.random.default_rng(seed)
    hr = random.integers(20, 236, (40, 52, channels)).astype(np.uint8)
    return (hr + random.integers(-15, 16, hr.shape)).astype(np.uint8), hr


def tensor(image):
    return torch.from_numpy(np.repeat(image, 4 - image.shape[2], axis=2) if image.shape[2] == 1 else image).permute(
        2, 0, 1
    )


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_y_matlab_is_the_rule_of_matlabs_scripts(channels, scale):
    sr, hr = images(channels)
    found = score(tensor(sr), tensor(hr), PROTOCOLS["y_matlab"], scale, from_gray=channels == 1)["psnr"]
    assert found == pytest.approx(matlab(sr, hr, scale), abs=1e-9)


def test_y_gives_a_gray_image_the_ratio_of_the_ranges_more():
    sr, hr = (tensor(image) for image in images(1))
    found = {name: score(sr, hr, PROTOCOLS[name], 2, from_gray=True)["psnr"] for name in ("y", "y_matlab", "rgb")}
    assert found["y"] - found["y_matlab"] == pytest.approx(20 * np.log10(255 / 219), abs=1e-6)
    assert found["rgb"] == pytest.approx(found["y_matlab"], abs=1e-9)
    assert found["y"] == score(sr, hr, PROTOCOLS["y"], 2)["psnr"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_image_of_one_channel_is_scored_by_its_own_values_under_every_protocol(name):
    sr, hr = images(1)
    protocol = PROTOCOLS[name]
    one = score(*(torch.from_numpy(x).permute(2, 0, 1) for x in (sr, hr)), protocol, 3)
    border = protocol.border + 3 * protocol.cut_scale
    inner = slice(border, -border or None)
    error = (sr.astype(np.float64) - hr)[inner, inner]
    assert one["psnr"] == pytest.approx(10 * np.log10(255**2 / (error**2).mean()), abs=1e-9)
    rgb = {"rgb": "rgb", "y": "y_matlab", "y_matlab": "y_matlab"}[protocol.color]
    if not protocol.center and rgb == protocol.color:  # those of the repeated image, if it comes from a gray file
        three = score(tensor(sr), tensor(hr), protocol, 3, from_gray=True)
        assert one == pytest.approx(three, abs=1e-9)


def test_luma_of_other_numbers_of_channels_is_refused():
    image = torch.rand(4, 20, 20)
    assert score(image, image, PROTOCOLS["rgb"], 2)["ssim"] == pytest.approx(1)
    with pytest.raises(ValueError, match="protocol y needs gray or RGB images, got 4 channels: give rgb"):
        score(image, image, PROTOCOLS["y"], 2)


def test_sr_eval_scores_finished_gray_images_as_a_gray_network_with_channels_1(invoke, tmp_path):
    sr, hr = images(1)
    for name, image in (("sr", sr), ("hr", hr)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", image)
    done = invoke("sr-eval", "sr=sr", "hr=hr", "scale=2", "protocols=[y]", "channels=1")
    assert done.returncode == 0, done.stderr
    assert f"{matlab(sr, hr, 2):.3f}" in done.stdout
    wrong = invoke("sr-eval", "sr=sr", "hr=hr", "scale=2", "channels=2")
    assert wrong.returncode == 2
    assert "channels=2: image files have 1 (gray), 3 (RGB) or 4" in wrong.stderr


def test_gray_of_equal_channels_are_their_values_and_of_others_those_of_rgb2gray():
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(gray(values.repeat(3, 1, 1)), values.double())
    pixel = torch.tensor([200, 30, 40], dtype=torch.uint8).view(3, 1, 1)
    assert gray(pixel).item() == 82  # 0.2989 * 200 + 0.5870 * 30 + 0.1140 * 40 = 81.96
    with pytest.raises(ValueError, match="gray needs RGB"):
        gray(values)


def test_the_channels_of_the_hr_file_decide(tmp_path):
    _, hr = images(1)
    write_image(tmp_path / "a.png", hr)
    write_image(tmp_path / "b.png", np.repeat(hr, 3, axis=2))
    found = EvalImages({"x": Pairs(str(tmp_path), scale=2)})
    assert [found[i].from_gray for i in range(2)] == [True, False]
    assert torch.equal(found[0].hr, found[1].hr)


def test_sr_eval_scores_a_gray_file_by_its_own_values(invoke, tmp_path):
    for k, (sr, hr) in enumerate((images(1, 1), images(3, 2))):
        for name, image in (("sr", sr), ("hr", hr)):
            (tmp_path / name).mkdir(exist_ok=True)
            write_image(tmp_path / name / f"{k}.png", image)
    done = invoke("sr-eval", "sr=sr", "hr=hr", "scale=2", "protocols=[y_matlab]", "out=scores")
    assert done.returncode == 0, done.stderr
    expected = np.mean([matlab(*images(1, 1), 2), matlab(*images(3, 2), 2)])
    assert f"{expected:.3f}" in done.stdout
    assert "gray images by their own values" in done.stdout
