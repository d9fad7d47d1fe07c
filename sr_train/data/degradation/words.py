"""Random numbers of one sample, computed from a key by numpy's Philox generator and by conversions of our own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_BITS = 16  # of an index into the table of quantiles

_INVERSION = 10.0  # rates below are drawn by inversion of the distribution function, others by the expansion


@lru_cache(maxsize=1)
def _quantiles() -> NDArray[np.float32]:
    """Return 2**16 equally likely values of N(0, 1/2): quantiles at the centers of equal parts of [0, 1]."""
    n = 1 << _BITS
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / n) for i in range(n // 2, n)])
    z = np.concatenate([-upper[::-1], upper])
    return (z / (z.std() * 2**0.5)).astype(np.float32)


class Words:
    """All random choices of one sample. Equal keys and equal calls in equal order give equal numbers.

    The numbers come from the raw output of numpy's Philox generator (Salmon et al. 2011), which does not change.
    Distributions of ``numpy.random.Generator`` are not used, because numpy may change them in another version. The
    global state of numpy is neither used nor changed.

    Args:
        key: 16 bytes, for example a hash of (seed, stage, position).
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 16:
            raise ValueError(f"the key has {len(key)} bytes, expected 16")
        self._key = key
        self._raw: Any = np.random.Philox(key=int.from_bytes(key, "little")).random_raw

    def child(self, name: str) -> Words:
        """Return the random numbers of a part with this name; they do not depend on what was drawn before.

        An operator that is switched off, replaced or moved therefore does not change the draws of the others.
        """
        return Words(hashlib.blake2b(name.encode(), key=self._key, digest_size=16).digest())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high), from 53 bits."""
        return low + (high - low) * ((int(self._raw()) >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """Return an integer in [0, n), all equally likely (to 2**-64 * n)."""
        return (int(self._raw()) * n) >> 64

    def chance(self, probability: float) -> bool:
        """Return True with this probability. One word is used for every probability, also for 0 and 1."""
        return self.uniform() < probability

    def choice(self, names: Sequence[T], probabilities: Sequence[float] | None = None) -> T:
        """Return one of ``names``. Probabilities are relative; ``None`` makes all equally likely."""
        if probabilities is None:
            return names[self.integer(len(names))]
        if len(probabilities) != len(names) or min(probabilities) < 0 or not sum(probabilities) > 0:
            raise ValueError(f"{list(probabilities)}: expected {len(names)} probabilities, not negative, not all 0")
        left = self.uniform(0.0, float(sum(probabilities)))
        last = names[0]
        for name, probability in zip(names, probabilities, strict=True):
            if probability > 0:
                last = name
                if left < probability:
                    return name
                left -= probability
        return last  # rounding of the sum

    def permutation(self, n: int) -> list[int]:
        """Return the numbers 0 to n - 1 in random order."""
        return np.argsort(self._raw(n), kind="stable").tolist()

    def uniforms(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return an array of numbers in [0, 1), from 53 bits each."""
        count = int(np.prod(shape))
        return ((self._raw(count) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of float32 from N(0, 1).

        Each value is the sum of two of 65,536 equally likely quantiles of N(0, 1/2). Tables instead of logarithms and
        cosines give the same bits on every CPU and with every version of numpy. The largest value is 6.1.
        """
        count = int(np.prod(shape))
        index: NDArray[np.uint16] = self._raw((count + 1) // 2).view(np.uint16)
        table = _quantiles()
        half = len(index) // 2
        out: NDArray[np.float32] = table.take(index[:half])
        out += table.take(index[half:])
        return np.reshape(out[:count], shape)

    def poisson(self, rate: NDArray[Any]) -> NDArray[np.float32]:
        """Return an array of counts from Poisson distributions, one for each rate (not negative).

        Rates below 10 are drawn exactly, by inversion of the distribution function. Larger rates use the expansion of
        the inverse distribution function in a normal number z (Giles 2016, "Algorithm 955", formula Q_N2),
        floor(rate + sqrt(rate) z + (2 + z**2) / 6 - (2 z + z**3) / (72 sqrt(rate)) + ...). It differs from the exact
        inverse for fewer than 1 in 1,000 draws, by 1.
        """
        rates = np.ascontiguousarray(rate, np.float32).ravel()
        small = rates < _INVERSION
        count = int(np.count_nonzero(small))
        if count == rates.size:
            out = self._inversion(rates)
        elif count == 0:
            out = self._expansion(rates)
        else:
            out = np.empty_like(rates)
            out[small] = self._inversion(rates[small])
            large = ~small
            out[large] = self._expansion(rates[large])
        return np.reshape(out, rate.shape)

    def _inversion(self, rates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the smallest k with P(X <= k) > u, for uniform numbers u."""
        u = self.uniforms((rates.size,))
        out = np.zeros(rates.size, np.float32)
        rate = rates.astype(np.float64)
        term = np.exp(-rate)
        left, place, k = u - term, np.arange(rates.size), 0
        while True:
            more = left >= 0
            place, left, term, rate = place[more], left[more], term[more], rate[more]
            if not place.size:
                return out
            k += 1
            out[place] = k
            term = term * rate / k
            left = np.where(term > 0, left - term, -1.0)  # the sum of all terms may be below u by rounding

    def _expansion(self, rates: NDArray[np.float32]) -> NDArray[np.float32]:
        z = self.normal((rates.size,))
        root = np.sqrt(rates)
        square = z * z
        out = rates + root * z
        out += (square + 2) / 6
        out -= z * (square + 2) / (72 * root)
        out += (square * (3 * square + 7) / 810 - np.float32(8 / 405)) / rates
        return np.maximum(np.floor(out), 0)
