import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageCms
import pytest
import torch

from sr_train.data.images import read_image, read_upright, write_image
from sr_train.inference.images import super_resolve
from sr_train.inference.network import Network
from sr_train.inference.pixels import upscale_image
from sr_train.inference.tiling import WHOLE, plan_tiles
from sr_train.models.bicubic import Bicubic
from sr_train.models.edsr import EDSR
from sr_train.resampling import imresize
from sr_train.upscaling.images import upscale_with_room
from sr_train.weights.file import Weights, save_weights


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    network = EDSR(scale=2, channels=4, blocks=1, res_scale=1.0).eval()
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
    save_weights(tmp_path / "net.safetensors", Weights(model, network.state_dict()))
    return network


def test_a_folder_is_upscaled_under_its_names(command, network, photographs, tmp_path):
    (photographs / "deep" / "er").mkdir(parents=True)
    write_image(photographs / "deep" / "er" / "ünïcode name.bmp", read_image(photographs / "0000.png"))
    done = command("sr-upscale", "weights=net.safetensors", "input=photographs", "output=large", "tile=32")
    assert done.returncode == 0, done.stderr
    assert "tiles of 32 LR pixels that overlap by 6 (same result as without tiles)" in done.stdout
    assert "large/0002.png: 96x80 -> 192x160" in done.stdout
    names = {str(p.relative_to(tmp_path / "large")) for p in (tmp_path / "large").rglob("*") if p.is_file()}
    assert names == {"0000.png", "0001.png", "0002.png", "0003.png", "deep/er/ünïcode name.bmp"}
    small = torch.from_numpy(read_image(photographs / "0001.png")).permute(2, 0, 1)
    expected = torch.floor(super_resolve(network, small) * 255 + 0.5).permute(1, 2, 0).numpy()
    assert np.abs(read_image(tmp_path / "large" / "0001.png").astype(int) - expected).max() <= 1


def test_one_bad_file_is_reported_and_the_rest_is_made(invoke, network, photographs, tmp_path):
    (photographs / "0001.png").write_bytes((photographs / "0001.png").read_bytes()[:500])
    (photographs / "empty.jpg").touch()
    done = invoke("sr-upscale", "weights=net.safetensors", "input=photographs", "output=large", "device=cpu")
    assert done.returncode == 1
    assert "2 of 5 images failed" in done.stderr
    assert "photographs/0001.png: corrupt or truncated" in done.stderr
    assert "photographs/empty.jpg: the file is empty" in done.stderr
    assert sorted(p.name for p in (tmp_path / "large").iterdir()) == ["0000.png", "0002.png", "0003.png"]


def test_existing_results_can_be_skipped(invoke, network, photographs, tmp_path):
    call = ("sr-upscale", "weights=net.safetensors", "input=photographs", "output=large", "device=cpu")
    assert invoke(*call).returncode == 0
    (tmp_path / "large" / "0002.png").unlink()
    before = (tmp_path / "large" / "0000.png").stat().st_mtime_ns
    done = invoke(*call, "skip_existing=true")
    assert "3 images skipped" in done.stdout
    assert "1 image in large" in done.stdout
    assert (tmp_path / "large" / "0000.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (3, np.uint16), (4, np.uint8), (4, np.uint16), (1, np.uint16)]
)
def test_gray_alpha_and_16_bits_are_kept(channels, dtype):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    image = (rng.random((20, 30, channels)) * top).astype(dtype)
    network = Network(Bicubic(scale=2), 2, "bicubic", WHOLE, False, "32")
    large = upscale_image(image, network)
    assert large.dtype == dtype
    assert large.shape == (40, 60, channels)
    expected = np.floor(imresize(image.astype(np.float64) / top, 2).clip(0, 1) * top + 0.5)
    assert np.abs(large.astype(float) - expected).max() <= 1


def test_16_bits_and_alpha_go_through_files(invoke, tmp_path):
    rng = np.random.default_rng(0)
    deep = (rng.random((12, 10, 4)) * 65535).astype(np.uint16)
    write_image(tmp_path / "deep.png", deep)
    done = invoke("sr-upscale", "weights=bicubic", "scale=3", "input=deep.png", "output=out", "device=cpu")
    assert done.returncode == 0, done.stderr
    large = read_image(tmp_path / "out" / "deep.png")
    assert (large.shape, large.dtype) == ((36, 30, 4), np.uint16)
    assert len(np.unique(large)) > 2000
    named = invoke("sr-upscale", "weights=bicubic", "scale=3", "input=deep.png", "output=out/other.tiff", "device=cpu")
    assert named.returncode == 0, named.stderr
    assert np.array_equal(read_image(tmp_path / "out" / "other.tiff"), large)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upscaled_in_their_exif_orientation(tmp_path, orientation):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    pixels[8:, 16:] = (0, 0, 255)
    image = PIL.Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    with PIL.Image.open(tmp_path / "turned.png") as opened:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(read_upright(tmp_path / "turned.png"), expected)
    assert np.array_equal(read_image(tmp_path / "turned.png"), pixels)


def test_full_memory_makes_the_tiles_smaller(network, monkeypatch):
    from tqdm import tqdm

    from sr_train.inference.tiling import MemoryFullError

    tried, told = [], []

    def greedy(image, network, done, *, size):
        tried.append(network.tiling.tile)
        if network.tiling.tile > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return upscale_image(image, network, done, size=size)

    monkeypatch.setattr("sr_train.upscaling.images.upscale_image", greedy)
    image = np.zeros((300, 200, 3), np.uint8)
    ready = Network(network, 2, "net", plan_tiles(network, tile=256), False, "32")
    with tqdm(total=1, disable=True) as bar:
        assert upscale_with_room(image, ready, shrink=True, bar=bar, tell=told.append).shape == (600, 400, 3)
        assert tried == [256, 128, 64]
        assert told == [f"the memory is full with tile={t}; continuing with tile={t // 2}" for t in (256, 128)]
        ready.tiling = plan_tiles(network, tile=256)
        with pytest.raises(MemoryFullError, match="smaller tile="):
            upscale_with_room(image, ready, shrink=False, bar=bar, tell=told.append)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["input=nowhere", "output=o"], 1, "nowhere: there is no such file or folder"),
        (["input=photographs"], 2, "output has no value"),
        (["input=photographs", "output=photographs"], 1, "would be overwritten"),
        (["input=photographs/0000.png", "output=photographs"], 1, "would overwrite the input"),
        (["input=photographs", "output=net.safetensors"], 1, "is a file"),
        (["input=photographs", "output=o", "tile=huge"], 2, "expected auto, null for the whole image"),
        (["input=photographs", "output=o", "tile=-4"], 2, "tile=-4: expected"),
        (["input=photographs", "output=o", "overlap=x"], 2, "overlap=x: expected auto"),
        (["input=photographs", "output=o", "overlap=1.5"], 2, "overlap=1.5: expected auto or an integer"),
        (["input=photographs", "output=o", "overlap=-1"], 2, "overlap=-1: expected auto or an integer"),
        (["input=photographs", "output=o", "tile=null", "overlap=null"], 2, "overlap=null: expected auto or an integer"),
        (["input=photographs", "output=o", "tile=64.5"], 2, "tile=64.5: expected auto, null for the whole image"),
        (["input=photographs", "output=o", "tile=true"], 2, "tile=true: expected auto, null for the whole image"),
        (["input=photographs", "output=o", "tile=[64,64]"], 2, "tile=[64, 64]: expected auto, null for the whole image"),
        (["input=photographs", "output=o", "format=gif"], 2, "choose from png"),
        (["input=photographs", "output=o", "scale=3"], 1, "is a network for x2"),
        (["input=photographs", "output=o", "precision=8"], 2, "choose from 32, bf16, auto"),
        (["input=photographs", "output=o", "ensemble=maybe"], 2, "expected true or false"),
        (["input=photographs", "output=o", "device=cuda:7"], 1, "try device=cpu"),
        (["input=photographs", "output=o", "tyle=4"], 2, "did you mean tile"),
    ],
)  # fmt: skip
def test_errors_of_users(invoke, network, photographs, arguments, code, message):
    done = invoke("sr-upscale", "weights=net.safetensors", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_formats_that_lose_data_are_refused_before_the_first_image(invoke, network, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "clear.png", np.zeros((8, 8, 4), np.uint8))
    write_image(tmp_path / "in" / "solid.png", np.zeros((8, 8, 3), np.uint8))
    done = invoke("sr-upscale", "weights=net.safetensors", "input=in", "output=out", "format=jpg", "device=cpu")
    assert done.returncode == 1
    assert "in/clear.png: .jpg files have no alpha channel" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["solid.jpg"]
    write_image(tmp_path / "in" / "solid.bmp", np.zeros((8, 8, 3), np.uint8))
    done = invoke("sr-upscale", "weights=net.safetensors", "input=in", "output=out", "format=png", "device=cpu")
    assert "would both become solid.png" in done.stderr


def test_odd_files_are_upscaled_as_they_look_or_refused(invoke, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    a = np.zeros((6, 8, 3), np.uint8)
    a[:3], a[3:] = (200, 30, 40), (30, 60, 220)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(a).save(folder / "turned.tif", exif=exif)
    PIL.Image.fromarray(np.dstack([a, np.full((6, 8), 128, np.uint8)])).save(folder / "alpha.tif")
    PIL.Image.fromarray(a[..., 0]).save(folder / "clear.png", transparency=30)
    PIL.Image.fromarray(a).save(folder / "photo.jfif", "JPEG")
    frames = [PIL.Image.fromarray(np.roll(a, k, axis=0)) for k in range(3)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    PIL.Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "large.png")
    (folder / "notes.txt").touch()
    call = ("sr-upscale", "weights=bicubic", "scale=2", "input=odd", "output=large", "device=cpu", "max_pixels=1599")
    done = invoke(*call)
    assert done.returncode == 1
    assert "moving.webp: an animated WebP of 3 frames; a file must contain one image" in done.stderr
    assert (
        "large.png: refused before it is decoded: it has 40x40 pixels (1600), more than max_pixels=1599" in done.stderr
    )
    assert done.stderr.count("1 file is ignored, because its name has no suffix of images or videos: notes.txt") == 1
    assert "2 of 6 images failed" in done.stderr
    turned = read_image(tmp_path / "large" / "turned.tif")
    assert turned.shape == (16, 12, 3)
    assert np.array_equal(turned[0, [0, -1]], [[30, 60, 220], [200, 30, 40]])
    assert np.array_equal(
        read_image(tmp_path / "large" / "alpha.tif")[[0, -1], 0], [[200, 30, 40, 128], [30, 60, 220, 128]]
    )
    assert read_image(tmp_path / "large" / "clear.png")[[0, -1], 0].tolist() == [[200] * 3 + [255], [30] * 3 + [0]]
    assert read_image(tmp_path / "large" / "photo.jfif").shape == (12, 16, 3)


@pytest.mark.skipif(not PIL.features.check("avif"), reason="this Pillow has no AVIF")
def test_an_avif_is_written_as_png(invoke, tmp_path):
    PIL.Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "x.avif")
    done = invoke("sr-upscale", "weights=bicubic", "scale=2", "input=x.avif", "output=large", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "large" / "x.png").shape == (32, 32, 3)


PROFILE = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_color_profiles_are_kept(invoke, tmp_path, kind):
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8))
    picture.save(tmp_path / f"a.{kind}", icc_profile=PROFILE)
    for out in ("png", "jpg", "webp", "tiff"):
        done = invoke("sr-upscale", "weights=bicubic", "scale=2", f"input=a.{kind}", f"output=large/a.{out}")
        assert done.returncode == 0, done.stderr
        with PIL.Image.open(tmp_path / "large" / f"a.{out}") as made:
            assert made.info["icc_profile"] == PROFILE
    done = invoke("sr-upscale", "weights=bicubic", "scale=2", f"input=a.{kind}", "output=large/a.bmp")
    assert "large/a.bmp: the color profile is lost, because .bmp files have none" in done.stderr


@pytest.mark.parametrize(
    ("option", "size"),
    [("size=25x30", (25, 30)), ("longest=30", (25, 30)), ("outscale=2.5", (25, 30)), ("outscale=4", (40, 48))],
)
def test_the_size_of_results_is_chosen(invoke, tmp_path, option, size):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    call = ("weights=bicubic", "scale=4", "input=a.png", "output=large", option, "compare=true")
    done = invoke("sr-upscale", *call)
    assert f"large/a.png: 10x12 -> {size[0]}x{size[1]}" in done.stdout
    made = read_image(tmp_path / "large" / "a.png")
    whole = imresize(pixels / 255, 4).clip(0, 1)
    expected = np.floor(imresize(whole, size=(size[1], size[0])).clip(0, 1) * 255 + 0.5)
    assert np.abs(made - expected).max() <= 1
    assert read_image(tmp_path / "large" / "a_compare.png").shape == (size[1], 2 * size[0] + 2, 3)


def test_a_size_of_another_shape_fails_for_that_image_only(invoke, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", np.zeros((12, 10, 3), np.uint8))
    write_image(tmp_path / "in" / "b.png", np.zeros((10, 12, 3), np.uint8))
    done = invoke("sr-upscale", "weights=bicubic", "scale=4", "input=in", "output=large", "size=20x24")
    assert done.returncode == 1
    assert "b.png: size=20x24 would change the shape of an image of 12x10 pixels" in done.stderr
    assert read_image(tmp_path / "large" / "a.png").shape == (24, 20, 3)


def test_two_sizes_are_refused(invoke, tmp_path):
    done = invoke("sr-upscale", "weights=bicubic", "scale=4", "input=.", "output=large", "size=20x24", "longest=3")
    assert done.returncode == 2
    assert "size=20x24 and longest=3: give only one of them" in done.stderr
