"""A clip goes through the same padding, tiles and ensemble as an image."""

import pytest
import torch
import torch.nn.functional as F
from helpers import small_edvr

from sr_train.inference.images import super_resolve
from sr_train.inference.tiling import bytes_per_pixel, plan_tiles, receptive_radius
from sr_train.training.dry_run import multiply_adds

SMALL = {"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1, "frames": 3}


@pytest.mark.parametrize(("options", "multiple"), [({}, 4), ({"scale": 1, "hr_in": True, "predeblur": True}, 16)])
@pytest.mark.parametrize("size", [(16, 32), (17, 30), (5, 3)])
def test_odd_sizes_are_mirrored_and_cut_back(options, multiple, size):
    made, (height, width) = small_edvr(**{"frames": 3, **options}), size
    clip = torch.rand(3, 3, height, width)
    down, right = -height % multiple, -width % multiple
    mirrored = down < height and right < width
    padded = F.pad(clip, (0, right, 0, down), mode="reflect" if mirrored else "replicate")
    with torch.no_grad():
        whole = made(padded[None])[0]
    expected = whole[:, : height * made.scale, : width * made.scale].clamp(0, 1)
    torch.testing.assert_close(super_resolve(made, clip), expected, atol=1e-5, rtol=1e-5)


def test_pixels_may_be_uint8():
    made, clip = small_edvr(frames=3), torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8)
    assert torch.equal(super_resolve(made, clip), super_resolve(made, clip.float() / 255))


def test_the_ensemble_of_a_clip_has_four_flips():
    made, clip = small_edvr(frames=3), torch.rand(3, 3, 9, 12)
    flips = [(), (-1,), (-2,), (-1, -2)]
    expected = torch.stack([super_resolve(made, clip.flip(f)).flip(f) for f in flips]).mean(0)
    torch.testing.assert_close(super_resolve(made, clip, ensemble=True), expected, atol=1e-5, rtol=1e-5)


def test_tiles_of_a_clip_are_blended_because_offsets_are_unbounded():
    made, clip = small_edvr(frames=3), torch.rand(3, 3, 70, 50)
    assert receptive_radius(made) is None
    tiling = plan_tiles(made, tile=32, overlap=24)
    assert not tiling.exact
    whole, tiled = super_resolve(made, clip), super_resolve(made, clip, tiling=tiling)
    assert tiled.shape == whole.shape == (3, 280, 200)
    assert (tiled - whole).abs().mean() < 1e-3
    assert plan_tiles(made, memory=10**9).overlap == 96


def test_memory_per_pixel_includes_all_frames():
    few, many = small_edvr(frames=3), small_edvr(frames=7)
    assert bytes_per_pixel(many) > bytes_per_pixel(few)
    model = {"_target_": "sr_train.models.edvr.EDVR", "scale": 4}
    counts = [multiply_adds({**model, **SMALL, "frames": f}) for f in (3, 5, 7)]
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0])  # as much for each frame
    assert counts[0] > 0
