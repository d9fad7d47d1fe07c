import struct

import numpy as np
import pytest
from scipy import stats

from sr_train.data.degradation.base import Words

KEY = bytes(range(16))
MASK = 2**64 - 1


def philox(key, count):
    """Compute Philox4x64-10 as in Salmon et al. 2011, with the counter 1, 2, ... in its first word."""
    out = []
    for counter in range(1, (count + 3) // 4 + 1):
        x, k = [counter, 0, 0, 0], list(struct.unpack("<2Q", key))
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [b >> 64 ^ x[1] ^ k[0], b & MASK, a >> 64 ^ x[3] ^ k[1], a & MASK]
            k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
        out += x
    return out[:count]


def test_numbers_are_conversions_of_philox_words():
    raw, words = philox(KEY, 7), Words(KEY)
    assert words.uniform(2, 6) == 2 + 4 * ((raw[0] >> 11) / 2**53)
    assert words.integer(66) == raw[1] * 66 >> 64
    assert words.choice("abc", [1, 0, 3]) == ("a" if (raw[2] >> 11) / 2**53 < 0.25 else "c")
    assert words.permutation(4) == sorted(range(4), key=lambda i: raw[3:][i])


def test_normal_numbers_are_sums_of_quantiles_of_16_bits():
    halves = np.array([word >> shift & 0xFFFF for word in philox(KEY, 2) for shift in (0, 16, 32, 48)])
    quantiles = stats.norm.ppf((halves + 0.5) / 2**16) / 2**0.5
    expected = quantiles[:4] + quantiles[4:]
    assert Words(KEY).normal((2, 2)) == pytest.approx(expected.reshape(2, 2), abs=3e-4)
    assert np.array_equal(Words(KEY).normal((3,)), Words(KEY).normal((2, 2)).ravel()[:3])


def test_normal_numbers_are_normal():
    values = Words(KEY).normal((1_000_000,))
    assert values.dtype == np.float32
    assert stats.kstest(values[:200_000], "norm").pvalue > 0.01
    for limit, tolerance in ((2, 0.02), (3, 0.06), (4, 0.4)):
        assert np.mean(np.abs(values) > limit) == pytest.approx(2 * stats.norm.sf(limit), rel=tolerance)


@pytest.mark.parametrize("rate", [0.0, 0.3, 3.0, 9.99, 10.0, 12.0, 40.0, 256.0])
def test_counts_have_poisson_distributions(rate):
    n = 100_000
    counts = np.bincount(Words(KEY).poisson(np.full((n,), rate)).astype(int))
    expected = stats.poisson.pmf(np.arange(len(counts)), rate) * n
    many = expected > 5
    statistic = ((counts[many] - expected[many]) ** 2 / expected[many]).sum()
    assert stats.chi2.sf(statistic, max(1, many.sum() - 1)) > 1e-3
    rest = n - expected[many].sum()
    assert counts[~many].sum() == pytest.approx(rest, abs=1 + 4 * rest**0.5)


def test_rates_of_one_array_are_independent_of_each_other():
    rates = np.tile(np.array([[2.0, 200.0, 0.0]]), (50_000, 1))
    counts = Words(KEY).poisson(rates)
    assert counts.shape == rates.shape
    assert counts.mean(0) == pytest.approx([2, 200, 0], rel=0.01)
    assert counts.var(0) == pytest.approx([2, 200, 0], rel=0.03)
    assert abs(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1]) < 0.02


def test_parts_have_words_of_their_own():
    words = Words(KEY)
    first = words.child("blur").uniform()
    words.uniform()
    assert words.child("blur").uniform() == first
    assert words.child("noise").uniform() != first
    assert Words(bytes(16)).child("blur").uniform() != first


def test_the_state_of_numpy_is_neither_used_nor_changed():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = Words(KEY).normal((5,)).tolist()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert Words(KEY).normal((5,)).tolist() == one


def test_wrong_keys_and_probabilities_are_refused():
    with pytest.raises(ValueError, match="15 bytes, expected 16"):
        Words(bytes(15))
    for probabilities in ([1.0], [0.0, 0.0], [2.0, -1.0]):
        with pytest.raises(ValueError, match="expected 2 probabilities"):
            Words(KEY).choice("ab", probabilities)
