import re

import numpy as np
import pytest
from helpers import photograph, write_all

from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, encode_image, read_image, to_rgb
from sr_train.data.pairing import hr_names
from sr_train.data.pairs import Pairs
from sr_train.data.sources import at_scale, check_source, open_source
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import StoreError
from sr_train.data.store.reader import Store
from sr_train.data.toy import toy_files
from sr_train.resampling import ARITHMETICS

CHELSEA = photograph()


def cut(k, height=60, width=72, channels=3, dtype=np.uint8):
    """A part of the photograph, another for each k, of any kind."""
    image = CHELSEA[20 * k : 20 * k + height, 30 * k : 30 * k + width]
    alpha = 255 - image[..., :1]
    image = {1: image[..., 1:2], 3: image, 4: np.concatenate([image, alpha], axis=2)}[channels]
    return image.astype(dtype) * dtype(257) + dtype(k) * (image < 255) if dtype == np.uint16 else image


@pytest.fixture
def hr(tmp_path):
    """Five images of all kinds, no side of which is a multiple of 2, 3 and 4."""
    kinds = [(61, 74), (65, 71, 1), (62, 70, 4), (67, 73, 3, np.uint16), (71, 79, 1, np.uint16)]
    return write_all(tmp_path / "HR", {f"{k:04d}": cut(k, *kind) for k, kind in enumerate(kinds)})


def prepare(images, store, scales=(), arithmetic="float"):
    StoreBuilder(images, store, scales=scales, arithmetic=arithmetic).build()
    return str(store)


# -- names -----------------------------------------------------------------------------------------------------------


def test_hr_files_of_selfexsr_go_by_their_stem_and_lr_files_are_passed_over():
    keys = ["img_001_SRF_2_HR", "img_001_SRF_2_LR", "set/img_002_SRF_2_HR", "plain", "0001x2"]
    assert hr_names(keys) == {"img_001": 0, "set/img_002": 2, "plain": 3, "0001x2": 4}


def test_a_scale_is_filled_into_a_name():
    assert at_scale("DIV2K/LR_bicubic/X{scale}", 3) == "DIV2K/LR_bicubic/X3"
    assert at_scale("DIV2K/HR", 3) == "DIV2K/HR"


# -- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "x3"])
def test_pairs_are_made_of_equal_names_and_of_div2ks(tmp_path, suffix):
    scale = 3
    images = {f"{k:04d}": cut(k) for k in range(3)}
    lr = {f"{key}{suffix}": reduce_image(image, scale) for key, image in images.items()}
    pairs = Pairs(write_all(tmp_path / "HR", images), scale=scale, lr=write_all(tmp_path / "LR", lr))
    assert len(pairs) == 3
    assert pairs.keys == ["0000", "0001", "0002"]
    for k, key in enumerate(pairs.keys):
        low, high = pairs.whole(k)
        assert np.array_equal(low, lr[f"{key}{suffix}"])
        assert np.array_equal(high, images[key])
        assert pairs.lr_size(k) == (20, 24)
        assert pairs.hr_size(k) == (60, 72)


@pytest.mark.parametrize("folders", [("mixed", "mixed"), ("HR", "LR")])
def test_pairs_are_made_of_selfexsrs_names_in_one_folder_or_two(tmp_path, folders):
    images = {f"img_{k:03d}": cut(k) for k in range(3)}
    hr = write_all(tmp_path / folders[0], {f"{key}_SRF_2_HR": image for key, image in images.items()})
    lr = write_all(tmp_path / folders[1], {f"{key}_SRF_2_LR": reduce_image(image, 2) for key, image in images.items()})
    pairs = Pairs(hr, scale=2, lr=lr)
    assert pairs.keys == list(images)
    for k, key in enumerate(images):
        low, high = pairs.whole(k)
        assert np.array_equal(high, images[key])
        assert np.array_equal(low, reduce_image(images[key], 2))
    made = Pairs(hr, scale=2)
    assert all(np.array_equal(a, b) for k in range(3) for a, b in zip(made.whole(k), pairs.whole(k), strict=True))


def test_a_folder_of_selfexsr_that_holds_lr_only_is_refused(tmp_path):
    lr = write_all(tmp_path / "LR", {"img_001_SRF_2_LR": cut(0)})
    with pytest.raises(ValueError, match=r"LR: contains LR files \(\*_SRF_2_LR\) but no HR files"):
        Pairs(lr, scale=2)


def test_lr_may_hold_more_images_than_hr_which_is_reported(tmp_path, capsys):
    images = {f"{k:04d}": cut(k) for k in range(4)}
    lr = write_all(tmp_path / "LR", {f"{key}x2": reduce_image(image, 2) for key, image in images.items()})
    del images["0001"]
    pairs = Pairs(write_all(tmp_path / "HR", images), scale=2, lr=lr)
    assert pairs.keys == ["0000", "0002", "0003"]
    assert all(np.array_equal(pairs.whole(k)[0], reduce_image(images[key], 2)) for k, key in enumerate(pairs.keys))
    printed = capsys.readouterr().err
    assert re.search(r"LR: 1 LR image not used, because there is no HR image in .*HR: 0001x2\n", printed)
    assert printed.count("\n") == 1


def test_two_lr_files_that_fit_are_refused_and_a_template_chooses(tmp_path):
    images = {f"{name}_HR_x2": cut(k) for k, name in enumerate(("baby", "bird"))}
    hr = write_all(tmp_path / "HR", images)
    lr = {
        f"{name}_{kind}_x2": reduce_image(cut(k), 2, kind)
        for k, name in enumerate(("baby", "bird"))
        for kind in ARITHMETICS
    }
    low = {name.replace("float", "LRBI").replace("uint8_replicate", "LRBD"): image for name, image in lr.items()}
    folder = write_all(tmp_path / "LR", low)
    with pytest.raises(BadFilesError, match=r"ambiguous for images of .*give it, e\.g\. lr='DIR/\{stem\}") as error:
        Pairs(hr, scale=2, lr=folder)
    assert "baby_HR_x2: baby_LRBD_x2 and baby_LRBI_x2 both match" in error.value.problems
    for given in (f"{folder}/{{stem}}_LRBI_x{{scale}}", {2: f"{folder}/{{stem}}_LRBI_x2.png"}):
        pairs = Pairs(hr, scale=2, lr=given)
        assert np.array_equal(pairs.whole(1)[0], lr["bird_float_x2"])
    with pytest.raises(BadFilesError, match="LR is missing for 2 of the 2 images") as error:
        Pairs(hr, scale=2, lr=f"{folder}/{{stem}}_at{{scale}}")
    assert error.value.problems[0] == "baby_HR_x2: no baby_HR_x2_at2 or baby_at2"


def test_a_list_chooses_images_and_must_name_existing_ones(tmp_path, capsys):
    images = {f"0001_s{k:03d}": cut(k) for k in range(3)}
    hr = write_all(tmp_path / "HR", images)
    lr = write_all(tmp_path / "LR", {key: reduce_image(image, 2) for key, image in images.items()})
    listed = tmp_path / "meta_info_sub.txt"
    listed.write_bytes(b"\xef\xbb\xbf# mine\r\n0001_s002.png (60,72,3)\r\n0001_s000.png (60, 72, 3)\r\n\r\n")
    assert Pairs(hr, scale=2, lr=lr, listed=str(listed)).keys == ["0001_s000", "0001_s002"]
    assert capsys.readouterr().err == ""  # LR of an image that the list leaves out is not extra
    with pytest.raises(ValueError, match=r"data\.train\[0\]\.list=\['0001'\]: expected a text file"):
        check_source("data.train[0]", {"hr": hr, "list": ["0001"]}, {"hr", "list"})
    listed.write_text("gt/0001.png, lq/0001.png\n")
    with pytest.raises(BadFilesError, match="lists of pairs `HR, LR` cannot be read"):
        Pairs(hr, scale=2, listed=str(listed))
    with pytest.raises(FileNotFoundError, match=r"none\.txt: there is no such list of images"):
        Pairs(hr, scale=2, listed=str(tmp_path / "none.txt"))


def test_all_missing_lr_files_are_listed_at_once(tmp_path):
    hr = write_all(tmp_path / "HR", {f"{k:04d}": cut(k) for k in range(5)})
    lr = write_all(tmp_path / "LR", {"0001x2": reduce_image(cut(1), 2), "0003x4": reduce_image(cut(3), 4)})
    with pytest.raises(BadFilesError, match=r"LR: LR is missing for 4 of the 5 images of .*HR; if the names") as error:
        Pairs(hr, scale=2, lr=lr)
    named = "{0}, {0}x2, {0}_x2, {0}_LR, {0}_LRBI_x2 or {0}_SRF_2_LR"
    assert error.value.problems == [f"{k}: no {named.format(k)}" for k in ("0000", "0002", "0003", "0004")]


def test_lr_may_be_a_mapping_by_scale_or_a_template(tmp_path):
    images = {f"{k:04d}": cut(k) for k in range(2)}
    hr = write_all(tmp_path / "HR", images)
    for scale in (2, 3):
        lr = {f"{key}x{scale}": reduce_image(image, scale) for key, image in images.items()}
        write_all(tmp_path / "LR" / f"X{scale}", lr)
    mapping = {2: str(tmp_path / "LR" / "X2"), 3: str(tmp_path / "LR" / "X{scale}")}
    for scale in (2, 3):
        for lr in (mapping, str(tmp_path / "LR" / "X{scale}")):
            pairs = Pairs(hr, scale=scale, lr=lr)
            assert np.array_equal(pairs.whole(1)[0], reduce_image(images["0001"], scale))
    with pytest.raises(ValueError, match=r"lr= contains sources for scales \[2, 3\], not for 4"):
        Pairs(hr, scale=4, lr=mapping)
    with pytest.raises(FileNotFoundError, match="X4: there is no such folder"):
        Pairs(hr, scale=4, lr=str(tmp_path / "LR" / "X{scale}"))


def test_hr_may_be_a_template_too(tmp_path):
    write_all(tmp_path / "image_SRF_2", {"img_001_SRF_2_HR": cut(0), "img_001_SRF_2_LR": reduce_image(cut(0), 2)})
    folder = str(tmp_path / "image_SRF_{scale}")
    assert np.array_equal(Pairs(folder, scale=2, lr=folder).whole(0)[0], reduce_image(cut(0), 2))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_hr_up_to_a_scale_less_one_larger_is_cut_to_fit(tmp_path, scale):
    images = {f"{h}{w}": cut(1, 12 * scale + h, 15 * scale + w) for h in range(scale) for w in range(scale)}
    lr = {key: reduce_image(image, scale) for key, image in images.items()}
    pairs = Pairs(write_all(tmp_path / "HR", images), scale=scale, lr=write_all(tmp_path / "LR", lr))
    for k, key in enumerate(pairs.keys):
        low, high = pairs.whole(k)
        assert low.shape == (12, 15, 3)
        assert np.array_equal(high, images[key][: 12 * scale, : 15 * scale])


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("surplus", [(-1, 0), (0, -1), ("scale", 0), (0, "scale")], ids=str)
def test_hr_that_is_smaller_or_a_whole_scale_larger_is_an_error_for_every_image(tmp_path, scale, surplus):
    more = [scale if s == "scale" else s for s in surplus]
    images = {str(k): cut(k, 12 * scale + more[0], 15 * scale + more[1]) for k in range(3)}
    images["good"] = cut(3, 12 * scale, 15 * scale)
    hr, lr = write_all(tmp_path / "HR", images), write_all(tmp_path / "LR", {key: cut(0, 12, 15) for key in images})
    with pytest.raises(BadFilesError, match="3 of 4 images cannot be used") as error:
        Pairs(hr, scale=scale, lr=lr)
    size = f"{15 * scale + more[1]}x{12 * scale + more[0]}"
    expected = f"HR {size} does not fit LR 15x12 at scale {scale}; is scale={scale} right?"
    assert error.value.problems == [f"{k}: {expected}" for k in range(3)]


def test_swapped_and_wrongly_scaled_folders_are_recognized(tmp_path):
    images = {str(k): cut(k) for k in range(2)}
    hr = write_all(tmp_path / "HR", images)
    lr = write_all(tmp_path / "LR", {key: reduce_image(image, 2) for key, image in images.items()})
    with pytest.raises(BadFilesError, match="HR 36x30 does not fit LR 72x60 at scale 2; are HR and LR swapped"):
        Pairs(lr, scale=2, lr=hr)
    with pytest.raises(BadFilesError, match=r"HR 72x60 does not fit LR 36x30 at scale 4; is scale=4 right"):
        Pairs(hr, scale=4, lr=lr)


def test_images_of_less_than_one_lr_pixel_and_unreadable_ones_are_listed_together(tmp_path):
    hr = tmp_path / "HR"
    write_all(hr, {"good": cut(0), "small": cut(0, 3, 40)})
    (hr / "text.png").write_text("not an image")
    with pytest.raises(BadFilesError, match="2 of 3 images cannot be used") as error:
        Pairs(str(hr), scale=4)
    assert "small: 40x3 pixels are too few for scale 4" in str(error.value)
    assert re.search(r"text\.png: not a readable image", str(error.value))


@pytest.mark.parametrize("scale", [0, -2])
def test_scales_below_one_are_refused(tmp_path, scale):
    with pytest.raises(ValueError, match=f"scale={scale}: expected an integer of at least 1"):
        Pairs("toy", scale=scale)


def test_an_unknown_arithmetic_is_refused_at_once():
    with pytest.raises(ValueError, match="arithmetic='exact' is not one of float, uint8, uint8_replicate"):
        Pairs("toy", scale=2, arithmetic="exact")


# -- the same sample, whichever way it is made -----------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_the_same_from_files_stores_and_prepared_lr(tmp_path, hr, scale, arithmetic):
    store = prepare(hr, tmp_path / "x.lmdb", [scale], arithmetic)
    lr = {key: reduce_image(read_image(f"{hr}/{key}.png"), scale, arithmetic) for key in ("0000", "0001", "0002")}
    lr |= {key: reduce_image(read_image(f"{hr}/{key}.png"), scale, arithmetic) for key in ("0003", "0004")}
    folder = write_all(tmp_path / "LR", lr)
    lr_store = prepare(folder, tmp_path / "LR.lmdb")
    ways = {
        "file": Pairs(hr, scale=scale, arithmetic=arithmetic),
        "cache": Pairs(hr, scale=scale, arithmetic=arithmetic, cache=True),
        "store": Pairs(store, scale=scale, arithmetic=arithmetic),
        "store of both": Pairs(store, scale=scale, lr=store),
        "files of both": Pairs(hr, scale=scale, lr=folder),
        "stores of both": Pairs(store, scale=scale, lr=lr_store),
        "files of hr": Pairs(hr, scale=scale, lr=lr_store),
    }
    random = np.random.default_rng(scale)
    for k, key in enumerate(ways["file"].keys):
        height, width = lr[key].shape[:2]
        places = [(0, 0), (0, width - 11), (height - 11, 0), (height - 11, width - 11)]
        places += [(int(random.integers(height - 10)), int(random.integers(width - 10))) for _ in range(4)]
        image = read_image(f"{hr}/{key}.png")
        for top, left in places:
            low = to_rgb(lr[key][top : top + 11, left : left + 11])
            high = to_rgb(image)[top * scale : (top + 11) * scale, left * scale : (left + 11) * scale]
            for name, pairs in ways.items():
                a, b = pairs.patch(k, top, left, 11)
                assert (a.shape, b.shape) == ((11, 11, 3), (11 * scale, 11 * scale, 3))
                assert a.dtype == b.dtype == image.dtype
                assert np.array_equal(a, low), (name, key, top, left)
                assert np.array_equal(b, high), (name, key, top, left)
        for name, pairs in ways.items():
            a, b = pairs.whole(k)
            assert pairs.keys[k] == key
            assert np.array_equal(a, lr[key]), name
            assert np.array_equal(b, image[: height * scale, : width * scale]), name


def test_at_scale_one_lr_is_hr(hr):
    pairs = Pairs(hr, scale=1)
    low, high = pairs.patch(0, 3, 4, 20)
    assert np.array_equal(low, high)
    assert np.array_equal(low, cut(0, 61, 74)[3:23, 4:24])


def test_a_patch_that_is_the_whole_image_is_found(tmp_path):
    pairs = Pairs(write_all(tmp_path / "HR", {"0": cut(0, 33, 35)}), scale=2)
    low, high = pairs.patch(0, 0, 0, 16)
    assert np.array_equal(low, reduce_image(cut(0, 33, 35), 2)[:16, :16])
    assert np.array_equal(high, cut(0, 32, 32))


# -- sources ---------------------------------------------------------------------------------------------------------


def test_a_source_tells_shapes_without_decoding(tmp_path, hr, monkeypatch):
    monkeypatch.setattr("sr_train.data.images.read_image", lambda path: pytest.fail(f"{path} was decoded"))
    source = open_source(hr)
    shapes = [source.shape(k) for k in range(5)]
    assert shapes == [(61, 74, 3), (65, 71, 1), (62, 70, 4), (67, 73, 3), (71, 79, 1)]
    monkeypatch.undo()
    stored = open_source(prepare(hr, tmp_path / "x.lmdb"))
    assert [stored.shape(k) for k in range(5)] == shapes
    assert stored.keys == source.keys


def test_cached_images_are_decoded_once_and_others_each_time(hr, monkeypatch):
    decoded = []
    monkeypatch.setattr("sr_train.data.sources.read_image", lambda path: (decoded.append(path), read_image(path))[1])
    for cache, expected in ((True, 1), (False, 3)):
        source = open_source(hr, cache=cache)
        crops = [source.crop(0, 5, 6, 7, 8) for _ in range(3)]
        assert all(np.array_equal(crop, cut(0, 61, 74)[5:12, 6:14]) for crop in crops)
        assert len(decoded) == expected
        decoded.clear()
    with pytest.raises(ValueError, match="read-only"):
        open_source(hr, cache=True).read(0)[0, 0, 0] = 1


def test_the_toy_photographs_are_a_source():
    source = open_source("toy:coffee,rocket")
    assert source.keys == ["coffee", "rocket"]
    assert np.array_equal(source.crop(0, 10, 20, 30, 40), read_image(toy_files("coffee")["coffee"])[10:40, 20:60])
    assert open_source("toy").keys == list(toy_files())
    pairs = Pairs("toy:chelsea", scale=3)
    assert np.array_equal(pairs.whole(0)[0], reduce_image(CHELSEA, 3))


def test_missing_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"nowhere\.lmdb: there is no such store"):
        open_source(tmp_path / "nowhere.lmdb")
    with pytest.raises(ValueError, match=r"no photograph \['nessie'\]"):
        open_source("toy:nessie")


def test_lr_is_taken_from_the_store_at_its_scale_wherever_it_lies(tmp_path, hr, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(hr, tmp_path / "toys.lmdb", [2, 4])  # a name that begins like toy:NAMES
    for scale in (2, 4):
        pairs = Pairs("toys.lmdb", scale=scale, lr="toys.lmdb")
        assert np.array_equal(pairs.whole(0)[0], reduce_image(cut(0, 61, 74), scale))
    with pytest.raises(
        StoreError,
        match=r"toys\.lmdb: contains LR of scales \[2, 4\], not of 3; run the sr-prepare command .* scales=\[2,3,4\]",
    ):
        Pairs("toys.lmdb", scale=3, lr="toys.lmdb")


def test_a_damaged_store_is_named_by_its_source(tmp_path, hr):
    path = prepare(hr, tmp_path / "x.lmdb")
    assert open_source(path).name == path
    assert Pairs(path, scale=2).hr.name == path
    (tmp_path / "x.lmdb" / "data.mdb").write_bytes(encode_image(cut(0), ".png"))
    with pytest.raises(StoreError, match=r"x\.lmdb: truncated: data\.mdb has \d+ of \d+ bytes"):
        Store(path)
