import itertools
import pickle
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import SPAWN, photograph, write_all
from lightning import LightningModule
from torch.utils.data import DataLoader

from sr_train.batch import to_float
from sr_train.console import ProblemsError, collect_error
from sr_train.data.dataset import EvalImages, TrainPatches
from sr_train.data.degrade import reduce_image
from sr_train.data.draws import Draws, PositionSampler, below
from sr_train.data.images import BadFilesError, read_image, to_real, to_rgb
from sr_train.data.loading import passthrough
from sr_train.data.module import SRData
from sr_train.data.pairs import Pairs
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import MissingStoreError
from sr_train.data.transforms import FLIP_ROTATIONS, flip_rotate

CHELSEA = photograph()
KINDS = {"rgb": (3, np.uint8), "grey": (1, np.uint8), "alpha": (4, np.uint8), "deep": (3, np.uint16)}


def cut(k, kind="rgb", height=70, width=90):
    """A part of the photograph, another for each k; the 16-bit one has values that 8 bits do not."""
    channels, dtype = KINDS[kind]
    image = CHELSEA[9 * k : 9 * k + height, 11 * k : 11 * k + width]
    image = np.concatenate([image, 255 - image[..., :1]], axis=2)[
        ..., slice(1, 2) if channels == 1 else slice(channels)
    ]
    return image if dtype == np.uint8 else image.astype(np.uint16) * 256 + 77


@pytest.fixture
def folder(tmp_path):
    return write_all(tmp_path / "HR", {f"{k:02d}": cut(k, height=70 + k, width=90 - k) for k in range(6)})


def dataset_of(*sources, scale=2, lr_patch=12, weights=None, seed=3, augment=True):
    pairs = [source if isinstance(source, Pairs) else Pairs(source, scale=scale, cache=True) for source in sources]
    draws = Draws([len(p) for p in pairs], weights=weights, seed=seed, stage="main")
    return TrainPatches(pairs, draws, lr_patch=lr_patch, augment=augment)


def same(a, b):
    return (
        torch.equal(a["lr"], b["lr"])
        and torch.equal(a["hr"], b["hr"])
        and (a["key"], a["scale"], a["lr"].dtype, a["hr"].dtype) == (b["key"], b["scale"], b["lr"].dtype, b["hr"].dtype)
    )


# -- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_batch_is_uint8_of_the_promised_shapes_in_channels_last_memory(folder, scale):
    batch = dataset_of(folder, scale=scale, lr_patch=11).__getitems__(range(5))
    assert batch["lr"].shape == (5, 3, 11, 11)
    assert batch["hr"].shape == (5, 3, 11 * scale, 11 * scale)
    assert batch["scale"] == scale
    for tensor in (batch["lr"], batch["hr"]):
        assert tensor.dtype == torch.uint8
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert len(batch["key"]) == 5
    assert set(batch["key"]) <= {f"{k:02d}" for k in range(6)}


def test_patches_with_values_that_are_not_finite_are_named(folder, monkeypatch):
    """The loader's processes look for them, so that the training process does not."""
    dataset = dataset_of(folder)
    sample = dataset.sample
    assert dataset.__getitems__(range(20))["suspects"] == []

    def broken(position):
        drawn = sample(position)
        lr, hr, key = np.array(to_real(drawn.lr)), np.array(to_real(drawn.hr)), drawn.key
        if key in ("03", "04"):
            (lr if key == "03" else hr)[0, -1, 1] = np.nan if key == "03" else np.inf
        return drawn._replace(lr=lr, hr=hr)

    monkeypatch.setattr(dataset, "sample", broken)
    batch = dataset.__getitems__(range(20))
    assert batch["suspects"] == [key for key in batch["key"] if key in ("03", "04")]
    assert {"03", "04"} <= set(batch["suspects"]) < set(batch["key"])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_each_sample_is_the_drawn_flip_and_rotation_of_the_drawn_place_of_the_drawn_image(folder, scale):
    dataset = dataset_of(folder, scale=scale)
    batch = dataset.__getitems__(range(60))
    drawn = set()
    for slot in range(60):
        draw = dataset.draws(slot)
        hr = read_image(f"{folder}/{draw.image:02d}.png")
        lr = reduce_image(hr, scale)
        y = below(draw.words[0], lr.shape[0] - 11)
        x = below(draw.words[1], lr.shape[1] - 11)
        k = below(draw.words[2], FLIP_ROTATIONS)
        low = lr[y : y + 12, x : x + 12].transpose(2, 0, 1)
        high = hr[scale * y : scale * (y + 12), scale * x : scale * (x + 12)].transpose(2, 0, 1)
        assert batch["key"][slot] == f"{draw.image:02d}"
        assert np.array_equal(batch["lr"][slot], flip_rotate(low, k))
        assert np.array_equal(batch["hr"][slot], flip_rotate(high, k))
        drawn.add(k)
    assert drawn == set(range(FLIP_ROTATIONS))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reducing_an_hr_patch_gives_the_interior_of_its_lr_patch(folder, scale):
    batch = dataset_of(folder, scale=scale).__getitems__(range(40))
    for lr, hr in zip(batch["lr"], batch["hr"], strict=True):
        # The kernel reaches two LR pixels, so inside that margin the patch alone decides, however it was flipped and rotated.
        reduced = reduce_image(hr.permute(1, 2, 0).numpy(), scale)[2:-2, 2:-2]
        difference = np.abs(reduced.astype(int) - lr.permute(1, 2, 0).numpy()[2:-2, 2:-2])
        assert difference.max() <= 1  # a half may fall either way when the taps are summed in another order
        assert (difference > 0).mean() < 1e-3


def test_every_place_of_an_image_is_drawn_up_to_its_edges(tmp_path):
    folder = write_all(tmp_path / "HR", {"one": cut(0, height=30, width=34)})
    dataset = dataset_of(folder, augment=False)
    lr = reduce_image(cut(0, height=30, width=34), 2)
    places = {
        lr[y : y + 12, x : x + 12].tobytes(): (y, x) for y in range(lr.shape[0] - 11) for x in range(lr.shape[1] - 11)
    }
    assert len(places) == 4 * 6
    seen = {places[dataset.sample(k)[0].tobytes()] for k in range(400)}
    assert seen == set(places.values())


def test_without_augmentation_nothing_is_flipped_or_rotated(folder):
    plain, flipped = (dataset_of(folder, augment=augment).__getitems__(range(30)) for augment in (False, True))
    dataset = dataset_of(folder)
    ks = [below(dataset.draws(p).words[2], FLIP_ROTATIONS) for p in range(30)]
    for slot, k in enumerate(ks):
        assert torch.equal(flip_rotate(plain["hr"][slot], k), flipped["hr"][slot])
        assert torch.equal(flip_rotate(plain["lr"][slot], k), flipped["lr"][slot])


def test_a_sample_is_the_same_alone_and_in_any_batch(folder):
    dataset = dataset_of(folder)
    batch = dataset.__getitems__(range(20))
    for position in (0, 7, 19):
        alone = dataset[position]
        assert torch.equal(alone["lr"][0], batch["lr"][position])
        assert torch.equal(alone["hr"][0], batch["hr"][position])
        assert alone["key"] == [batch["key"][position]]
    backwards = dataset.__getitems__(range(19, -1, -1))
    assert torch.equal(backwards["hr"].flip(0), batch["hr"])


def test_the_seed_changes_what_is_seen(folder):
    assert not same(dataset_of(folder).__getitems__(range(8)), dataset_of(folder, seed=4).__getitems__(range(8)))


def test_gray_alpha_and_color_share_a_batch(tmp_path):
    images = {kind: cut(k, kind) for k, kind in enumerate(("rgb", "grey", "alpha"))}
    dataset = dataset_of(write_all(tmp_path / "HR", images), augment=False)
    batch = dataset.__getitems__(range(30))
    assert batch["hr"].dtype == torch.uint8
    assert set(batch["key"]) == set(images)
    for slot, key in enumerate(batch["key"]):
        _, _, words = dataset.draws(slot)
        y, x = 2 * below(words[0], 35 - 11), 2 * below(words[1], 45 - 11)
        expected = to_rgb(images[key])[y : y + 24, x : x + 24].transpose(2, 0, 1)
        assert np.array_equal(batch["hr"][slot], expected)
        assert torch.equal(batch["lr"][slot, 0], batch["lr"][slot, 1]) == (key == "grey")


def test_sources_are_mixed_by_their_weights(tmp_path):
    one = write_all(tmp_path / "one", {f"a{k}": cut(k) for k in range(2)})
    other = write_all(tmp_path / "other", {f"b{k}": cut(k) for k in range(5)})
    keys = dataset_of(one, other, weights=[3, 1]).__getitems__(range(80))["key"]
    assert sum(key.startswith("a") for key in keys) == 60
    keys = dataset_of(one, other).__getitems__(range(70))["key"]
    assert sum(key.startswith("a") for key in keys) == 20


# -- depths ----------------------------------------------------------------------------------------------------------


def test_sixteen_bits_become_float_without_losing_any(tmp_path):
    dataset = dataset_of(write_all(tmp_path / "HR", {f"{k}": cut(k, "deep") for k in range(3)}))
    batch = dataset.__getitems__(range(12))
    for slot in range(12):
        lr, hr, k, *_ = dataset.sample(slot)
        for name, pixels in (("lr", lr), ("hr", hr)):
            assert pixels.dtype == np.uint16
            exact = flip_rotate(pixels.transpose(2, 0, 1), k).astype(np.float64) / 65535
            assert batch[name].dtype == torch.float32
            assert np.abs(batch[name][slot].numpy() - exact).max() <= 2**-25  # half a unit in the last place
    assert batch["lr"].is_contiguous(memory_format=torch.channels_last)


def test_eight_and_sixteen_bits_share_a_batch_as_floats_whichever_comes_first(tmp_path):
    shallow = write_all(tmp_path / "shallow", {f"a{k}": cut(k) for k in range(2)})
    deep = write_all(tmp_path / "deep", {f"b{k}": cut(k, "deep") for k in range(2)})
    mixed = dataset_of(shallow, deep)
    first = [mixed.draws(position).source for position in range(30)]
    shallow_first, deep_first = first.index(0), first.index(1)
    for start in (shallow_first, deep_first):
        order = [start, *(k for k in range(30) if k != start)]
        batch = mixed.__getitems__(order)
        for name in ("lr", "hr"):
            assert batch[name].dtype == torch.float32
            assert batch[name].is_contiguous(memory_format=torch.channels_last)
            for slot, position in enumerate(order):
                alone = mixed[position][name]
                assert alone.dtype == (torch.float32 if first[position] else torch.uint8)
                assert torch.equal(batch[name][slot], to_float(alone)[0])


def test_lr_and_hr_may_be_of_different_depth(tmp_path):
    hr = write_all(tmp_path / "HR", {"0": cut(0, "deep")})
    lr = write_all(tmp_path / "LR", {"0": reduce_image(cut(0), 2)})
    batch = dataset_of(Pairs(hr, scale=2, lr=lr)).__getitems__(range(4))
    assert (batch["lr"].dtype, batch["hr"].dtype) == (torch.uint8, torch.float32)


# -- loaders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(folder, tmp_path):
    """A dataset of a store with its own LR, a folder whose LR is made in passing, and 16-bit images."""
    StoreBuilder(folder, tmp_path / "x.lmdb", scales=[2]).build()
    files = write_all(tmp_path / "files", {f"f{k}": cut(k, kind) for k, kind in enumerate(KINDS)})
    store = str(tmp_path / "x.lmdb")
    train = [{"hr": store, "lr": store, "weight": 3}, {"hr": files, "weight": 1}, {"hr": store, "weight": 1}]
    return SRData(train=train, scale=2, lr_patch=6, batch=50, seed=11, cache=True, workers=0)


def first_2000(data, workers, context=None):
    data.workers = workers
    loader = data.loader(PositionSampler(50), context=context)
    return list(itertools.islice(loader, 40))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (4, "fork"), SPAWN], ids=str)
def test_the_first_2000_samples_are_the_same_with_any_workers(stored, workers, context):
    expected = [stored.dataset.__getitems__(range(k, k + 50)) for k in range(0, 2000, 50)]
    assert len({tuple(batch["key"]) for batch in expected}) == 40
    loaded = first_2000(stored, workers, context)
    assert len(loaded) == 40
    assert all(same(a, b) for a, b in zip(loaded, expected, strict=True))
    assert all(b["lr"].is_contiguous(memory_format=torch.channels_last) for b in loaded)


def test_two_ranks_together_load_what_one_does(stored):
    alone = list(itertools.islice(stored.loader(PositionSampler(8)), 10))
    ranks = [itertools.islice(stored.loader(PositionSampler(4, rank=r, world=2)), 10) for r in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert [key for part in parts for key in part["key"]] == whole["key"]
        assert torch.equal(torch.cat([to_float(p["hr"]) for p in parts]), to_float(whole["hr"]))


def test_a_loader_started_at_a_step_continues_the_stream(stored):
    whole = list(itertools.islice(stored.loader(PositionSampler(8)), 12))
    resumed = list(itertools.islice(stored.loader(PositionSampler(8, first_step=7)), 5))
    assert all(same(a, b) for a, b in zip(whole[7:], resumed, strict=True))


def test_a_pickled_dataset_draws_the_same_and_carries_no_pixels(stored):
    used = stored.dataset.__getitems__(range(20))
    pickled = pickle.dumps(stored.dataset)
    assert same(pickle.loads(pickled).__getitems__(range(20)), used)
    assert len(pickled) < 20_000


# -- what is refused -------------------------------------------------------------------------------------------------


def test_all_images_smaller_than_the_patch_are_listed(tmp_path):
    images = {"low": cut(0, height=23), "good": cut(1, height=24, width=25), "narrow": cut(2, width=23)}
    folder = write_all(tmp_path / "HR", images)
    with pytest.raises(BadFilesError, match="2 images smaller than the patch of 12x12 LR pixels; leave out") as e:
        dataset_of(folder)
    assert e.value.problems == [f"{folder}: low: LR is 45x11", f"{folder}: narrow: LR is 11x35"]
    (tmp_path / "HR" / "low.png").unlink()
    (tmp_path / "HR" / "narrow.png").unlink()
    assert dataset_of(folder)[5]["hr"].shape == (1, 3, 24, 24)


@pytest.mark.parametrize("lr_patch", [0, -4])
def test_patches_of_no_pixels_are_refused(folder, lr_patch):
    with pytest.raises(ValueError, match=f"lr_patch={lr_patch} must be at least 1"):
        dataset_of(folder, lr_patch=lr_patch)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], r"data\.train is empty: give e\.g\. data=base 'data\.train=\[\{hr: DIR\}\]', or data=toy"),
        (
            [{"hr": "toy", "weight": 1}, {"hr": "toy:coffee"}],
            r"give every source a weight or none; weights are \[1, None\]",
        ),
        (
            [{"lr": "toy"}],
            r"data\.train\[0\]: expected a source, \{hr: \.\.\., lr: \.\.\., degrade: \.\.\., list: \.\.\., weight: \.*\}; got",
        ),
        ([{"hr": "toy"}, {"hr": "toy", "wieght": 2}], r"data\.train\[1\]: expected a source, .*'wieght'"),
    ],
)
def test_wrong_sources_are_refused_by_key(train, message):
    with pytest.raises(ValueError, match=message):
        SRData(train=train, scale=2, lr_patch=12)


# -- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_images_are_whole_and_in_order_of_their_sets(tmp_path):
    images = {kind: cut(k, kind, 71, 93) for k, kind in enumerate(KINDS)}
    mixed = Pairs(write_all(tmp_path / "mixed", images), scale=4)
    lr = write_all(tmp_path / "LR", {"rgbx4": cut(5, "grey", 17, 23)})
    given = Pairs(write_all(tmp_path / "HR", {"rgb": images["rgb"]}), scale=4, lr=lr)
    evaluation = EvalImages({"mixed": mixed, "given": given})
    assert len(evaluation) == 5
    assert evaluation.names() == [("mixed", key) for key in sorted(images)] + [("given", "rgb")]
    for k, (name, key) in enumerate(evaluation.names()):
        item = evaluation[k]
        assert (item.set, item.key, item.scale) == (name, key, 4)
        assert item.lr.shape == (3, 17, 23)
        assert item.hr.shape == (3, 68, 92)
        full = np.iinfo(images[key].dtype).max
        low = reduce_image(images[key], 4) if name == "mixed" else cut(5, "grey", 17, 23)
        for tensor, pixels in ((item.lr, low), (item.hr, images[key][:68, :92])):
            expected = to_rgb(pixels).transpose(2, 0, 1)
            assert tensor.dtype == (torch.uint8 if full == 255 else torch.float32)
            assert np.allclose(to_float(tensor).numpy() * full, expected, rtol=1e-6, atol=0)


def test_evaluation_images_come_through_a_loader_with_workers(folder, tmp_path):
    StoreBuilder(folder, tmp_path / "x.lmdb", scales=[2]).build()
    store = str(tmp_path / "x.lmdb")
    evaluation = EvalImages({"x": Pairs(store, scale=2, lr=store)})
    loader = DataLoader(evaluation, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for k, item in enumerate(loader):
        hr = read_image(f"{folder}/{k:02d}.png")
        hr = hr[: 70 + k - (70 + k) % 2, : 90 - k - (90 - k) % 2]
        assert np.array_equal(item.hr.permute(1, 2, 0), hr)
        assert np.array_equal(item.lr.permute(1, 2, 0), reduce_image(hr, 2))
    assert k == 5


@pytest.mark.filterwarnings("error")  # torch warns of memory that cannot be written
def test_evaluation_images_may_be_changed_by_who_gets_them(folder, tmp_path):
    StoreBuilder(folder, tmp_path / "x.lmdb", scales=[2]).build()
    store = str(tmp_path / "x.lmdb")
    evaluation = EvalImages({"x": Pairs(store, scale=2, lr=store)})
    for tensor in (evaluation[0].lr, evaluation[0].hr):
        tensor.zero_()
    assert np.array_equal(evaluation[0].hr.permute(1, 2, 0), read_image(f"{folder}/00.png"))
    assert np.array_equal(evaluation[0].lr.permute(1, 2, 0), reduce_image(read_image(f"{folder}/00.png"), 2))


def test_passthrough_hands_a_batch_on_as_it_is(folder):
    batch = dataset_of(folder)[0]
    assert passthrough(batch) is batch


@pytest.mark.parametrize(("workers", "given", "expected"), [(0, 2, None), (1, 5, 5), (2, None, 2)])
def test_workers_prepare_as_many_batches_ahead_as_asked(workers, given, expected):
    data = SRData(train=[{"hr": "toy:coffee"}], scale=2, lr_patch=8, workers=workers, prefetch_factor=given)
    assert data.train_dataloader().prefetch_factor == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_the_device_of_the_trainer(monkeypatch, device):
    """And not because the machine has a GPU, which a run on the CPU would only initialize."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = SRData(train=[{"hr": "toy:coffee"}], scale=2, lr_patch=8, workers=0)
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(
        world_size=1, global_rank=0, global_step=0, strategy=strategy, accumulate_grad_batches=1
    )
    assert data.train_dataloader().pin_memory == (device == "cuda")


class Sent(torch.Tensor):
    """A tensor that tells how it is brought to a device."""

    sent: ClassVar = []

    def to(self, device, **how):
        self.sent.append((self.dtype, device, how))
        return self


def test_pixels_are_sent_to_a_gpu_as_bytes_and_the_host_does_not_wait(folder):
    batch = dataset_of(folder).__getitems__([0, 1])
    given = {k: v.as_subclass(Sent) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    device = torch.device("cuda")
    LightningModule().transfer_batch_to_device(given, device, 0)
    assert Sent.sent == [(torch.uint8, device, {"non_blocking": True})] * 2


def test_all_sources_that_cannot_be_opened_are_reported_with_the_scales_of_their_stores(folder, tmp_path):
    stores = [str(tmp_path / name) for name in ("a b.lmdb", "c.lmdb", "d.lmdb")]
    train = [{"hr": stores[0], "lr": stores[0]}, {"hr": folder}, {"hr": stores[1]}]
    val = {"good": {"hr": folder}, "bad": {"hr": stores[2], "lr": stores[2], "clips": "all"}}
    with pytest.raises(ProblemsError) as caught:
        SRData(train=train, val=val, scales=[2, 4], lr_patch=12)
    both, plain, clips = caught.value.problems
    assert both.endswith(f"make the store with sr-prepare images=DIR 'store={stores[0]}' scales=[2,4]")
    assert plain.endswith(f"make the store with sr-prepare images=DIR store={stores[1]}")
    assert clips.endswith(f"make the store with sr-prepare clips=DIR store={stores[2]} scales=[2,4]")
    with pytest.raises(MissingStoreError, match="images=DIR"):
        SRData(train=train[2:], scale=2, lr_patch=12)
    problems = []
    with collect_error(problems, "data"):
        SRData(train=train, val=val, scale=2, lr_patch=12)
    assert len(problems) == 3
