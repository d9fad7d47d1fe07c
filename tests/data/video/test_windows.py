import itertools

import pytest

from sr_train.data.video.windows import PADDINGS, padded_window


@pytest.mark.parametrize(
    ("padding", "window"),
    [
        ("replicate", [0, 0, 0, 1, 2]),
        ("reflection", [2, 1, 0, 1, 2]),
        ("reflection_circle", [4, 3, 0, 1, 2]),
        ("circle", [3, 4, 0, 1, 2]),
    ],
)
def test_the_first_frame_of_a_clip_sees_the_frames_of_edvr(padding, window):
    assert padded_window(0, frames=5, length=100, padding=padding) == window


@pytest.mark.parametrize(
    ("padding", "window"),
    [
        ("replicate", [97, 98, 99, 99, 99]),
        ("reflection", [97, 98, 99, 98, 97]),
        ("reflection_circle", [97, 98, 99, 96, 95]),
        ("circle", [97, 98, 99, 95, 96]),
    ],
)
def test_the_last_frame_of_a_hundred_sees_the_frames_of_edvr(padding, window):
    assert padded_window(99, frames=5, length=100, padding=padding) == window


def test_the_default_is_that_of_edvrs_super_resolution():
    assert padded_window(1, frames=7, length=32) == [6, 5, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("padding", PADDINGS)
def test_windows_stay_inside_and_differ_from_the_plain_one_only_at_the_ends(padding):
    for frames, length in itertools.product((1, 3, 5, 7), (7, 8, 30)):
        for center in range(length):
            window = padded_window(center, frames=frames, length=length, padding=padding)
            plain = list(range(center - frames // 2, center + frames // 2 + 1))
            assert [w for w, p in zip(window, plain, strict=True) if 0 <= p < length] == [
                p for p in plain if 0 <= p < length
            ]
            assert window[frames // 2] == center
            assert all(0 <= w < length for w in window)
            if padding.endswith("circle"):
                assert len(set(window)) == frames
                mirrored = padded_window(length - 1 - center, frames=frames, length=length, padding=padding)
                assert sorted(length - 1 - m for m in mirrored) == sorted(window)


@pytest.mark.parametrize("padding", ["replicate", "reflection", "reflection_circle"])
def test_a_clip_played_backwards_gives_the_windows_backwards(padding):
    for center in range(9):
        window = padded_window(center, frames=5, length=9, padding=padding)
        assert window == [8 - w for w in padded_window(8 - center, frames=5, length=9, padding=padding)][::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 4, "length": 9}, "frames=4: expected an odd number"),
        ({"frames": -1, "length": 9}, "frames=-1: expected an odd number"),
        ({"frames": 5, "length": 4}, "a clip with length 4 has no window of length 5 around frame 2"),
        ({"frames": 5, "length": 9, "padding": "mirror"}, "padding='mirror': choose from replicate, reflection,"),
    ],
)
def test_impossible_windows_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        padded_window(2, **options)
