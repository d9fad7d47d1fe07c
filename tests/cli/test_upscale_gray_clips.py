"""Networks for gray images on videos, which have RGB, and on folders of frames, which stay gray."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_train.data.images import read_image, to_channels, write_image
from sr_train.data.video.film_reader import FilmReader
from sr_train.inference.clips import super_resolve_clip
from sr_train.inference.images import super_resolve
from sr_train.models.edsr import EDSR
from sr_train.weights.file import Weights, save_weights
from tests.helpers import small_edvr

sys.path.insert(0, str(Path(__file__).parents[1] / "nets"))
from films import photograph_frames, write_film  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.video


def _gray(pixels):
    return torch.from_numpy(to_channels(pixels, 1).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("more", [(), ("compare=true",)])
def test_a_video_becomes_gray(invoke, tmp_path, more):
    torch.manual_seed(0)
    options = {"scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0, "image_channels": 1}
    network = EDSR(**options).eval()
    save_weights(
        tmp_path / "n.safetensors", Weights({"_target_": "sr_train.models.edsr.EDSR", **options}, network.state_dict())
    )
    frames = photograph_frames(frames=3)
    write_film(tmp_path / "in.mkv", frames, codec="ffv1", pixels="bgr0")
    done = invoke(
        "sr-upscale", "weights=n.safetensors", "input=in.mkv", "output=out", "codec=ffv1", "device=cpu", *more
    )
    assert done.returncode == 0, done.stderr
    with FilmReader(tmp_path / "out" / "in.mkv") as film:
        found = [f.pixels for f in film.frames()]
    assert len(found) == 3
    for frame, pixels in zip(frames, found, strict=True):
        expected = torch.floor(super_resolve(network, _gray(frame)).double() * 255 + 0.5)
        assert torch.equal(pixels.double(), expected.expand(3, -1, -1))
    if more:
        assert read_image(tmp_path / "out" / "in_worst.png").shape == (64, 194, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_stay_gray_and_keep_their_depth(invoke, tmp_path, dtype):
    network = small_edvr(frames=3, image_channels=1)
    options = {
        "scale": 4,
        "channels": 8,
        "groups": 2,
        "front_blocks": 1,
        "back_blocks": 1,
        "frames": 3,
        "image_channels": 1,
    }
    save_weights(
        tmp_path / "v.safetensors", Weights({"_target_": "sr_train.models.edvr.EDVR", **options}, network.state_dict())
    )
    (tmp_path / "clip").mkdir()
    frames = [to_channels(f, 1).astype(dtype) * (1 if dtype == np.uint8 else 257) for f in photograph_frames(frames=4)]
    for i, frame in enumerate(frames):
        write_image(tmp_path / "clip" / f"{i:03d}.png", frame)
    done = invoke("sr-upscale", "weights=v.safetensors", "input=clip", "output=out", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert "they become" not in done.stderr
    top = np.iinfo(dtype).max
    lr = (torch.from_numpy(f.astype(np.float32) / top).permute(2, 0, 1) for f in frames)
    for i, sr in enumerate(super_resolve_clip(network, lr)):
        found = read_image(tmp_path / "out" / f"{i:03d}.png")
        assert (found.dtype, found.shape) == (dtype, (128, 192, 1))
        assert np.abs(found[..., 0] - sr[0].double().numpy() * top).max() <= 0.51


def test_frames_in_color_become_gray_with_a_warning(invoke, tmp_path):
    network = small_edvr(frames=1, image_channels=1)
    options = {
        "scale": 4,
        "channels": 8,
        "groups": 2,
        "front_blocks": 1,
        "back_blocks": 1,
        "frames": 1,
        "image_channels": 1,
    }
    save_weights(
        tmp_path / "v.safetensors", Weights({"_target_": "sr_train.models.edvr.EDVR", **options}, network.state_dict())
    )
    (tmp_path / "clip").mkdir()
    write_image(tmp_path / "clip" / "0.png", photograph_frames(frames=1)[0])
    done = invoke("sr-upscale", "weights=v.safetensors", "input=clip", "output=out", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert "the frames are in color: they become gray (luma)" in done.stderr
    assert read_image(tmp_path / "out" / "0.png").shape[2] == 1
