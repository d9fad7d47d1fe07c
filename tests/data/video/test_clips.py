"""Clips are found, ordered, selected and checked; errors name clip and frame."""

from pathlib import Path

import numpy as np
import pytest

from sr_train.data.images import BadFilesError, read_image, write_image
from sr_train.data.lists import read_clip_list
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.video.clips import Clips, clip_files

SIZES = {"000": 8, "001": 6, "011": 9}


@pytest.fixture
def hr(tmp_path, write_clips):
    return Path(write_clips(tmp_path / "HR"))


@pytest.fixture
def lr(tmp_path, write_clips):
    return Path(write_clips(tmp_path / "LR", lr=2))


def test_clips_are_spans_of_pairs_in_order(hr, lr, moving):
    clips = Clips(str(hr), scale=2, lr=str(lr))
    assert clips.names == ["000", "001", "011"]
    assert clips.spans == [(0, 8), (8, 6), (14, 9)]
    assert clips.pairs.keys == [f"{c}/{t:08d}" for c, n in SIZES.items() for t in range(n)]
    low, high = clips.pairs.whole(15)
    assert np.array_equal(high, moving(2, 9)[1])
    assert np.array_equal(low, read_image(lr / "011" / "00000001.png"))


def test_frames_are_ordered_by_their_numbers_not_their_names(tmp_path, moving, write_clips):
    folder = write_clips(tmp_path / "HR", sizes={"a": 12}, template="Frame {}")
    clips = Clips(folder, scale=2)
    assert clips.frames == {"a": [f"a/Frame {t}" for t in range(12)]}
    assert np.array_equal(clips.pairs.whole(10)[1], moving(0, 12)[10])


def test_clips_may_be_nested_as_vimeos_are_and_chosen_by_a_list(tmp_path, write_clips):
    folder = write_clips(
        tmp_path / "sequences", sizes={"00001/0001": 7, "00001/0002": 7, "00002/0001": 7}, template="im{}"
    )
    listed = tmp_path / "sep_trainlist.txt"
    listed.write_text("00001/0002\n00002/0001 7 (256,448,3)\n\n")
    assert read_clip_list(listed) == ["00001/0002", "00002/0001"]
    clips = Clips(folder, scale=2, clips=read_clip_list(listed))
    assert clips.names == ["00001/0002", "00002/0001"]
    assert clips.pairs.keys[7] == "00002/0001/im0"
    assert Clips(folder, scale=2, without=["00002/0001"]).names == ["00001/0001", "00001/0002"]
    assert len(clip_files(folder, ["00001/0001"])) == 7


def test_a_folder_of_frames_is_one_clip(hr):
    clips = Clips(str(hr / "001"), scale=2)
    assert clips.names == ["001"]
    assert clips.spans == [(0, 6)]


def test_a_store_of_clips_holds_the_same_pairs(hr, tmp_path):
    StoreBuilder(hr, tmp_path / "x.lmdb", scales=[2], files=clip_files(hr, ["000", "011"])).build()
    stored = Clips(str(tmp_path / "x.lmdb"), scale=2, lr=str(tmp_path / "x.lmdb"))
    made = Clips(str(hr), scale=2, clips=["000", "011"])
    assert stored.names == made.names
    for i in (0, 7, 8, 16):
        for a, b in zip(stored.pairs.whole(i), made.pairs.whole(i), strict=True):
            assert np.array_equal(a, b)


def test_lr_frames_may_carry_the_scale_in_their_names(hr, tmp_path, moving, write_clips):
    lr = write_clips(tmp_path / "X2", lr=2, template="{:08d}x2")
    assert np.array_equal(Clips(str(hr), scale=2, lr=lr).pairs.whole(3)[1], moving(0, 8)[3])


def test_frames_to_be_deblurred_are_pairs_of_scale_one(hr, tmp_path, write_clips):
    blurred = write_clips(tmp_path / "blur")
    clips = Clips(str(hr), scale=1, lr=blurred)
    assert clips.pairs.lr_size(0) == clips.pairs.hr_size(0) == (40, 48)
    with pytest.raises(ValueError, match="scale=1 needs the input frames as lr="):
        Clips(str(hr), scale=1)


# -- what is refused -------------------------------------------------------------------------------------------------


def spoil_missing(hr, lr):
    (hr / "000" / "00000003.png").unlink()
    (hr / "000" / "00000005.png").unlink()
    (hr / "011" / "00000001.png").unlink()


def spoil_empty(hr, lr):
    (hr / "002").mkdir()


def spoil_lr_missing(hr, lr):
    (lr / "000" / "00000007.png").unlink()


def spoil_lr_more(hr, lr):
    write_image(lr / "001" / "00000006.png", np.zeros((20, 24, 3), np.uint8))


def spoil_lr_clip(hr, lr):
    (lr / "011").rename(lr.parent / "elsewhere")


def spoil_size(hr, lr):
    for folder, scale in ((hr, 2), (lr, 1)):
        write_image(folder / "001" / "00000002.png", np.zeros((16 * scale, 20 * scale, 3), np.uint8))


def spoil_pair(hr, lr):
    write_image(lr / "001" / "00000002.png", np.zeros((16, 24, 3), np.uint8))


def spoil_name(hr, lr):
    (hr / "000" / "00000000.png").rename(hr / "000" / "first.png")


def spoil_twice(hr, lr):
    write_image(hr / "000" / "7.png", np.zeros((40, 48, 3), np.uint8))


def spoil_header(hr, lr):
    (hr / "000" / "00000004.png").write_bytes(b"none")


def spoil_cut(hr, lr):
    for path in (hr / "000" / "00000004.png", lr / "011" / "00000008.png"):
        path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (spoil_missing, ["2 clips cannot", "000: frame number 3 (and 1 more) is missing, after 00000002",
                         "011: frame number 1 is missing, after 00000000"]),
        (spoil_empty, ["002: the folder contains no frames"]),
        (spoil_lr_missing, ["000: HR has 8 frames, LR has 7; no LR for 00000007"]),
        (spoil_lr_more, ["001: HR has 6 frames, LR has 7; no HR for 00000006"]),
        (spoil_lr_clip, ["011: HR has 9 frames, LR has none"]),
        (spoil_size, ["001/00000002: is 40x32, but the first frame of the clip is 48x40"]),
        (spoil_pair, ["001/00000002: HR 48x40 does not fit LR 24x16 at scale 2"]),
        (spoil_name, ["000: frame 'first' has no number at the end of its name"]),
        (spoil_twice, ["000: frames", "have the same number"]),
        (spoil_header, ["000/00000004.png: not a readable image"]),
        (spoil_cut, ["HR/000/00000004.png: corrupt or truncated", "LR/011/00000008.png: corrupt or truncated"]),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)  # fmt: skip
def test_a_bad_clip_is_named_with_its_frame_before_a_pixel_is_used(hr, lr, spoil, messages):
    spoil(hr, lr)
    with pytest.raises(BadFilesError) as error:
        Clips(str(hr), scale=2, lr=str(lr))
    for message in messages:
        assert message in str(error.value)


def test_bad_clips_can_be_left_out(hr, lr):
    spoil_missing(hr, lr)
    spoil_empty(hr, lr)
    assert Clips(str(hr), scale=2, lr=str(lr), without=["000", "002", "011"]).names == ["001"]


def test_clips_shorter_than_the_window_are_all_listed(hr):
    with pytest.raises(BadFilesError, match="2 clips too short") as error:
        Clips(str(hr), scale=2, least=9)
    assert error.value.problems == [
        "000: has 8 of the 9 frames that a window needs",
        "001: has 6 of the 9 frames that a window needs",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": ["000", "0o1"]}, "0o1: there is no such clip"),
        ({"without": ["15"]}, "15: there is no such clip"),
        ({"without": list(SIZES)}, "clips= and without= select no clip"),
    ],
)
def test_unknown_clips_cannot_be_chosen(hr, options, message):
    with pytest.raises(BadFilesError, match=message):
        Clips(str(hr), scale=2, **options)


def test_missing_and_empty_lists_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such list of clips"):
        read_clip_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="contains no names of clips; expected one per line"):
        read_clip_list(tmp_path / "empty.txt")


def test_a_missing_store_of_clips_is_made_from_clips(tmp_path):
    from sr_train.data.sources import open_source
    from sr_train.data.video.sets import open_set

    missing = str(tmp_path / "x.lmdb")
    with pytest.raises(
        ValueError, match=r"x\.lmdb: there is no such store; make the store with sr-prepare clips=DIR store="
    ):
        open_set("data.val.mine", {"hr": missing, "clips": "all"}, frames=3, options={"scale": 4})
    with pytest.raises(ValueError, match=r"make the store with sr-prepare images=DIR store=.*x\.lmdb$"):
        open_source(missing)
