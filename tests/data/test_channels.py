"""Images converted to the channels of a network: gray from color by Pillow's formula, for pairs and windows."""

import numpy as np
import PIL.Image
import pytest
from stores import prepare

from sr_train.data.dataset import EvalImages
from sr_train.data.degrade import reduce_image
from sr_train.data.images import to_channels, write_image
from sr_train.data.module import SRData
from sr_train.data.pairs import Pairs
from sr_train.data.video.clips import Clips
from sr_train.data.video.dataset import EvalWindows, TrainWindows


def image(channels, dtype: type[np.unsignedinteger] = np.uint8, seed=0, size=(40, 52)):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


def test_gray_of_color_is_pillows_mode_l():
    rgb = image(3, size=(300, 300))
    assert np.array_equal(to_channels(rgb, 1)[..., 0], np.asarray(PIL.Image.fromarray(rgb).convert("L")))
    assert np.array_equal(to_channels(image(4), 1), to_channels(image(4)[..., :3], 1))


def test_gray_of_16_bit_color_is_the_formula_and_of_equal_channels_their_value():
    rgb = image(3, np.uint16)
    exact = (rgb.astype(np.float64) * [0.299, 0.587, 0.114]).sum(2)
    found = to_channels(rgb, 1)
    assert found.dtype == np.uint16
    assert np.abs(found[..., 0] - exact).max() < 1.5
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(to_channels(np.repeat(values, 3, axis=2), 1), values)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_that_has_the_channels_is_unchanged(channels):
    given = image(channels, np.uint16)
    assert to_channels(given, channels) is given


def test_images_without_alpha_are_opaque():
    for given in (image(1), image(3, np.uint16)):
        found = to_channels(given, 4)
        assert (found[..., 3] == np.iinfo(given.dtype).max).all()
        assert np.array_equal(found[..., :3], np.broadcast_to(given, found[..., :3].shape))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hr").mkdir()
    write_image(tmp_path / "hr" / "color.png", image(3))
    write_image(tmp_path / "hr" / "deep.png", image(1, np.uint16, 1))
    write_image(tmp_path / "hr" / "gray.png", image(1, seed=2))
    return tmp_path / "hr"


@pytest.mark.parametrize("stored", [False, True])
def test_pairs_of_gray_keep_gray_files_and_16_bit(folder, tmp_path, stored):
    if stored:
        prepare(folder, tmp_path / "s.lmdb", scales=[2])
    where = str(tmp_path / "s.lmdb" if stored else folder)
    pairs = Pairs(where, scale=2, lr=where if stored else None, channels=1)
    own = [to_channels(image(3), 1), image(1, np.uint16, 1), image(1, seed=2)]
    for i, (key, expected) in enumerate(zip(["color", "deep", "gray"], own, strict=True)):
        assert pairs.keys[i] == key
        lr, hr = pairs.whole(i)
        assert np.array_equal(hr, expected)
        assert lr.shape == (20, 26, 1)
        cut_lr, cut_hr = pairs.patch(i, 3, 4, 8)
        assert np.array_equal(cut_hr, expected[6:22, 8:24])
        assert np.array_equal(cut_lr, lr[3:11, 4:12])
        if not stored:  # in a store LR was made from the file's channels, and is converted after that
            assert np.array_equal(lr, reduce_image(expected, 2))
    found = [EvalImages({"s": pairs})[i] for i in range(3)]
    assert [list(e.hr.shape) for e in found] == [[1, 40, 52]] * 3
    assert [str(e.hr.dtype) for e in found] == ["torch.uint8", "torch.float32", "torch.uint8"]
    assert found[1].hr.numpy()[0] == pytest.approx(own[1][..., 0] / 65535, abs=1e-6)


def test_the_data_reports_converted_images_once(folder, capsys):
    data = SRData(
        train=[{"hr": str(folder)}], val={"s": {"hr": str(folder)}}, scale=2, lr_patch=8, batch=2, channels=1, workers=0
    )
    text = capsys.readouterr().out
    assert text.count(f"{folder}: 1 of 3 images in color: converted to gray (luma)") == 1
    batch = data.dataset.__getitems__([0, 1, 2, 3])
    assert list(batch["lr"].shape) == [4, 1, 8, 8]
    assert list(batch["hr"].shape) == [4, 1, 16, 16]
    SRData(train=[{"hr": str(folder)}], scale=2, lr_patch=8, batch=2, workers=0)
    assert "converted" not in capsys.readouterr().out


def test_images_with_alpha(folder):
    write_image(folder / "zalpha.png", image(4, seed=5))
    pairs = Pairs(str(folder), scale=2, channels=4)
    assert np.array_equal(pairs.whole(3)[1], image(4, seed=5))
    assert pairs.whole(0)[0].shape == (20, 26, 4)


def test_other_numbers_are_refused_with_a_way_out(folder):
    with pytest.raises(ValueError, match=r"channels=2: image files have 1 \(gray\), 3 \(RGB\) or 4 .* data module"):
        SRData(train=[{"hr": str(folder)}], scale=2, lr_patch=8, channels=2)


def test_windows_of_gray(tmp_path, write_clips):
    hr = write_clips(tmp_path / "clips")
    clips = Clips(hr, scale=4, least=3, channels=1)
    lr, centre, *_ = TrainWindows(clips, frames=3).cut(0, [0] * 6, 4)
    assert [f.shape for f in lr] == [(4, 4, 1)] * 3
    assert centre.shape == (16, 16, 1)
    window = EvalImages({"c": EvalWindows(clips, frames=3)})[1]
    assert window.lr.shape[:2] == (3, 1)
    assert window.hr.shape[0] == 1
