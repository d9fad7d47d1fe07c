"""Equal images within the training set, and training images among the scored ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sr_train.data.doctor.examine import Facts, Item
from sr_train.data.doctor.findings import Finding, finding
from sr_train.data.doctor.likeness import ALIKE, NEAR, distances, likeness
from sr_train.data.doctor.opened import Opened
from sr_train.data.doctor.shapes import FactsOf
from sr_train.data.doctor.specs import SCORED
from sr_train.data.images import ImageError
from sr_train.data.store.format import StoreError
from sr_train.data.video.clips import split_key

_TRIED = 8  # candidates that are compared for a scored image

_OF_CLIPS = 2  # frames that are compared for a pair of clips; more frames of it say nothing new


class Candidate(NamedTuple):
    """A training image that may be a copy of a scored one."""

    trained: Item
    scored: Item
    where: str  #: the scored set
    video: bool
    equal: bool  #: pixels are equal


def _known(opened: Opened, facts: FactsOf) -> Iterator[tuple[Item, Facts]]:
    return ((item, facts[item.name]) for item in opened.hr.values() if item.name in facts)


def duplicates(sources: Sequence[Opened], facts: FactsOf) -> Iterator[Finding]:
    """Yield a finding for every training image with the same pixels as an earlier one; frames of one clip may be equal."""
    first: dict[tuple[object, ...], tuple[Item, bool]] = {}
    for opened in sources:
        if opened.spec.role == SCORED:
            continue
        for item, own in _known(opened, facts):
            same = (own.height, own.width, own.channels, own.dtype, own.checksum, own.fingerprint)
            other, video = first.setdefault(same, (item, opened.video))
            both = video and opened.video and split_key(other.key)[0] == split_key(item.key)[0]
            if other.name != item.name and not both:
                yield finding("duplicate", item.name, f"has the same pixels as {other.name}")


def candidates(sources: Sequence[Opened], facts: FactsOf) -> list[Candidate]:
    """Return the training images whose fingerprints are near to those of scored images, the nearest first."""
    trained = {
        item.name: (item, own, opened.video)
        for opened in sources
        if opened.spec.role != SCORED
        for item, own in _known(opened, facts)
    }
    scored = [(o, item, own) for o in sources if o.spec.role == SCORED for item, own in _known(o, facts)]
    if not trained or not scored:
        return []
    rows = list(trained.values())
    prints = np.array([own.fingerprint for _, own, _ in rows], np.uint64)
    found: dict[tuple[str, str], Candidate] = {}
    for opened, item, own in scored:
        away = distances(own.fingerprint, prints)
        near = np.flatnonzero(away <= NEAR)
        for row in near[np.argsort(away[near], kind="stable")][: None if opened.video else _TRIED]:
            other, its, video = rows[int(row)]
            equal = (its.checksum, its.height, its.width) == (own.checksum, own.height, own.width)
            pair = Candidate(other, item, opened.spec.where, video and opened.video, equal)
            found.setdefault((other.name, item.name), pair)
    return list(found.values())


def few_of_clips(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates to compare: all images, and a few frames of each pair of clips."""
    counts: dict[tuple[str, str], int] = {}
    kept: list[Candidate] = []
    for pair in found:
        clips = split_key(pair.trained.name)[0], split_key(pair.scored.name)[0]
        counts[clips] = counts.get(clips, 0) + 1
        if not pair.video or counts[clips] <= _OF_CLIPS:
            kept.append(pair)
    return kept


def leak(pair: Candidate) -> Finding | None:
    """Compare a candidate with the scored image; return a finding if one is a copy of the other."""
    if pair.equal or pair.trained.name == pair.scored.name:
        how = "the same file" if pair.trained.name == pair.scored.name else "the same pixels"
    else:
        try:
            one, other = pair.trained.read(), pair.scored.read()
        except (ImageError, StoreError, OSError, MemoryError):
            return None
        like = likeness(one, other)
        if like < ALIKE:
            return None
        sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (one, other))
        how = f"a copy, correlation of details {like:.2f}, {sizes}"
    text = f"is scored in {pair.where} as {pair.scored.name} ({how}); leave it out of the training set"
    return finding("leak", pair.trained.name, text)
