"""Training data with degradations: which sources get one, and equal samples however they are loaded."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from helpers import photograph, write_all

from sr_train.data.degradation.base import Degraded
from sr_train.data.degrade import reduce_image
from sr_train.data.draws import PositionSampler
from sr_train.data.module import SRData
from sr_train.data.store.builder import StoreBuilder

CHELSEA = photograph()


class Speckle:
    """Noise, and a quality that is drawn."""

    margin = 3

    def __init__(self, strength=0.1):
        self.strength = strength

    def __call__(self, hr, scale, words):
        noise = words.child("noise")
        strength = noise.uniform(0, self.strength)
        low = hr[::scale, ::scale]
        lr = np.clip(low + strength * noise.normal(low.shape), 0, 1).astype(np.float32)
        return Degraded(lr, {"strength": strength})


@pytest.fixture
def folder(tmp_path):
    images = {f"{k}": CHELSEA[9 * k : 9 * k + 70, 11 * k : 11 * k + 90] for k in range(5)}
    write_all(tmp_path / "LR", {key: reduce_image(image, 2) for key, image in images.items()})
    return write_all(tmp_path / "HR", images)


def data(*train, degrade=None, **options):
    options = {"scale": 2, "lr_patch": 10, "batch": 4, "workers": 0, "cache": True, **options}
    return SRData(train=list(train), degrade=degrade, **options)


def same(a, b):
    names = [name for name in ("lr", "hr", "target") if name in a or name in b]
    return a["key"] == b["key"] and all(torch.equal(a[name], b[name]) for name in names)


def batches(one, count, workers=0, **options):
    one.workers, one.prefetch = workers, 2
    return list(itertools.islice(one.loader(PositionSampler(4, **options)), count))


@pytest.mark.parametrize("workers", [1, 2])
def test_samples_do_not_depend_on_the_workers(folder, workers):
    one = data({"hr": folder}, degrade=Speckle(), usm=True)
    for a, b in zip(batches(one, 4), batches(one, 4, workers), strict=True):
        assert same(a, b)
        assert a["target"].shape == a["hr"].shape


def test_a_pickled_dataset_gives_equal_samples(folder):
    """A process that is spawned gets it like this."""
    one = data({"hr": folder}, degrade=Speckle(), usm=True).dataset
    assert same(pickle.loads(pickle.dumps(one)).__getitems__(range(4)), one.__getitems__(range(4)))


def test_samples_do_not_depend_on_the_ranks_the_start_or_the_batch(folder):
    one = data({"hr": folder}, degrade=Speckle())
    whole = batches(one, 6)
    for rank in (0, 1):
        for number, batch in enumerate(batches(one, 3, rank=rank, world=2)):
            assert same(batch, whole[2 * number + rank])
    for a, b in zip(batches(one, 3, first_step=3), whole[3:], strict=True):
        assert same(a, b)
    assert len({batch["lr"].numpy().tobytes() for batch in whole}) == 6
    again = data({"hr": folder}, degrade=Speckle(), seed=1)
    assert not same(batches(again, 1)[0], whole[0])


def test_place_and_image_of_a_sample_are_those_without_a_degradation(folder):
    plain, degraded = data({"hr": folder}), data({"hr": folder}, degrade=Speckle())
    for position in range(12):
        a, b = plain.dataset.sample(position), degraded.dataset.sample(position)
        assert (a.key, a.k, np.array_equal(a.hr, b.hr)) == (b.key, b.k, True)
        assert not np.array_equal(a.lr, b.lr)
        assert (a.drawn, list(b.drawn)) == ({}, ["strength"])


def test_a_skipped_image_gets_other_numbers():
    draws = data({"hr": "toy:coffee"}, degrade=Speckle()).dataset.draws
    keys = {draws(position, attempt).words[6:] for position in range(50) for attempt in range(3)}
    assert len(keys) == 150


def test_sources_with_lr_are_used_as_they_are_and_others_are_degraded(folder, tmp_path):
    pairs = {"hr": folder, "lr": str(tmp_path / "LR"), "weight": 1}
    real = data(pairs)
    mixed = data(pairs, {"hr": folder, "weight": 2}, degrade=Speckle())
    own = data({"hr": folder, "weight": 1, "degrade": None}, {"hr": folder, "weight": 2}, degrade=Speckle())
    sources = [mixed.dataset.draws(position).source for position in range(30)]
    assert sources.count(0) == 10  # one of three, exactly
    for position, source in enumerate(sources):
        sample, bicubic = mixed.dataset.sample(position), own.dataset.sample(position)
        assert ("strength" in sample.drawn) == ("strength" in bicubic.drawn) == (source == 1)
        if source == 0:
            index, words = mixed.dataset.draws(position).image, mixed.dataset.draws(position).words
            assert np.array_equal(sample.lr, real.sources[0].cut(index, words, 10).lr)
            assert np.array_equal(sample.lr, bicubic.lr)


def test_a_source_may_have_its_own_degradation(folder):
    one = data({"hr": folder, "degrade": Speckle(0.0)}, {"hr": folder}, degrade=Speckle(0.2))
    for position in range(20):
        drawn = one.dataset.sample(position).drawn["strength"]
        assert (drawn == 0) == (one.dataset.draws(position).source == 0)


def test_several_scales_share_the_draws(folder):
    one = SRData(train=[{"hr": folder}], scales=[2, 3], lr_patch=8, batch=4, workers=0, degrade=Speckle())
    for position in range(6):
        two, three = (one.dataset.patches[s].sample(position) for s in (2, 3))
        assert two.drawn == three.drawn
        assert two.lr.shape == three.lr.shape
    assert {one.dataset.__getitems__(range(4 * step, 4 * step + 4))["scale"] for step in range(8)} == {2, 3}


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_images_and_stores_and_16_bits(folder, tmp_path, channels):
    StoreBuilder(folder, tmp_path / "x.lmdb").build()
    a = data({"hr": folder}, degrade=Speckle(), channels=channels, usm=True).dataset.__getitems__(range(6))
    b = data({"hr": str(tmp_path / "x.lmdb")}, degrade=Speckle(), channels=channels, usm=True)
    assert same(a, b.dataset.__getitems__(range(6)))
    assert a["lr"].shape == (6, channels, 10, 10)
    deep = write_all(tmp_path / "deep", {"0": CHELSEA.astype(np.uint16) * 256 + 7})
    batch = data({"hr": deep}, {"hr": folder}, degrade=Speckle(), channels=channels).dataset.__getitems__(range(6))
    assert batch["lr"].dtype == batch["hr"].dtype == torch.float32
    assert 0 <= batch["lr"].min() < batch["lr"].max() <= 1


def test_validation_sets_are_not_degraded(folder):
    val = {"mine": {"hr": folder}}
    one, plain = (data({"hr": folder}, degrade=d, val=val, usm=d is not None) for d in (Speckle(), None))
    assert all(np.array_equal(a, b) for a, b in zip(one.val["mine"].whole(0), plain.val["mine"].whole(0), strict=True))
    with pytest.raises(ValueError, match=r"data\.val\.mine: expected a source"):
        data({"hr": folder}, val={"mine": {"hr": folder, "degrade": Speckle()}})


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ([{"lr": True}], {}, r"every source of data\.train has lr, so no LR .* leave lr out: .*hr: .*degrade=bicubic"),
        ([{"degrade": None}], {}, "has lr or its own degrade, so it is not used"),
        ([{}, {"lr": True, "degrade": Speckle()}], {}, r"data\.train\[1\]: has lr and degrade"),
        ([{}], {"channels": 4}, "degrade: a degradation takes images of 1 or 3 channels"),
        ([{}], {"channels": 4, "degrade": None, "usm": True}, r"data\.usm=true: .*not channels=4"),
        ([{}], {"degrade": {"margin": 3}}, r"degrade={'margin': 3}: is no object .* degrade=NAME"),
        ([{"degrade": "blind"}, {}], {}, r"data\.train\[0\]\.degrade=blind: is no object"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(folder, tmp_path, train, options, message):
    train = [{"hr": folder, **s, **({"lr": str(tmp_path / "LR")} if "lr" in s else {})} for s in train]
    with pytest.raises(ValueError, match=message):
        data(*train, **{"degrade": Speckle(), **options})


def test_an_error_of_a_users_class_names_source_and_image(folder):
    class Late(Speckle):
        def __call__(self, hr, scale, words):
            if hr.shape[0] != hr.shape[1]:
                raise KeyError("sigma")
            return super().__call__(hr, scale, words)

    with pytest.raises(ValueError, match=r"HR: \d: KeyError: 'sigma'"):
        data({"hr": folder}, degrade=Late()).dataset.__getitems__(range(50))
