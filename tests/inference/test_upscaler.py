"""``sr_train.load``: results are of the kind of the image, with the pixels of ``sr-upscale`` and the scores of ``sr-eval``."""

import io
import json

import numpy as np
import PIL.Image
import pytest
import torch

import sr_train
from sr_train.console import UsageError
from sr_train.data.images import read_image, write_image
from sr_train.models.edsr import EDSR
from sr_train.models.edvr import EDVR
from sr_train.resampling import imresize
from sr_train.weights.file import Weights, save_weights

RNG = np.random.default_rng(0)


def pixels(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    options = {"scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(path, Weights({"_target_": "sr_train.models.edsr.EDSR", **options}, EDSR(**options).state_dict()))
    return path


@pytest.fixture(scope="module")
def net(file):
    return sr_train.load(file, device="cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 3), (12, 10, 4)])
def test_an_array_gives_an_array_of_its_type(net, shape, dtype):
    large = net(pixels(*shape, dtype=dtype))
    assert large.shape == (24, 20, *shape[2:])
    assert large.dtype == dtype


def test_the_pixels_are_those_of_sr_upscale(invoke, net, file, tmp_path):
    image = pixels(12, 10, 3)
    write_image(tmp_path / "a.png", image)
    assert invoke("sr-upscale", f"weights={file}", "input=a.png", "output=large", "device=cpu").returncode == 0
    assert np.array_equal(read_image(tmp_path / "large" / "a.png"), net(image))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_is_not_rounded_to_8_bits(net, dtype):
    image = pixels(12, 10, 3)
    large = net((image / 255).astype(dtype))
    assert large.dtype == dtype
    assert np.abs(large - net(image) / 255).max() < 0.51 / 255 + np.finfo(dtype).eps
    assert len(np.unique(large.astype(np.float32))) > 256


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_a_tensor_gives_a_tensor_of_its_type_also_in_a_batch(net, dtype):
    image = pixels(12, 10, 3)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    tensor = tensor if dtype == torch.uint8 else (tensor / 255).to(dtype)
    large = net(tensor)
    assert (large.shape, large.dtype) == ((3, 24, 20), dtype)
    batch = net(torch.stack([tensor, tensor.flip(1)]))
    assert torch.equal(batch[0], large)
    assert batch.shape == (2, 3, 24, 20)
    if dtype == torch.uint8:
        assert np.array_equal(large.permute(1, 2, 0).numpy(), net(image))


@pytest.mark.parametrize(
    ("mode", "made"),
    [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "L"), ("LA", "LA"), ("1", "L"), ("P", "RGB"), ("CMYK", "RGB")],
)
def test_an_image_of_pillow_gives_one_that_can_be_saved(net, mode, made):
    image = PIL.Image.fromarray(pixels(12, 10, 3)).convert(mode)
    large = net(image)
    assert (large.size, large.mode) == ((20, 24), made)
    large.save(io.BytesIO(), "PNG")


def test_16_bits_of_pillow_are_kept(net):
    image = pixels(12, 10, dtype=np.uint16)
    large = net(PIL.Image.fromarray(image))
    assert large.mode == "I;16"
    assert np.array_equal(np.asarray(large), net(image))


def test_the_orientation_is_applied_and_the_profile_kept(net):
    image = PIL.Image.fromarray(pixels(12, 10, 3))
    out = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    image.save(out, "PNG", exif=exif, icc_profile=b"profile")
    large = net(PIL.Image.open(out))
    assert large.size == (24, 20)
    assert large.info["icc_profile"] == b"profile"


def test_sizes_are_resampled_from_the_output_by_bicubic(net):
    image = pixels(12, 10, 3)
    whole = net((image / 255).astype(np.float32))
    expected = np.floor(imresize(whole.astype(np.float64), size=(18, 15)).clip(0, 1) * 255 + 0.5)
    for given in ({"outscale": 1.5}, {"longest": 18}, {"size": (15, 18)}, {"size": "15x18"}):
        assert np.array_equal(net(image, **given), expected)
    assert net(pixels(12, 10, 4), outscale=1.5).shape == (18, 15, 4)
    assert net(pixels(12, 10), outscale=1.5).shape == (18, 15)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("photo.png", TypeError, r"str is not an image: .*PIL.Image.open\(FILE\)"),
        ([[1]], TypeError, r"list is not an image"),
        (np.zeros((3, 4, 2), np.uint8), ValueError, r"shape \[3, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"shape \[0, 4, 3\]"),
        (np.zeros((3, 4, 3), np.int64), ValueError, r"type int64; expected uint8, uint16 or floating point"),
        (np.full((3, 4, 3), 200.0), ValueError, r"values from 200 to 200; .* must lie in \[0, 1\]"),
        (np.full((3, 4, 3), np.nan), ValueError, r"values from nan to nan"),
        (torch.zeros(4, 5), ValueError, r"the tensor has the shape \[4, 5\]"),
        (torch.zeros(20, 20, 3), ValueError, r"shape \[20, 20, 3\]; .*give tensor.permute\(2, 0, 1\)"),
        (PIL.Image.new("F", (4, 4)), ValueError, r"mode F is not supported"),
    ],
)
def test_what_is_no_image_is_refused(net, image, error, message):
    with pytest.raises(error, match=message):
        net(image)


def test_scores_are_those_of_sr_eval(invoke, net, file, tmp_path):
    hr = pixels(25, 22, 3)
    (tmp_path / "hr").mkdir()
    write_image(tmp_path / "hr" / "a.png", hr)
    call = (f"weights={file}", "hr=hr", "protocols=[y,rgb]", "out=scores", "device=cpu")
    done = invoke("sr-eval", *call)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    sr = net(imresize(hr[:24, :22], 0.5))
    for protocol in ("y", "rgb"):
        found = net.score(sr, hr, protocol=protocol)
        assert any(abs(v - found["psnr"]) < 1e-4 for v in _numbers(rows)), (rows, found)
    assert net.score(PIL.Image.fromarray(sr), torch.from_numpy(hr).permute(2, 0, 1), "rgb") == found


def _numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [n for v in value for n in _numbers(v)]
        if isinstance(value, list)
        else [value]
        if isinstance(value, float)
        else []
    )


def test_scores_of_other_sizes_and_protocols_are_refused(net):
    with pytest.raises(ValueError, match=r"sr has 10x12 pixels, hr 10x14; for x2"):
        net.score(pixels(12, 10, 3), pixels(14, 10, 3))
    with pytest.raises(ValueError, match=r"choose from y, y_matlab"):
        net.score(pixels(12, 10, 3), pixels(12, 10, 3), "psnr")


def test_options_are_checked(file):
    assert sr_train.load(file, tile=32, device="cpu").network.tiling.tile == 32
    assert sr_train.load("bicubic", scale=3, device="cpu").scale == 3
    with pytest.raises(UsageError, match="scale= is missing"):
        sr_train.load("bicubic", device="cpu")
    with pytest.raises(ValueError, match=r"scale=3, but .* is a network for x2"):
        sr_train.load(file, scale=3, device="cpu")
    with pytest.raises(UsageError, match=r"allow='mine': expected a list"):
        sr_train.load(file, allow="mine")
    with pytest.raises(ValueError, match="there is no such file"):
        sr_train.load("missing.safetensors")


def test_a_clip_is_upscaled_frame_by_frame(tmp_path):
    torch.manual_seed(0)
    options = {"scale": 4, "frames": 3, "channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1, "tsa": False}
    network = EDVR(**options)
    path = tmp_path / "edvr.safetensors"
    save_weights(path, Weights({"_target_": "sr_train.models.edvr.EDVR", **options}, network.state_dict()))
    net = sr_train.load(path, device="cpu")
    frames = [PIL.Image.fromarray(pixels(16, 20, 3)) for _ in range(4)]
    made = list(net.clip(frames))
    assert [f.size for f in made] == [(80, 64)] * 4
    arrays = list(net.clip([np.asarray(f) for f in frames], outscale=2))
    assert [a.shape for a in arrays] == [(32, 40, 3)] * 4
    assert list(net.clip([])) == []
    with pytest.raises(ValueError, match="windows of 3 frames, not single images"):
        net(frames[0])
    with pytest.raises(ValueError, match=r"frame 1 has the shape \[16, 18, 3\]; the first one has 16x20 pixels"):
        list(net.clip([frames[0], pixels(16, 18, 3), frames[2]]))


def test_a_network_for_images_takes_clips(net):
    frames = [pixels(12, 10, 3) for _ in range(3)]
    for frame, large in zip(frames, net.clip(frames), strict=True):
        assert np.array_equal(large, net(frame))
