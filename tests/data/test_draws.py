import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from sr_train.data.draws import Draws, PositionSampler, StepScales, below, counts_of_weights, permutation

MIXES = [([7], None), ([5, 11], None), ([4, 10, 3], [2, 1, 1]), ([6, 6], [0.75, 0.25]), ([1, 9], None)]


def draws(sizes=(8, 26), weights=None, seed=0, stage="main"):
    return Draws(sizes, weights=weights, seed=seed, stage=stage)


def first(n, *arguments, **options):
    one = draws(*arguments, **options)
    return [one(k) for k in range(n)]


@pytest.mark.parametrize(("sizes", "weights"), MIXES)
def test_a_draw_depends_on_its_position_alone(sizes, weights):
    expected = first(300, sizes, weights)
    assert first(300, sizes, weights) == expected
    again = draws(sizes, weights)
    order = np.random.default_rng(0).permutation(300).tolist()
    assert {k: again(k) for k in order} == dict(enumerate(expected))
    assert [again(k) for k in range(300)] == expected
    assert draws(sizes, weights)(10**12) == again(10**12)


def test_every_epoch_is_a_permutation_over_all_sources():
    drawn = [(d.source, d.image) for d in first(5 * 34)]
    everything = [(0, i) for i in range(8)] + [(1, i) for i in range(26)]
    epochs = [drawn[k : k + 34] for k in range(0, len(drawn), 34)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert everything not in epochs


def test_every_epoch_of_each_source_is_a_permutation_when_sources_are_weighted():
    sizes = [4, 10, 3]
    drawn = first(600, sizes, [2, 1, 1])
    for source, size in enumerate(sizes):
        images = [d.image for d in drawn if d.source == source]
        epochs = [tuple(images[k : k + size]) for k in range(0, len(images) - size + 1, size)]
        assert len(epochs) >= 15
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) > 1


@pytest.mark.parametrize(
    ("weights", "counts"), [([2, 1, 1], [2, 1, 1]), ([0.5, 0.25, 0.25], [2, 1, 1]), ([3, 0.1, 1], [30, 1, 10])]
)
def test_the_proportions_are_exact_in_every_block(weights, counts):
    drawn = [d.source for d in first(20 * sum(counts), [4, 10, 3], weights)]
    blocks = [drawn[k : k + sum(counts)] for k in range(0, len(drawn), sum(counts))]
    assert all([block.count(s) for s in range(3)] == counts for block in blocks)
    assert len({tuple(block) for block in blocks}) > 5


def test_without_weights_sources_are_drawn_by_their_number_of_images():
    counts = Counter(d.source for d in first(3450, [800, 2650]))
    assert counts == {0: 800, 1: 2650}


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1], [1]),
        ([0.5, 0.25], [2, 1]),
        ([6, 4], [3, 2]),
        ([0.1, 0.3], [1, 3]),
        ([1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
        ([0.7, 0.2, 0.1], [7, 2, 1]),
        ([1.5, 1], [3, 2]),
        ([3, 0.7], [30, 7]),
        ([1000, 1], [1000, 1]),
    ],
)
def test_weights_become_the_smallest_whole_numbers(weights, counts):
    assert counts_of_weights(weights) == counts


def test_the_seed_and_the_stage_change_every_draw():
    base = first(100)
    for other in (first(100, seed=1), first(100, stage="gan"), first(100, seed=-1)):
        assert [(d.source, d.image) for d in other] != [(d.source, d.image) for d in base]
        assert not {w for d in other for w in d.words} & {w for d in base for w in d.words}


def test_the_words_are_uniform_and_independent():
    words = np.array([d.words for d in first(20_000)], np.uint64)
    assert len(np.unique(words)) == words.size
    eighths = (words >> np.uint64(61)).astype(int)
    for column in eighths.T:
        assert chisquare(np.bincount(column, minlength=8)).pvalue > 1e-4
    for a, b in itertools.combinations(eighths.T, 2):
        assert chisquare(np.bincount(8 * a + b, minlength=64)).pvalue > 1e-4
    bits = np.unpackbits(words.view(np.uint8)).mean()
    assert bits == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(64 * words.size))


def test_below_covers_its_range_evenly_from_the_first_to_the_last():
    assert below(0, 7) == 0
    assert below(2**64 - 1, 7) == 6
    assert [below(k * 2**61, 8) for k in range(8)] == list(range(8))
    assert below(2**64 - 1, 1) == 0


def test_a_permutation_is_the_order_of_raw_philox_numbers():
    key = bytes(range(16))
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(1000).tolist()
    assert permutation(key, 1000).tolist() == sorted(range(1000), key=raw.__getitem__)
    assert sorted(permutation(b"\1" * 16, 1000).tolist()) == list(range(1000))


def test_the_first_position_of_each_image_is_uniform_over_seeds():
    places = Counter(next(k for k in range(5) if d(k).image == 0) for d in (draws([5], seed=s) for s in range(2000)))
    assert chisquare([places[k] for k in range(5)]).pvalue > 1e-4


def test_draws_are_the_same_after_pickling():
    for sizes, weights in MIXES:
        one = draws(sizes, weights)
        used = [one(k) for k in range(50)]
        other = pickle.loads(pickle.dumps(one))
        assert [other(k) for k in range(50)] == used
        assert (other.sizes, other.weights) == (one.sizes, one.weights)
    big = draws([100_000])
    big(0)
    assert len(pickle.dumps(big)) < 2000  # the permutations do not travel


def test_the_stream_is_the_one_that_runs_on_disk_were_begun_with():
    """A change here changes what every unfinished run would see after a resume: never without saying so."""
    assert [(d.source, d.image) for d in first(8, [8, 26])] == GOLDEN["images"]
    assert [(d.source, d.image) for d in first(8, [8, 26], [3, 1], 42, "x2")] == GOLDEN["weighted"]
    assert draws()(0).words[:6] == GOLDEN["words"]
    assert draws()(10**6).words[:2] == GOLDEN["far"]


GOLDEN = {
    "images": [(1, 20), (1, 25), (1, 4), (1, 13), (0, 3), (1, 12), (0, 0), (0, 1)],
    "weighted": [(1, 8), (0, 7), (0, 3), (0, 4), (0, 2), (0, 5), (1, 15), (0, 6)],
    "words": (
        17990568240185436669,
        17089299243986657400,
        186323959591571534,
        16674142263933669194,
        18104850083518852549,
        14889850330112970395,
    ),
    "far": (10953836446865092244, 9295396530333848439),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_together_see_the_first_ten_thousand_positions_of_one(world, accumulate):
    samplers = [PositionSampler(25, rank=r, world=world, accumulate=accumulate) for r in range(world)]
    steps = 10_000 // (25 * world)
    seen = [list(itertools.islice(s, steps)) for s in samplers]
    assert all(len(batch) == 25 for batches in seen for batch in batches)
    together = [k for step in zip(*seen, strict=True) for batch in step for k in batch]
    assert together == list(range(10_000))


@pytest.mark.parametrize("world", [2, 4])
def test_a_global_step_holds_the_same_positions_however_it_is_shared(world):
    alone = list(itertools.islice(PositionSampler(16), 20))
    for accumulate in (1, 2):
        share = 16 // world // accumulate
        samplers = [iter(PositionSampler(share, rank=r, world=world, accumulate=accumulate)) for r in range(world)]
        for step in range(20):
            positions = [k for _ in range(accumulate) for s in samplers for k in next(s)]
            assert positions == alone[step]


@pytest.mark.parametrize(("rank", "world", "accumulate"), [(0, 1, 1), (1, 2, 1), (0, 2, 2), (3, 4, 2)])
def test_first_step_resumes_where_an_uninterrupted_run_would_be(rank, world, accumulate):
    options = {"rank": rank, "world": world, "accumulate": accumulate}
    whole = list(itertools.islice(PositionSampler(4, **options), 30 * accumulate))
    for step in (0, 1, 17):
        resumed = list(itertools.islice(PositionSampler(4, first_step=step, **options), (30 - step) * accumulate))
        assert resumed == whole[step * accumulate :]


def test_a_sampler_can_be_walked_twice():
    sampler = PositionSampler(3, first_step=2)
    assert list(itertools.islice(sampler, 2)) == list(itertools.islice(sampler, 2)) == [[6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([], None, "every source needs at least one image"),
        ([5, 0], None, r"every source needs at least one image; sizes are \[5, 0\]"),
        ([5, 5], [1], "1 weights for 2 sources"),
        ([5, 5], [1, 0], "positive numbers"),
        ([5, 5], [1, -2], "positive numbers"),
        ([5, 5], [1, float("nan")], "positive numbers"),
        ([5, 5], [1, float("inf")], "positive numbers"),
        ([5, 5], [1e9, 1], "differ too much"),
    ],
)
def test_sources_and_weights_that_cannot_be_drawn_from_are_refused(sizes, weights, message):
    with pytest.raises(ValueError, match=message):
        draws(sizes, weights)


def test_negative_positions_and_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="position -1 is negative"):
        draws()(-1)
    for options in ({"batch": 0}, {"batch": 1, "rank": 2, "world": 2}, {"batch": 1, "accumulate": 0}):
        with pytest.raises(ValueError, match="batch="):
            PositionSampler(**options)
    with pytest.raises(ValueError, match="first_step=-1"):
        PositionSampler(1, first_step=-1)


def step_scales(scales=(2, 3, 4), weights=None, seed=0, stage="main"):
    return StepScales(scales, weights=weights, seed=seed, stage=stage)


def test_a_steps_scale_depends_on_seed_stage_and_step_alone():
    expected = [step_scales()(t) for t in range(300)]
    again = step_scales()
    order = np.random.default_rng(0).permutation(300).tolist()
    assert {t: again(t) for t in order} == dict(enumerate(expected))
    assert [pickle.loads(pickle.dumps(again))(t) for t in range(300)] == expected
    for other in (step_scales(seed=1), step_scales(stage="x")):
        assert [other(t) for t in range(300)] != expected
    assert [{2: 4, 3: 3, 4: 2}[s] for s in expected] == [step_scales((4, 3, 2))(t) for t in range(300)]


@pytest.mark.parametrize(
    ("weights", "shares"), [(None, (1, 1, 1)), ([1, 1, 2], (1, 1, 2)), ([0.5, 1.5, 1.0], (1, 3, 2))]
)
def test_scales_are_drawn_as_often_as_their_weights_say(weights, shares):
    count, draw = 30_000, step_scales(weights=weights)
    counts = Counter(draw(t) for t in range(count))
    expected = [count * s / sum(shares) for s in shares]
    assert chisquare([counts[s] for s in (2, 3, 4)], expected).pvalue > 1e-3
    pairs = Counter((draw(t), draw(t + 1)) for t in range(0, count, 2))  # no scale announces the next
    joint = [count / 2 * a * b / sum(shares) ** 2 for a, b in itertools.product(shares, shares)]
    assert chisquare([pairs[p] for p in itertools.product((2, 3, 4), repeat=2)], joint).pvalue > 1e-3


def test_until_all_is_where_the_last_scale_has_its_first_turn():
    for seed in range(20):
        draw = step_scales(seed=seed)
        n = draw.until_all()
        assert {draw(t) for t in range(n)} == {2, 3, 4} != {draw(t) for t in range(n - 1)}


def test_scale_weights_must_fit_the_scales():
    with pytest.raises(ValueError, match=r"scale_weights=\[1, 2\]: 2 numbers for scales \[2, 3, 4\]"):
        step_scales(weights=[1, 2])
    with pytest.raises(ValueError, match="positive"):
        step_scales(weights=[1, 0, 1])
