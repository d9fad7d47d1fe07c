"""Check of HR/LR pairs: which kernel made LR, and pairs that are shifted, turned, BGR, or of different images.

One process: ``check_pairs(pairs, scale)``. Several processes: each calls :func:`look_at` for its pairs, which returns a small
object, and one calls :func:`summarize` with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from sr_train.batch import Image
from sr_train.data.pair_check.gray import gray_verdict
from sr_train.data.pair_check.pair_set import PairLook, PairsSummary, summarize, thumbnail
from sr_train.data.pair_check.search import FaultSearch
from sr_train.data.pair_check.verdict import (
    PairVerdict,
    kernel_verdict,
    known_kernels,
    same_kind,
    size_verdict,
    stretched_verdict,
)  # fmt: skip
from sr_train.data.pair_check.windows import score

__all__ = ["PairLook", "PairVerdict", "PairsSummary", "check_pair", "check_pairs", "look_at", "summarize"]


def check_pair(hr: Image, lr: Image, scale: int, *, orientation: int = 1) -> PairVerdict:
    """Compare LR with HR reduced by the known kernels. Images of more than 16,000 LR pixels are compared in windows.

    Args:
        hr: [H, W, C] uint8 or uint16, C = 1, 3 or 4 (alpha is ignored).
        lr: [h, w, C] uint8 or uint16.
        scale: HR pixels per LR pixel.
        orientation: EXIF orientation of the HR file, 1 to 8, to recognize LR that a program turned by it.
    """
    known = known_kernels(scale)
    hr, lr = same_kind(hr, lr)
    size = (hr.shape[0] // scale, hr.shape[1] // scale)
    scores: dict[str, float] = {}
    if lr.shape[:2] == size and min(size) > 0:
        scores = score(hr, lr, scale, known)
        found = kernel_verdict(lr, scores) or stretched_verdict(hr, lr, scale, scores)
        found = found or gray_verdict(hr, lr, scale, known, scores)
        if found:
            return found
    elif lr.shape[:2] != size[::-1] or min(size) < 1:
        return size_verdict(hr, lr, scale, known)
    return FaultSearch(hr, lr, scale, known, scores, orientation).run()


def look_at(name: str, hr: Image, lr: Image, scale: int, *, thorough: bool = True, orientation: int = 1) -> PairLook:
    """Return thumbnails of a pair and, if ``thorough``, its verdict; see :func:`check_pair`."""
    verdict = check_pair(hr, lr, scale, orientation=orientation) if thorough else None
    step = max(1, min(lr.shape[:2]) // 100)
    whole = hr[: lr.shape[0] * scale, : lr.shape[1] * scale]
    return PairLook(name, thumbnail(whole, step * scale), thumbnail(lr, step), verdict)


def check_pairs(pairs: Iterable[tuple[str, Image, Image]], scale: int) -> PairsSummary:
    """Check pairs (name, HR, LR) of one set; images are released one by one."""
    return summarize(look_at(name, hr, lr, scale) for name, hr, lr in pairs)
