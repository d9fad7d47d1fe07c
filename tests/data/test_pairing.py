"""Pairing of names that other programs write with names of HR images; nothing is guessed."""

import time

import pytest

from sr_train.data.pairing import hr_names, match_lr, pair_names, split_template


def pair(stems, names, pattern=None, scale=2):
    return pair_names(stems, names, scale=scale, usual=lambda s: [s, f"{s}x{scale}"], pattern=pattern)


@pytest.mark.parametrize(
    ("stems", "names", "ending"),
    [
        (["baby", "bird"], ["baby", "bird"], ""),
        (["0801", "0802"], ["0801x2", "0802x2"], ""),
        (["baby_HR_x2", "bird_HR_x2"], ["baby_x2_SR", "bird_x2_SR"], "_x2_SR"),
        (["baby_HR_x2", "bird_HR_x2"], ["baby_EDSR", "bird_EDSR"], "_EDSR"),
        (["baby_HR_x2", "bird_HR_x2"], ["baby_RCAN_x2", "bird_RCAN_x2"], "_RCAN_x2"),
        (["baby_HR_x2", "bird_HR_x2"], ["baby_HR_x2_EDSR", "bird_HR_x2_EDSR"], "_EDSR"),
        (["baby_HR", "bird_GT"], ["baby", "bird"], ""),
        (
            ["baby", "bird"],
            ["baby_EDSR_Lx2_f256b32_DIV2K_300k", "bird_EDSR_Lx2_f256b32_DIV2K_300k"],
            "_EDSR_Lx2_f256b32_DIV2K_300k",
        ),
        (["0801", "0802"], ["0801x2_EDSR", "0802x2_EDSR"], "x2_EDSR"),
        (["img_1", "img_10"], ["img_1_SR", "img_10_SR"], "_SR"),
        (["img", "img_1", "img_1_2"], ["img-SR", "img_1-SR", "img_1_2-SR"], "-SR"),
        (["img", "img_SR"], ["img_SR", "img_SR_SR"], None),
        (["000/0001", "001/0001"], ["000/0001_EDVR", "001/0001_EDVR"], "_EDVR"),
    ],
)
def test_names_that_programs_write_are_paired(stems, names, ending):
    paired = pair(stems, names)
    if ending is None:  # img_SR is its own result, or img's: not guessed
        assert paired.problems
        return
    assert paired.problems == []
    assert paired.names == dict(zip(stems, names, strict=True))
    assert paired.ending == ending


@pytest.mark.parametrize(
    ("stems", "names", "problem"),
    [
        (
            ["img_1"],
            ["img_10", "img_10_SR"],
            "img_1: no image is named img_1 or img_1x2, and no name begins with img_1_",
        ),
        (["img"], ["img_1", "img_10"], "img: no image is named img or imgx2, and no name begins with img_"),
        (
            ["img_1", "img_10"],
            ["img_10", "img_1_A", "img_1_B"],
            "img_1: more than one name begins with this name: img_1_A, img_1_B",
        ),
        (["baby", "bird"], ["baby_SR", "bird_RCAN"], "names have different endings: baby_SR, bird_RCAN"),
        (["baby", "bird"], ["baby_face_SR", "bird_SR"], "names have different endings: baby_face_SR, bird_SR"),
        (
            ["baby_HR"],
            ["bird"],
            "baby_HR: no image is named baby_HR or baby_HRx2 or baby or babyx2, and no name begins with baby_",
        ),
        (["a", "ax2"], ["ax2"], "a, ax2: would all be paired with ax2"),
        (
            ["baby", "baby_HR"],
            ["baby_SR"],
            "baby_HR: no image is named baby_HR or baby_HRx2, and no name begins with baby_HR_",
        ),
        (["000/1"], ["001/1_SR"], "000/1: no image is named 000/1 or 000/1x2, and no name begins with 000/1_"),
    ],
)
def test_ambiguous_or_missing_names_are_refused(stems, names, problem):
    assert problem in pair(stems, names).problems


def test_a_pattern_is_the_only_name_that_is_looked_for():
    names = ["SR_baby_2", "SR_bird_2", "baby", "baby_SR", "bird_SR"]
    assert pair(["baby_HR", "bird_HR"], names, "SR_{stem}_{scale}").names == {
        "baby_HR": "SR_baby_2",
        "bird_HR": "SR_bird_2",
    }
    assert pair(["baby"], names, "{stem}_RCAN").problems == ["baby: no image is named baby_RCAN"]
    assert pair(["baby_HR"], ["baby_HR_SR", "baby_SR"], "{stem}_SR").problems == [
        "baby_HR: baby_HR_SR and baby_SR both match the pattern"
    ]


def test_a_template_is_a_folder_and_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_template("results/{stem}_x{scale}.png") == ("results", "{stem}_x{scale}")
    assert split_template("results/{stem}/x2") == ("results", "{stem}/x2")
    assert split_template("{stem}_SR") == (".", "{stem}_SR")
    assert split_template("results") == ("results", None)
    (tmp_path / "{stem}").mkdir()
    assert split_template("{stem}") == ("{stem}", None)


# -- LR names --------------------------------------------------------------------------------------------------------


def match(stems, names, pattern=None, scale=2, own=()):
    return match_lr(stems, names, scale=scale, where="LR", pattern=pattern, own=own)


@pytest.mark.parametrize(
    "ending",
    [
        *("", "x2", "X2", "x2m", "x2d", "x2w", "_x2", "_X2", "-x2", "_LR", "_lr", "_LRBI_x2", "_LRBD_x2"),
        *("_LRx2", "_LR_x2", "_LR_bicubic_x2", "_x2_LR", "_SRF_2_LR"),
    ],
)
@pytest.mark.parametrize("hr_ending", ["", "_HR_x2", "_HR", "_GT"])
def test_lr_names_of_the_usual_endings_are_found(ending, hr_ending):
    names = ["0001", "a/baby", "img_1", "img_10", "comic_x", "LR"]
    stems = [f"{name}{hr_ending}" for name in names]
    low = match(stems, [f"{name}{ending}" for name in names])
    assert low.names == {stem: f"{name}{ending}" for stem, name in zip(stems, names, strict=True)}
    assert (low.ambiguous, low.extra) == ({}, [])


@pytest.mark.parametrize(
    "name", ["0001x3", "0001_x4", "0001_LRBI_x3", "00010x2", "0001_SR", "0001_x2_SR", "b/0001x2", "0001x22"]
)
def test_names_of_other_scales_images_and_programs_are_not_taken(name):
    assert match(["0001"], [name]).names == {}


@pytest.mark.parametrize(
    ("stems", "names", "candidates"),
    [
        (["0001"], ["0001", "0001x2"], "0001: 0001 and 0001x2 both match"),
        (["baby_HR_x2"], ["baby_LRBD_x2", "baby_LRBI_x2"], "baby_HR_x2: baby_LRBD_x2 and baby_LRBI_x2 both match"),
        (["baby"], ["babyX2", "babyx2"], "baby: babyX2 and babyx2 both match"),
    ],
)
def test_two_lr_names_that_fit_are_refused_with_both(stems, names, candidates):
    low = match(stems, names)
    assert low.names == {}
    assert list(low.ambiguous.values()) == [candidates]


def test_an_lr_name_belongs_to_the_longest_hr_name():
    low = match(["a", "a_LR", "ax2"], ["a_x2", "a_LR_x2", "ax2"])
    assert low.names == {"a": "a_x2", "a_LR": "a_LR_x2", "ax2": "ax2"}


def test_a_template_chooses_among_names_that_would_be_ambiguous():
    names = ["baby_LRBI_x2", "baby_LRBD_x2", "bird_LRBI_x2", "bird_LRBD_x2", "lenna_LRBI_x2", "notes"]
    low = match(["baby_HR_x2", "bird_HR_x2"], names, "{stem}_LRBI_x{scale}")
    assert low.names == {"baby_HR_x2": "baby_LRBI_x2", "bird_HR_x2": "bird_LRBI_x2"}
    assert low.extra == ["lenna_LRBI_x2", "notes"]
    assert match(["baby_HR_x2"], ["baby_HR_x2_s", "baby_s"], "{stem}_s").ambiguous == {
        "baby_HR_x2": "baby_HR_x2: baby_HR_x2_s and baby_s both match"
    }


def test_extra_lr_names_are_those_without_hr_at_any_scale():
    names = ["0001x2", "0001x4", "0002x2", "0003x2", "0003x4", "readme"]
    assert match(["0001", "0002"], names).extra == ["0003x2", "0003x4", "readme"]
    assert match(["0001"], ["0001", "0002"]).extra == ["0002"]


def test_lr_next_to_hr_in_one_folder_is_no_hr():
    keys = ["baby_HR_x2", "baby_LRBI_x2", "bird_HR_x2", "bird_LRBI_x2"]
    assert hr_names(keys) == {"baby_HR_x2": 0, "bird_HR_x2": 2}
    low = match(hr_names(keys), keys, own=["baby_HR_x2", "bird_HR_x2"])
    assert low.names == {"baby_HR_x2": "baby_LRBI_x2", "bird_HR_x2": "bird_LRBI_x2"}
    assert low.extra == []
    assert hr_names(["baby_LR", "street_x2"]) == {"baby_LR": 0, "street_x2": 1}


def test_a_hundred_thousand_names_are_matched_in_seconds():
    stems = [f"{a:05d}/{b:04d}/im{c}" for a in range(15) for b in range(1000) for c in range(1, 8)]
    begin = time.process_time()
    low = match(stems, [f"{stem}x2" for stem in stems])
    assert len(low.names) == 105_000
    assert time.process_time() - begin < 6


# -- finished images -------------------------------------------------------------------------------------------------


def test_two_usual_names_of_a_finished_image_are_refused_with_both():
    assert pair(["baby", "bird"], ["baby", "babyx2", "bird"]).problems == ["baby: baby and babyx2 both match"]
    assert pair(["a", "ax2"], ["a", "ax2"]).problems == []


def test_finished_images_without_hr_are_extra():
    paired = pair(["baby_HR_x2", "bird_HR_x2"], ["baby_RCAN_x2", "bird_RCAN_x2", "lenna_RCAN_x2", "zebra_RCAN_x2"])
    assert paired.problems == []
    assert paired.extra == ["lenna_RCAN_x2", "zebra_RCAN_x2"]
