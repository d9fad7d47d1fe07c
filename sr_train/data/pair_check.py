"""Check of HR/LR pairs: which kernel made LR, and pairs that are shifted, turned, BGR, or of different images.

One process: ``check_pairs(pairs, scale)``. Several processes: each calls :func:`look_at` for its pairs, which returns a small
object, and one calls :func:`summarize` with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.data.pair_verdict import PairVerdict, check_pair

__all__ = ["PairLook", "PairVerdict", "PairsSummary", "check_pair", "check_pairs", "look_at", "summarize"]


class PairLook(NamedTuple):
    """Facts of one pair for :func:`summarize`, about 2 kB: thumbnails of HR and LR, and the verdict if it was asked for."""

    name: str
    hr: NDArray[np.float32]
    lr: NDArray[np.float32]
    verdict: PairVerdict | None


class PairsSummary(NamedTuple):
    """Result of :func:`check_pairs`.

    Args:
        problems: errors, one line each; a fault of the whole set is one line. Empty if all pairs fit.
        notes: lines that are not errors, e.g. "LR was made by MATLAB bicubic, arithmetic=float (all of 20 pairs)".
        kernels: number of checked pairs by kernel; "one of A, B" where the set cannot tell them apart.
        verdicts: verdicts by name, of the checked pairs.
        belongs: for LR that belongs to the HR of another pair: name of LR -> name of that HR.
    """

    problems: list[str]
    notes: list[str]
    kernels: Mapping[str, int]
    verdicts: Mapping[str, PairVerdict]
    belongs: Mapping[str, str]


def look_at(
    name: str, hr: Image, lr: Image, scale: int, *, thorough: bool = True, orientation: int = 1
) -> PairLook:
    """Return thumbnails of a pair and, if ``thorough``, its verdict (tens of milliseconds; thumbnails alone: one or two)."""
    raise NotImplementedError


def summarize(looks: Iterable[PairLook], scale: int) -> PairsSummary:
    """Combine the looks at all pairs of a set. Pass all pairs (in the set's order), so that shuffled names are recognized."""
    raise NotImplementedError


def check_pairs(pairs: Iterable[tuple[str, Image, Image]], scale: int) -> PairsSummary:
    """Check pairs (name, HR, LR) of one set; images are released one by one."""
    return summarize((look_at(name, hr, lr, scale) for name, hr, lr in pairs), scale)
