"""Reading frames one by one gives the windows of the complete clip, and features of a frame are computed once."""

import weakref

import pytest
import torch
from helpers import small_edvr

from sr_train.data.video.windows import PADDINGS, padded_window
from sr_train.inference.clips import super_resolve_clip, windows
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.images import super_resolve
from sr_train.inference.tiling import Tiling
from sr_train.models.bicubic import Bicubic


def by_windows(model, clip, *, padding="reflection_circle", **options):
    """Return the outputs for complete windows, as a reference."""
    numbers = [padded_window(t, frames=model.frames, length=len(clip), padding=padding) for t in range(len(clip))]
    return torch.stack([super_resolve(model, clip[n], **options) for n in numbers])


class Held:
    """A clip that counts its frames in memory."""

    def __init__(self, clip):
        self.clip, self.given = clip, 0

    def __iter__(self):
        for frame in self.clip:
            self.given += 1
            yield frame.clone()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("frames", [1, 3, 5, 7])
@pytest.mark.parametrize("more", [0, 1, 2, 3, 9])
def test_windows_equal_those_of_the_complete_clip_and_are_yielded_at_once(frames, padding, more):
    clip = Held(torch.arange(frames + more).float().reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2))
    for center, (numbers, window) in enumerate(windows(clip, frames, padding=padding)):
        assert numbers == padded_window(center, frames=frames, length=frames + more, padding=padding)
        assert window[:, 0, 0, 0].tolist() == numbers
        assert clip.given <= max(center + frames // 2 + 1, frames)  # no frame is taken before it is needed
    assert center == frames + more - 1


def test_no_more_frames_are_held_than_a_window_has():
    living = weakref.WeakSet()

    def watched():
        for _ in range(40):
            frame = torch.zeros(3, 2, 2)
            living.add(frame)
            yield frame
            del frame

    most = 0
    for _ in windows(watched(), 5):
        most = max(most, len(living))
    assert most <= 6


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("more", [0, 1, 3])
def test_a_clip_has_the_outputs_of_its_windows(padding, more):
    model, clip = small_edvr(frames=3), torch.rand(3 + more, 3, 9, 12)
    found = torch.stack(list(super_resolve_clip(model, iter(clip), padding=padding)))
    torch.testing.assert_close(found, by_windows(model, clip, padding=padding), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"ensemble": True},
        {"tiling": Tiling(16, 8, 4, False)},
        {"tiling": Tiling(16, 8, 4, False), "ensemble": True},
        {"precision": "bf16"},
    ],
    ids=["ensemble", "tiles", "tiles and ensemble", "bf16"],
)
@pytest.mark.slow
def test_a_clip_has_the_outputs_of_its_windows_with_tiles_and_flips(options):
    model, clip = small_edvr(frames=5), torch.randint(0, 256, (6, 3, 30, 20), dtype=torch.uint8)
    found = torch.stack(list(super_resolve_clip(model, clip, **options)))
    bound = 2e-2 if "precision" in options else 2e-6
    torch.testing.assert_close(found, by_windows(model, clip, **options), atol=bound, rtol=0)


@pytest.mark.parametrize("predeblur", [False, True])
def test_a_clip_has_the_outputs_of_its_windows_with_hr_input(predeblur):
    model, clip = small_edvr(frames=3, scale=1, hr_in=True, predeblur=predeblur), torch.rand(5, 3, 20, 33)
    found = torch.stack(list(super_resolve_clip(model, clip)))
    assert found.shape == (5, 3, 20, 33)
    torch.testing.assert_close(found, by_windows(model, clip), atol=2e-6, rtol=0)


def test_features_of_a_frame_are_computed_once(monkeypatch):
    model, clip = small_edvr(frames=5), torch.rand(11, 3, 8, 8)
    seen = []
    original = model.features
    monkeypatch.setattr(model, "features", lambda x: seen.append(len(x)) or original(x))
    list(super_resolve_clip(model, clip))
    assert seen == [1] * 11
    seen.clear()
    list(super_resolve_clip(model, clip, ensemble=True))
    assert seen == [1] * 44


def test_features_are_computed_for_each_window_if_memory_is_short():
    model, clip = small_edvr(frames=3), torch.rand(5, 3, 8, 8)
    features = FrameFeatures(model, limit=0)
    plain = by_windows(model, clip)
    for (numbers, window), expected in zip(windows(clip, 3), plain, strict=True):
        features.begin(numbers)
        torch.testing.assert_close(super_resolve(model, window, features=features), expected, atol=2e-6, rtol=0)
    assert features.computed == 15


def test_the_cache_holds_features_of_one_window():
    model = small_edvr(frames=3)
    features = FrameFeatures(model)
    most = 0
    for numbers, window in windows(torch.rand(30, 3, 8, 8), 3):
        features.begin(numbers)
        super_resolve(model, window, features=features)
        most = max(most, features._bytes)
        assert features._bytes == sum(
            x.numel() * 4 for places in features._kept.values() for levels in places.values() for x in levels.values()
        )
    frame = 8 * 4 * (64 + 16 + 4)
    assert most == 3 * frame


def test_an_image_network_gets_one_frame_at_a_time():
    model, clip = Bicubic(scale=2), torch.randint(0, 256, (4, 3, 6, 7), dtype=torch.uint8)
    found = list(super_resolve_clip(model, iter(clip)))
    assert all(torch.equal(a, super_resolve(model, b)) for a, b in zip(found, clip, strict=True))
    assert len(found) == 4


def test_progress_is_reported():
    model, pixels = small_edvr(frames=3), []
    list(super_resolve_clip(model, torch.rand(4, 3, 8, 12), done=pixels.append))
    assert pixels == [96] * 4


@pytest.mark.parametrize(
    ("sizes", "padding", "message"),
    [
        ([(8, 8)] * 2, "replicate", "the clip has 2 frames, but a window of the network needs 3 frames"),
        ([], "replicate", "the clip has 0 frames, but"),
        ([(8, 8), (8, 8), (8, 12)], "replicate", "frame 2 is 12x8, but the frames before it are 8x8"),
        ([(8, 8)] * 3, "mirror", "padding='mirror': choose from"),
    ],
)
def test_invalid_clips_are_refused(sizes, padding, message):
    frames = (torch.zeros(3, *size) for size in sizes)
    with pytest.raises(ValueError, match=message):
        list(super_resolve_clip(small_edvr(frames=3), frames, padding=padding))
