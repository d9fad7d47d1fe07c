"""All random choices of training data, computed from (seed, stage, position).

Position k is the k-th sample of a stage, counted over all devices and micro-batches. Source, image, crop, augmentation
and scale at position k are computed from k by hashing, never from a stream of random numbers. A resumed run starts at
another k. Workers, devices and restarts cannot change the samples of a step.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_WORDS = 6  # 64-bit words drawn per position

_KEY = 2  # further words, the key of a degradation

_MAX_BLOCK = 1_000_000


class Draw(NamedTuple):
    """Random choices for one training sample: an image, and numbers in [0, 2**64).

    The numbers determine crop, window, augmentation and degradation; see :class:`.train_source.TrainSource`.
    """

    source: int  #: index of the source
    image: int  #: index of the image in the source
    words: tuple[int, ...]  #: eight independent uniform 64-bit words


def below(word: int, n: int) -> int:
    """Map a uniform 64-bit word to a uniform integer in [0, n)."""
    return (word * n) >> 64


def permutation(key: bytes, n: int) -> NDArray[np.int64]:
    """Return a permutation of range(n) that depends only on ``key`` (16 bytes) and n.

    The permutation is made by sorting the raw output of numpy's Philox generator. ``Generator.permutation`` is not
    used, because numpy may change its results in another version.
    """
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(n)
    return np.argsort(raw, kind="stable")


def counts_of_weights(weights: Sequence[float]) -> list[int]:
    """Convert weights to small integers in the same proportion, with an error of at most 0.1 %: [0.5, 0.25] -> [2, 1]."""
    if not weights or any(not (w > 0) or w == float("inf") for w in weights):
        raise ValueError(f"weights of sources must be positive numbers, not {list(weights)}")
    smallest = min(weights)
    parts = [Fraction(w / smallest).limit_denominator(1000) for w in weights]
    scale = lcm(*(p.denominator for p in parts))
    counts = [int(p * scale) for p in parts]
    if sum(counts) > _MAX_BLOCK:
        raise ValueError(f"weights {list(weights)} of sources differ too much: write the weights as small integers")
    return counts


class Draws:
    """Random choices for each position (number of a sample) of a stage.

    Args:
        sizes: number of images of each source.
        weights: how often each source is drawn, relative to the other sources; ``None`` draws every *image* equally
            often (DF2K: 800 of DIV2K to 2,650 of Flickr2K).
        seed: the run's seed.
        stage: the stage's name.

    Each source is read in a new permutation per epoch, so that no image is seen twice before all are seen once. With
    weights, sources are drawn in blocks; each block contains every source exactly in proportion to its weight.
    """

    def __init__(self, sizes: Sequence[int], *, weights: Sequence[float] | None, seed: int, stage: str) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"every source needs at least one image; sizes are {list(sizes)}")
        if weights is not None and len(weights) != len(sizes):
            raise ValueError(f"{len(weights)} weights for {len(sizes)} sources")
        self.sizes = tuple(int(n) for n in sizes)
        self.weights = None if weights is None else tuple(float(w) for w in weights)
        self._key = hashlib.blake2b(f"{seed}/{stage}".encode(), digest_size=32).digest()
        self._counts = None if weights is None else counts_of_weights(weights)
        self._ends = np.cumsum(self.sizes)
        self._permutation = lru_cache(maxsize=2 * len(self.sizes) + 2)(self._make_permutation)
        self._block = lru_cache(maxsize=2)(self._make_block)

    def __getstate__(self) -> dict[str, Any]:  # workers get empty caches
        return {k: v for k, v in self.__dict__.items() if k not in ("_permutation", "_block")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._permutation = lru_cache(maxsize=2 * len(self.sizes) + 2)(self._make_permutation)
        self._block = lru_cache(maxsize=2)(self._make_block)

    def _hash(self, purpose: bytes, *numbers: int, size: int = 16) -> bytes:
        message = struct.pack(f"<{len(numbers)}q", *numbers)
        return hashlib.blake2b(message, key=self._key, person=purpose, digest_size=size).digest()

    def _make_permutation(self, source: int, epoch: int) -> NDArray[np.int64]:
        n = self.sizes[source] if source >= 0 else int(self._ends[-1])
        return permutation(self._hash(b"image", source, epoch), n)

    def _make_block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order of the sources in a block, and for each slot the number of earlier slots with the same source."""
        assert self._counts is not None
        deck = np.repeat(np.arange(len(self._counts)), self._counts)
        dealt = deck[permutation(self._hash(b"source", block), len(deck))]
        order = np.argsort(dealt, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        rank = np.empty(len(deck), np.int64)
        rank[order] = np.arange(len(deck)) - np.repeat(starts, self._counts)
        return dealt, rank

    def _split(self, flat: int) -> tuple[int, int]:
        """Convert the index of an image among the images of all sources to (source, index of the image in that source)."""
        source = int(np.searchsorted(self._ends, flat, side="right"))
        return source, flat - (int(self._ends[source - 1]) if source else 0)

    def _image(self, position: int) -> tuple[int, int]:
        if self._counts is None:
            epoch, slot = divmod(position, int(self._ends[-1]))
            return self._split(int(self._permutation(-1, epoch)[slot]))
        block, slot = divmod(position, sum(self._counts))
        dealt, rank = self._block(block)
        source = int(dealt[slot])
        epoch, within = divmod(block * self._counts[source] + int(rank[slot]), self.sizes[source])
        return source, int(self._permutation(source, epoch)[within])

    def __call__(self, position: int, attempt: int = 0) -> Draw:
        """Return the random choices for the sample at ``position`` (0, 1, 2, ...).

        Attempts 1, 2, ... draw another image instead of an image that cannot be read. Without weights, the other image
        is drawn from all sources. With weights, it is drawn from the same source, so that the proportions of the
        sources stay the same.
        """
        if position < 0:
            raise ValueError(f"position {position} is negative")
        if attempt:
            return self._again(position, attempt)
        words = struct.unpack(f"<{_WORDS}Q", self._hash(b"sample", position, size=8 * _WORDS))
        return Draw(*self._image(position), words + self._key_words(position, 0))

    def _key_words(self, position: int, attempt: int) -> tuple[int, ...]:
        return struct.unpack(f"<{_KEY}Q", self._hash(b"degrade", position, attempt, size=8 * _KEY))

    def _again(self, position: int, attempt: int) -> Draw:
        raw = self._hash(b"again", position, attempt, size=8 * (_WORDS + 1))
        *words, word = struct.unpack(f"<{_WORDS + 1}Q", raw)
        if self._counts is None:
            source, image = self._split(below(word, int(self._ends[-1])))
        else:
            source, _ = self._image(position)
            image = below(word, self.sizes[source])
        return Draw(source, image, tuple(words) + self._key_words(position, attempt))


class StepScales:
    """Function from a step to its scale, the same for all micro-batches and ranks of the step (EDSR section 4.2).

    Args:
        scales: scales to draw from.
        weights: how often each scale is drawn, relative to the other scales; ``None`` draws all equally often, as in
            the paper.
        seed: the run's seed.
        stage: the stage's name.
    """

    def __init__(self, scales: Sequence[int], *, weights: Sequence[float] | None, seed: int, stage: str) -> None:
        if weights is not None and len(weights) != len(scales):
            raise ValueError(f"scale_weights={list(weights)}: {len(weights)} numbers for scales {list(scales)}")
        self.scales = tuple(scales)
        counts = [1] * len(scales) if weights is None else counts_of_weights(weights)
        self._ends = np.cumsum(counts).tolist()
        self._key = hashlib.blake2b(f"{seed}/{stage}".encode(), digest_size=32).digest()

    def __call__(self, step: int) -> int:
        """Return the scale of global step ``step`` (0, 1, 2, ...)."""
        digest = hashlib.blake2b(struct.pack("<q", step), key=self._key, person=b"scale", digest_size=8).digest()
        return self.scales[bisect_right(self._ends, below(int.from_bytes(digest, "little"), self._ends[-1]))]

    def until_all(self) -> int:
        """Return the number of steps from step 0 until every scale has been drawn at least once."""
        seen: set[int] = set()
        step = 0
        while len(seen) < len(self.scales):
            seen.add(self(step))
            step += 1
        return step


class PositionSampler:
    """Endless batches of positions (numbers of samples) for one device, used as ``batch_sampler`` of a DataLoader.

    Step t uses the positions from t * G to (t + 1) * G - 1, where G = batch * world * accumulate. The micro-batches of
    a step are consecutive, and each micro-batch is split between the ranks in order.

    Args:
        batch: samples per device and micro-batch.
        first_step: the global step to start from.
        rank: index of this device, below ``world``.
        world: number of devices.
        accumulate: micro-batches per step.
    """

    def __init__(self, batch: int, *, first_step: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1) -> None:
        if batch < 1 or accumulate < 1 or first_step < 0 or not 0 <= rank < world:
            raise ValueError(
                f"batch={batch} first_step={first_step} rank={rank} world={world} accumulate={accumulate}: batch and "
                "accumulate must be at least 1, first_step at least 0, and rank at least 0 and less than world"
            )
        self.batch = batch
        self.rank = rank
        self.world = world
        self.first = first_step * accumulate

    def __iter__(self) -> Iterator[list[int]]:
        micro = self.first
        while True:
            start = (micro * self.world + self.rank) * self.batch
            yield list(range(start, start + self.batch))
            micro += 1
