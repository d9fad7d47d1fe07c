"""A clip frame by frame is the clip window by window, and no more than two windows of it are held."""

import itertools
import sys
import weakref
from pathlib import Path

import pytest
import torch

from sr_train.clip_inference import super_resolve_clip
from sr_train.data.windows import PADDINGS, padded_window
from sr_train.inference import super_resolve
from sr_train.models.bicubic import Bicubic
from sr_train.models.edvr import EDVR


@pytest.fixture(scope="module")
def networks():
    sys.path.insert(0, str(Path(__file__).parent / "nets"))
    from tiny_video import TinyVideo

    torch.manual_seed(0)
    edvr = EDVR(channels=8, groups=2, front_blocks=1, back_blocks=1, frames=5)
    for name, parameter in edvr.named_parameters():
        torch.nn.init.normal_(parameter, 0, 0.2 if "conv_offset" in name else 0.08)
    return {"tiny": TinyVideo(scale=2).eval(), "edvr": edvr.eval(), "one": TinyVideo(scale=2, frames=1).eval()}


@pytest.mark.parametrize(
    ("name", "more", "padding"),
    [
        *itertools.product(["tiny", "one"], range(4), PADDINGS),
        ("edvr", 1, "reflection_circle"),
        ("edvr", 0, "replicate"),
    ],
)
def test_every_frame_is_that_of_its_window(networks, padding, more, name):
    model = networks[name]
    length = model.frames + more
    clip = torch.randint(0, 256, (length, 3, 10, 13), dtype=torch.uint8)
    made = list(super_resolve_clip(model, iter(clip), padding=padding))
    assert len(made) == length
    for centre, out in enumerate(made):
        window = padded_window(centre, frames=model.frames, length=length, padding=padding)
        torch.testing.assert_close(out, super_resolve(model, clip[window]), atol=2e-6, rtol=0)


def test_an_image_network_takes_frames_one_by_one():
    clip = torch.rand(3, 3, 6, 8)
    made = list(super_resolve_clip(Bicubic(scale=2), iter(clip)))
    assert all(torch.equal(a, super_resolve(Bicubic(scale=2), b)) for a, b in zip(made, clip, strict=True))


def test_frames_are_pulled_when_needed_and_let_go(networks):
    alive = weakref.WeakSet()
    pulled = 0

    def frames():
        nonlocal pulled
        for _ in range(30):
            frame = torch.rand(3, 8, 8)
            alive.add(frame)
            pulled += 1
            yield frame
            del frame

    model = networks["tiny"]
    for number, _ in enumerate(super_resolve_clip(model, frames())):
        assert pulled <= min(number + 2 * model.frames, 30)
        assert len(alive) <= 2 * model.frames + 1
    assert number == 29


@pytest.mark.parametrize("length", [0, 1, 4])
def test_too_few_frames_are_refused(networks, length):
    with pytest.raises(ValueError, match="fewer"):
        list(super_resolve_clip(networks["tiny"], iter(torch.rand(length, 3, 8, 8))))
    with pytest.raises(ValueError, match="choose from"):
        list(super_resolve_clip(networks["tiny"], iter(torch.rand(9, 3, 8, 8)), padding="none"))
