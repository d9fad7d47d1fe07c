"""Sets of LR images without HR."""

import numpy as np
import pytest

from sr_train.data.dataset import EvalImages
from sr_train.data.doctor.opened import open_spec
from sr_train.data.doctor.specs import specs_of_data
from sr_train.data.images import BadFilesError, read_image, write_image
from sr_train.data.lone import is_lone, open_lone
from sr_train.data.module import SRData
from sr_train.data.pairs import Pairs, converted
from sr_train.data.readable import check_readable
from sr_train.data.toy import toy_files

OPTIONS = {"scale": 2, "channels": 3, "cache": False, "arithmetic": "float"}


@pytest.fixture
def photos(tmp_path):
    photograph = read_image(toy_files("coffee")["coffee"])
    write_image(tmp_path / "a.png", photograph[:60, :80])
    write_image(tmp_path / "b.png", photograph[:30, :40, :1])
    (tmp_path / "names.txt").write_text("b\n")
    return tmp_path


def test_images_without_hr_are_returned_with_the_size_of_their_result(photos):
    assert is_lone({"lr": "DIR"})
    assert not is_lone({"hr": "DIR", "lr": "DIR"})
    images = EvalImages({"real": open_lone("sets.real", {"lr": str(photos)}, OPTIONS)})
    a, b = images
    assert (a.hr, a.size, a.lr.shape) == (None, (120, 160), (3, 60, 80))
    np.testing.assert_array_equal(a.lr.permute(1, 2, 0), read_image(photos / "a.png"))
    both = EvalImages({"toy": Pairs("toy:coffee", scale=2), **images.sets})
    assert both.shown(1) == [0, 1]  # each kind has its own pictures
    assert (b.lr.shape, images.pixels(1)) == ((3, 30, 40), 60 * 80)
    with pytest.raises(ValueError, match="real: a: has no HR image"):
        a.target  # noqa: B018
    listed = open_lone("sets.real", {"lr": str(photos), "list": str(photos / "names.txt")}, OPTIONS)
    assert list(listed.keys) == ["b"]
    gray = open_lone("sets.real", {"lr": str(photos)}, {**OPTIONS, "channels": 1})
    assert "1 of 2 images in color" in converted([gray])[0]
    assert [image.lr.shape[0] for image in EvalImages({"real": gray})] == [1, 1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"lr": 3}, "expected a set of LR images without HR, {lr: DIR, list: FILE}"),
        ({"lr": "DIR", "weight": 2}, "sets.real: expected a set of LR images without HR"),
        ({"lr": "DIR", "clips": "all"}, "Sets of clips need hr"),
        ({"lr": "DIR/{stem}_x2"}, "there is no hr"),
        ({"lr": {3: "DIR"}}, "contains no source for scale 2"),
    ],
)
def test_wrong_descriptions_are_refused(spec, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        open_lone("sets.real", spec, OPTIONS)
    assert message in str(error.value)


def test_results_that_do_not_fit_into_memory_are_refused_with_their_size(photos, monkeypatch):
    monkeypatch.setattr("sr_train.data.lone.free_memory", lambda _: 120 * 160 * 3 * 6 - 1)
    with pytest.raises(BadFilesError, match="a: x2 is 160x120 pixels") as error:
        open_lone("sets.real", {"lr": str(photos)}, OPTIONS)
    assert len(error.value.problems) == 1


def test_the_data_of_a_run_opens_them_at_every_scale_and_reads_them_before_the_start(photos):
    data = SRData(train=[{"hr": "toy:coffee"}], val={"real": {"lr": str(photos)}}, scales=[2, 3], lr_patch=8, workers=0)
    assert {name: images.hr_size(0) for name, images in data.val.items()} == {
        "real_x2": (120, 160),
        "real_x3": (180, 240),
    }
    specs = specs_of_data({"train": [], "val": {"real": {"lr": str(photos)}}, "scale": 2})
    assert [(s.hr, s.lows, s.role) for s in specs] == [(str(photos), (), "scored")]
    (photos / "b.png").rename(photos / "b_SRF_2_LR.png")
    assert list(open_spec(specs[0], []).hr) == ["a", "b_SRF_2_LR"]
    path = photos / "a.png"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(BadFilesError, match=r"a\.png"):
        check_readable(data.val)
