"""Training windows and scored windows against the frames they are cut from."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import SPAWN

from sr_train.data.dataset import EvalImages
from sr_train.data.degrade import reduce_image
from sr_train.data.draws import PositionSampler, below
from sr_train.data.images import BadFilesError, read_image, write_image
from sr_train.data.module import SRData
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.reader import Store
from sr_train.data.transforms import flip_rotate, undo_flip_rotate
from sr_train.data.video.clips import Clips, clip_files
from sr_train.data.video.dataset import EvalWindows, TrainWindows
from sr_train.data.video.module import ClipData
from sr_train.data.video.windows import padded_window

CLIPS = ["000", "001", "011"]


@pytest.fixture
def store(tmp_path, write_clips):
    folder = write_clips(tmp_path / "HR")
    StoreBuilder(folder, tmp_path / "x.lmdb", scales=[2], files=clip_files(folder)).build()
    return str(tmp_path / "x.lmdb")


def data_of(store, **options):
    options = {"scale": 2, "lr_patch": 8, "frames": 5, "batch": 4, "seed": 3, "workers": 0, **options}
    return ClipData(train=[{"hr": store, "lr": store}], **options)


def frame_of(patch, moving, scale=1):
    """(clip, frame, top, left) of a patch [3, s, s], found by looking for it everywhere."""
    size = patch.shape[-1]
    for clip, frames in enumerate((8, 6, 9)):
        for t, image in enumerate(moving(clip, frames)):
            image = reduce_image(image, scale) if scale > 1 else image
            windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(0, 1))
            found = np.argwhere((windows == patch).all((2, 3, 4)))
            if len(found):
                return clip, t, *found[0].tolist()
    raise AssertionError("not a patch of any frame")


def same(a, b):
    return a["key"] == b["key"] and torch.equal(a["lr"], b["lr"]) and torch.equal(a["hr"], b["hr"])


# -- training --------------------------------------------------------------------------------------------------------


def test_a_sample_is_one_crop_and_one_flip_or_rotation_of_consecutive_frames_and_the_hr_of_the_center_frame(
    store, moving
):
    dataset = data_of(store).dataset
    batch = dataset.__getitems__(range(12))
    assert batch["lr"].shape == (12, 5, 3, 8, 8)
    assert batch["hr"].shape == (12, 3, 16, 16)
    assert batch["lr"].dtype == batch["hr"].dtype == torch.uint8
    assert batch["lr"].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    drawn = set()
    for slot in range(12):
        k = dataset.sample(slot)[2]
        drawn.add(k)
        low = [frame_of(undo_flip_rotate(frame.numpy(), k), moving, 2) for frame in batch["lr"][slot]]
        clip, center, top, left = frame_of(undo_flip_rotate(batch["hr"][slot].numpy(), k), moving)
        assert [where[1] for where in low] == list(range(center - 2, center + 3))
        assert {(c, y, x) for c, _, y, x in low} == {(clip, top // 2, left // 2)}
        assert (top % 2, left % 2) == (0, 0)
        assert batch["key"][slot] == f"{CLIPS[clip]}/{center:08d}"
    assert len(drawn) > 4


def test_every_center_whose_window_lies_inside_its_clip_is_drawn_once_an_epoch(store):
    dataset = data_of(store).dataset
    count = 4 + 2 + 5  # of 8, 6 and 9 frames
    assert sum(map(len, dataset.sources)) == count
    expected = {f"{c}/{t:08d}" for c, n in zip(CLIPS, (8, 6, 9), strict=True) for t in range(2, n - 2)}
    for epoch in range(3):
        keys = dataset.__getitems__(range(epoch * count, (epoch + 1) * count))["key"]
        assert set(keys) == expected


def test_intervals_are_drawn_equally_often_and_windows_stay_inside(store):
    clips = Clips(store, scale=2, least=5)
    windows = TrainWindows(clips, frames=3, intervals=[1, 2])
    draws = data_of(store, frames=3, intervals=[1, 2]).dataset.draws
    steps, lengths = Counter(), [8, 6, 9]
    for position in range(2000):
        _, index, words = draws(position)
        window = windows.draw(index, words[3:6])
        (step,) = set(np.diff(window))
        steps[int(step)] += 1
        clip = next(c for c, (first, n) in enumerate(clips.spans) if first <= window[0] < first + n)
        first = clips.spans[clip][0]
        assert first <= window[0]
        assert window[-1] < first + lengths[clip]
    assert steps.keys() == {1, 2}
    assert abs(steps[1] - 1000) < 150  # six standard deviations


def test_reverse_plays_half_of_the_windows_backwards(store):
    windows = TrainWindows(Clips(store, scale=2), frames=5, reverse=True)
    draws = data_of(store).dataset.draws
    drawn = [windows.draw(index, words[3:6]) for _, index, words in map(draws, range(1000))]
    assert 400 < sum(w[0] > w[-1] for w in drawn) < 600
    forwards = TrainWindows(Clips(store, scale=2), frames=5)
    plain = [forwards.draw(index, words[3:6]) for _, index, words in map(draws, range(1000))]
    assert [sorted(w) for w in drawn] == plain


def test_lr_made_in_passing_is_the_crop_of_prepared_lr(store, tmp_path, write_clips):
    prepared = data_of(store).dataset.__getitems__(range(16))
    given = write_clips(tmp_path / "LR", lr=2)
    for hr, lr in ((store, None), (str(tmp_path / "HR"), None), (str(tmp_path / "HR"), given)):
        made = ClipData(train=[{"hr": hr, "lr": lr}], scale=2, lr_patch=8, seed=3).dataset.__getitems__(range(16))
        assert same(made, prepared)


def test_frames_to_be_deblurred_are_cut_at_the_same_place(store, tmp_path, write_clips, moving):
    folder = tmp_path / "blur"
    write_clips(folder)
    for path in folder.rglob("*.png"):
        write_image(path, 255 - read_image(path))
    data = ClipData(train=[{"hr": store, "lr": str(folder)}], scale=1, lr_patch=16, frames=3)
    batch = data.dataset.__getitems__(range(9))
    assert batch["lr"].shape == (9, 3, 3, 16, 16)
    assert batch["scale"] == 1
    assert torch.equal(255 - batch["lr"][:, 1], batch["hr"])


def test_a_window_costs_one_row_band_a_frame(store, monkeypatch):
    dataset = data_of(store).dataset
    calls = []
    original = Store.crop
    monkeypatch.setattr(Store, "crop", lambda self, scale, *rest: calls.append(scale) or original(self, scale, *rest))
    dataset.__getitems__([0])
    assert sorted(calls) == [1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), SPAWN], ids=str)
def test_samples_are_the_same_with_any_workers_and_from_any_step_on(store, workers, context):
    data = data_of(store, workers=workers, intervals=[1], reverse=True)
    expected = [data.dataset.__getitems__(range(k, k + 4)) for k in range(0, 80, 4)]
    loaded = list(itertools.islice(data.loader(PositionSampler(4), context=context), 20))
    assert all(same(a, b) for a, b in zip(loaded, expected, strict=True))
    resumed = list(itertools.islice(data.loader(PositionSampler(4, first_step=13), context=context), 7))
    assert all(same(a, b) for a, b in zip(resumed, expected[13:], strict=True))


def test_two_ranks_together_load_what_one_does(store):
    data = data_of(store)
    alone = list(itertools.islice(data.loader(PositionSampler(4)), 6))
    ranks = [itertools.islice(data.loader(PositionSampler(2, rank=r, world=2)), 6) for r in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(torch.cat([p["lr"] for p in parts]), whole["lr"])


def test_deep_and_shallow_frames_share_a_batch_as_floats(tmp_path, write_clips):
    write_clips(tmp_path / "HR", sizes={"a": 5, "b": 5})
    for path in (tmp_path / "HR" / "b").glob("*.png"):
        write_image(path, read_image(path).astype(np.uint16) * 257)
    data = ClipData(train=[{"hr": str(tmp_path / "HR")}], scale=2, lr_patch=8)
    batch = data.dataset.__getitems__(range(2))
    assert {key[0] for key in batch["key"]} == {"a", "b"}
    assert batch["lr"].dtype == batch["hr"].dtype == torch.float32
    assert float(batch["hr"].max()) <= 1


def test_a_pickled_dataset_carries_no_pixels(store):
    dataset = data_of(store).dataset
    used = dataset.__getitems__(range(8))
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 20_000
    assert same(pickle.loads(pickled).__getitems__(range(8)), used)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_patch": 21}, "3 clips smaller than the patch of 21x21 LR pixels"),
        ({"frames": 4}, "frames=4: expected an odd number"),
        ({"frames": 7}, "001: has 6 of the 7 frames"),
        ({"intervals": [1, 2]}, "001: has 6 of the 9 frames"),
        ({"intervals": [0]}, r"intervals=\[0\]: expected integers of at least 1"),
        ({"val": {"v": {"hr": "toy_clips:chelsea", "padding": "mirror"}}}, r"data\.val\.v\.padding='mirror': choose from"),
        ({"val": {"v": {"hr": "toy_clips:chelsea", "score": "some"}}}, r"data\.val\.v\.score='some': choose from all"),
        ({"val": {"v": {"hr": "toy_clips:chelsea", "clips": [0, 11]}}}, r'list of names in quotes \(\["000","011"\]\)'),
        ({"val": {"v": {"hr": "toy_clips:chelsea", "weight": 2}}}, r"data\.val\.v: expected a source of clips, \{hr: "),
    ],
)  # fmt: skip
def test_wrong_options_of_windows_are_refused(store, options, message):
    with pytest.raises(ValueError, match=message):
        data_of(store, **options)


# -- what is scored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["replicate", "reflection_circle"])
def test_every_frame_is_scored_with_its_padded_window(store, moving, padding):
    images = EvalImages({"s": EvalWindows(Clips(store, scale=2, lr=store), frames=5, padding=padding)})
    assert len(images) == 8 + 6 + 9
    assert images.names()[8] == ("s", "001/00000000")
    assert images.clips() == ["000"] * 8 + ["001"] * 6 + ["011"] * 9
    for number, (clip, frames) in ((0, (0, 8)), (9, (1, 6)), (22, (2, 9))):
        item = images[number]
        hr, t = moving(clip, frames), number - (0, 8, 14)[clip]
        assert item.clip == CLIPS[clip]
        assert np.array_equal(item.hr.permute(1, 2, 0), hr[t])
        window = padded_window(t, frames=5, length=frames, padding=padding)
        for frame, source in zip(item.lr, window, strict=True):
            assert np.array_equal(frame.permute(1, 2, 0), reduce_image(hr[source], 2))
        assert torch.equal(item.center, item.lr[2])


def test_score_centre_scores_only_the_center_frame(store):
    windows = EvalWindows(Clips(store, scale=2), frames=5, score="centre")
    assert windows.keys == ["000/00000004", "001/00000003", "011/00000004"]


def test_a_set_of_clips_is_shared_by_data_of_images_and_of_clips(store):
    sets = {"s": {"hr": store, "lr": store, "clips": ["001"]}, "photo": {"hr": "toy:chelsea"}}
    images = SRData(train=[{"hr": "toy:coffee"}], val=sets, scale=2, lr_patch=8).val_images()
    clips = data_of(store, val={"s": sets["s"]}).val_images()
    assert images.names()[:6] == clips.names()
    assert images.clips() == ["001"] * 6 + [""]
    for number in range(6):
        assert torch.equal(images[number].center, clips[number].center)
        assert torch.equal(images[number].hr, clips[number].hr)


def test_the_middle_frames_of_clips_are_displayed(store):
    images = EvalImages({"s": EvalWindows(Clips(store, scale=2))})
    assert [images.names()[i][1] for i in images.shown(2)] == ["000/00000004", "001/00000003"]


def test_neighboring_windows_read_a_frame_once(store, monkeypatch):
    windows = EvalWindows(Clips(store, scale=2, lr=store), frames=5)
    reads = Counter()
    original = Store.read
    monkeypatch.setattr(
        Store, "read", lambda self, scale, key: reads.update([(scale, key)]) or original(self, scale, key)
    )
    for number in range(8):
        windows.whole(number)
    assert set(reads.values()) == {1}


def test_a_corrupt_frame_is_named_when_a_store_is_made(tmp_path, write_clips):
    folder = write_clips(tmp_path / "HR")
    path = tmp_path / "HR" / "001" / "00000003.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    builder = StoreBuilder(folder, tmp_path / "y.lmdb", files=clip_files(folder))
    builder.estimate()
    with pytest.raises(BadFilesError, match=r"leave their clips out with list=FILE:\n.*HR/001/00000003\.png: corrupt"):
        builder.build()


def test_uniform_words_choose_crops_as_for_images(store):
    dataset = data_of(store).dataset
    _, index, words = dataset.draws(5)
    frames, hr, k, *_ = dataset.sample(5)
    top, left = below(words[0], 20 - 8 + 1), below(words[1], 24 - 8 + 1)
    center = dataset.sources[0].draw(index, words[3:6])[2]
    lr, expected = dataset.sources[0].pairs.patch(center, top, left, 8)
    assert np.array_equal(hr, expected)
    assert np.array_equal(frames[2], lr)
    assert np.array_equal(flip_rotate(hr.transpose(2, 0, 1), k), dataset[5]["hr"][0])
