"""The virtual camera: a function of (photograph, seed, clip), sub-pixel motion, detail without aliasing."""

import itertools

import numpy as np
import pytest
import yaml
from skimage.metrics import peak_signal_noise_ratio
from skimage.registration import phase_cross_correlation

from sr_train.config.folders import conf_folder
from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.data.video import toy_clips
from sr_train.data.video.toy_clips import FRAMES, HEIGHT, PER_PHOTOGRAPH, WIDTH, ToyClips, View, camera, render


@pytest.fixture(scope="module")
def photograph():
    return read_image(toy_files("astronaut")["astronaut"])


def test_a_clip_is_a_function_of_its_name_and_seed(monkeypatch):
    clips = ToyClips("coffee,chelsea")
    assert len(clips.keys) == 2 * PER_PHOTOGRAPH * FRAMES
    assert clips.keys[-1] == f"chelsea-{PER_PHOTOGRAPH - 1}/{FRAMES - 1:08d}"
    first = clips.read(3).copy()
    assert first.shape == (*clips.shape(3)[:2], 3) == (HEIGHT, WIDTH, 3)
    assert np.array_equal(clips.crop(3, 10, 20, 30, 40), first[10:40, 20:60])
    assert clips.read(4) is not None
    assert np.shares_memory(clips.read(3), ToyClips("coffee").read(3))  # rendered once a process
    monkeypatch.setattr(toy_clips, "_rendered", {})
    assert np.array_equal(ToyClips("astronaut,coffee").read(PER_PHOTOGRAPH * FRAMES + 3), first)
    assert not np.array_equal(ToyClips("coffee", seed=1).read(3), first)


def test_every_path_stays_inside_its_photograph_and_never_magnifies_it():
    sizes = {name: read_image(path).shape[:2] for name, path in toy_files("rocket,chelsea").items()}
    for name, (height, width) in sizes.items():
        for clip in range(PER_PHOTOGRAPH):
            path = camera(name, (height, width), clip=clip)
            assert len(path) == FRAMES
            for view in path:
                c, s = np.cos(view.angle) * view.zoom, np.sin(view.angle) * view.zoom
                corners = np.array([(u, v) for u in (-WIDTH / 2, WIDTH / 2) for v in (-HEIGHT / 2, HEIGHT / 2)])
                x, y = view.x + corners @ [c, -s], view.y + corners @ [s, c]
                assert x.min() >= 2
                assert y.min() >= 2
                assert x.max() <= width - 3
                assert y.max() <= height - 3
                assert view.zoom >= 1
            steps = [np.hypot(b.x - a.x, b.y - a.y) / a.zoom for a, b in itertools.pairwise(path)]
            assert min(steps) > 0.9
            assert max(steps) < 4.1


def test_motion_is_sub_pixel_and_what_the_camera_says(photograph):
    for x, y in ((0.25, 0.0), (0.37, -1.62), (3.5, 0.81)):
        still, moved = render(photograph, [View(256, 256, 0, 1.2), View(256 + 1.2 * x, 256 + 1.2 * y, 0, 1.2)])
        seen, *_ = phase_cross_correlation(still.mean(-1), moved.mean(-1), upsample_factor=50)
        assert np.abs(seen - [y, x]).max() < 0.06


def test_a_still_camera_shows_the_photograph_itself(photograph):
    (frame,) = render(photograph, [View(255.5, 255.5, 0, 1.0)])
    plain = photograph[256 - HEIGHT // 2 : 256 + HEIGHT // 2, 256 - WIDTH // 2 : 256 + WIDTH // 2]
    assert peak_signal_noise_ratio(plain, frame) > 34


def test_a_turned_and_zoomed_view_shows_the_points_it_says(photograph):
    """A smooth ramp is read at known places: value = position."""
    y, x = np.mgrid[0:512, 0:512]
    ramp = np.stack([x / 512 * 255, y / 512 * 255, x * 0], -1).round().astype(np.uint8)
    view = View(250.3, 260.8, 0.21, 1.3)
    (frame,) = render(ramp, [view])
    for row, column in ((0, 0), (100, 30), (191, 255)):
        u, v = column + 0.5 - WIDTH / 2, row + 0.5 - HEIGHT / 2
        px = view.x + 1.3 * (np.cos(0.21) * u - np.sin(0.21) * v)
        py = view.y + 1.3 * (np.sin(0.21) * u + np.cos(0.21) * v)
        assert np.abs(frame[row, column, :2] * (512 / 255) - [px, py]).max() < 2.1  # a grey level is two pixels


def test_what_a_frame_cannot_hold_is_smoothed_not_aliased():
    x = np.arange(512)
    amplitudes = {}
    for frequency in (0.10, 0.25, 0.46):  # cycles per photograph pixel; at zoom 1.35 the last is beyond Nyquist
        wave = 127.5 + 120 * np.cos(2 * np.pi * frequency * x)
        image = np.broadcast_to(wave[None, :, None], (512, 512, 3)).round().astype(np.uint8)
        (frame,) = render(image, [View(256, 256, 0, 1.35)])
        amplitudes[frequency] = frame[96, 8:-8, 0].astype(float).std() * 2**0.5 / 120
    assert amplitudes[0.10] > 0.95
    assert amplitudes[0.25] > 0.6
    assert amplitudes[0.46] < 0.25


def test_training_and_validation_use_different_photographs():
    def photographs(spec):
        return set(spec["hr"].partition(":")[2].split(","))

    train = yaml.safe_load((conf_folder() / "data" / "toy_clips.yaml").read_text())["train"]
    val = yaml.safe_load((conf_folder() / "sets" / "toy_clips.yaml").read_text())["toy_clips"]
    assert photographs(val)
    assert not photographs(val) & set.union(*map(photographs, train))


def test_a_photograph_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="toy_clips:tiny: 200x150 pixels are too few for a camera of 256x192"):
        camera("tiny", (150, 200))
    with pytest.raises(ValueError, match="no photograph"):
        ToyClips("nobody")
