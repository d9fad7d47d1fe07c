"""Pairing of names that other programs write with names of HR images; nothing is guessed."""

import pytest

from sr_train.data.pairing import pair_names, split_template


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
            "img_1: more than one name begins with it: img_1_A, img_1_B",
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
        "baby_HR: baby_HR_SR and baby_SR both fit the pattern"
    ]


def test_a_template_is_a_folder_and_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_template("results/{stem}_x{scale}.png") == ("results", "{stem}_x{scale}")
    assert split_template("results/{stem}/x2") == ("results", "{stem}/x2")
    assert split_template("{stem}_SR") == (".", "{stem}_SR")
    assert split_template("results") == ("results", None)
    (tmp_path / "{stem}").mkdir()
    assert split_template("{stem}") == ("{stem}", None)
