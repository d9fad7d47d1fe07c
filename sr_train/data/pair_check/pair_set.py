"""Summary of the checks of all pairs of a set: kernels, faults of the whole set, shifted and shuffled names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sr_train.batch import Image
from sr_train.console import counted
from sr_train.data.pair_check.faults import luma, reduced
from sr_train.data.pair_check.verdict import PairVerdict, one_of, small

_SIDE = 16  # of thumbnails
_ALIKE = 0.98  # correlation of the thumbnails of LR and HR of one image
_FEW = 6  # names printed in one line


class PairLook(NamedTuple):
    """Facts of one pair for :func:`summarize`, about 3 kB: thumbnails of HR and LR, and the verdict if it was asked for."""

    name: str
    hr: NDArray[np.float32]
    lr: NDArray[np.float32]
    verdict: PairVerdict | None


class PairsSummary(NamedTuple):
    """Result of :func:`.check.check_pairs`.

    Args:
        problems: errors, one line each; a fault of the whole set is one line. Empty if all pairs fit.
        notes: lines that are not errors, e.g. "LR was made by MATLAB bicubic, arithmetic=float (all of 20 pairs)".
        kernels: number of checked pairs by kernel; "one of A; B" where the set cannot tell them apart.
        verdicts: verdicts by name, of the checked pairs.
        belongs: for LR that belongs to the HR of another pair: name of LR -> name of that HR.
    """

    problems: list[str]
    notes: list[str]
    kernels: Mapping[str, int]
    verdicts: Mapping[str, PairVerdict]
    belongs: Mapping[str, str]


def thumbnail(image: Image, step: int) -> NDArray[np.float32]:
    """Return [16, 16] gray values in [0, 255], averages of an image [H, W, C].

    Args:
        image: pixels.
        step: side of the squares that are averaged first, which is fast; a remainder at the bottom and right is left out.
    """
    pixels = image[..., :3] if image.shape[2] > 1 else image
    rows, columns = pixels.shape[0] // step, pixels.shape[1] // step
    if step > 1 and min(rows, columns) >= _SIDE:
        pixels = small(pixels[: rows * step, : columns * step], (rows, columns))
    return reduced(luma(pixels), (_SIDE, _SIDE))


def _directions(thumbnails: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return thumbnails without mean and of length 1, so that products are correlations: [N, 256]; constant ones are 0."""
    rows = np.reshape(np.stack(thumbnails), (len(thumbnails), -1))
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > _SIDE * 0.5, rows / np.maximum(length, 1e-6), 0).astype(np.float32)


def _neighbor(hr: NDArray[np.float32], lr: NDArray[np.float32], own: NDArray[np.float32]) -> int:
    """Return k if LR i belongs to HR i + k for nearly all pairs (frames of a video are alike, but not equal), else 0."""
    count = len(own)
    for k in (1, -1, 2, -2, 3, -3):
        if count - abs(k) < 3:
            continue
        there = np.arange(max(0, -k), count - max(0, k))
        value = np.einsum("ij,ij->i", lr[there], hr[there + k])
        moved = (1 - value < 0.5 * (1 - own[there])) & (value > _ALIKE) & (1 - own[there] > 1e-4)
        if moved.mean() >= 0.75:
            return k
    return 0


def _belongs(looks: Sequence[PairLook]) -> tuple[dict[int, int], int]:
    """Return the pairs whose LR belongs to the HR of another pair, and the offset of the names if it is the same for all."""
    if len(looks) < 2:
        return {}, 0
    hr, lr = _directions([look.hr for look in looks]), _directions([look.lr for look in looks])
    own = np.einsum("ij,ij->i", hr, lr)
    sure = np.array([look.verdict is not None and look.verdict.kind in ("kernel", "jpeg") for look in looks])
    found: dict[int, int] = {}
    doubtful = np.flatnonzero(~sure & (own < _ALIKE) & (np.abs(lr).sum(axis=1) > 0))
    for start in range(0, len(doubtful), 512):
        part = doubtful[start : start + 512]
        value: NDArray[np.float32] = lr[part] @ np.transpose(hr)
        for row, i, j in zip(value, part.tolist(), value.argmax(axis=1).tolist(), strict=True):
            if i != j and row[j] > max(_ALIKE, float(own[i]) + 0.01):
                found[i] = j
    checked = sum(look.verdict is not None for look in looks)
    if sure.sum() <= 0.25 * checked and len(found) < 0.75 * (len(looks) - 1) and (k := _neighbor(hr, lr, own)):
        found = {i: i + k for i in range(len(looks)) if 0 <= i + k < len(looks)}
    offsets = Counter(j - i for i, j in found.items())
    offset, times = offsets.most_common(1)[0] if offsets else (0, 0)
    return found, offset if times >= max(2, 0.8 * len(found)) and times >= 0.6 * len(looks) else 0


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (f", ... ({len(names)} in all)" if len(names) > _FEW else "")


def _share(count: int, total: int) -> str:
    return f"all of {counted(total, 'pair')}" if count == total > 1 else f"{count} of {counted(total, 'pair')}"


def _kernel_counts(verdicts: Mapping[str, PairVerdict]) -> dict[str, list[str]]:
    """Return the names of the pairs by kernel: as few kernels as explain all pairs."""
    left: dict[str, PairVerdict] = {name: v for name, v in verdicts.items() if v.kind == "kernel"}
    groups: dict[str, list[str]] = {}
    while left:
        votes = Counter[str](kernel for v in left.values() for kernel in v.kernels)
        most = max(votes.values())
        leaders = [kernel for kernel in votes if votes[kernel] == most]
        names = [name for name, v in left.items() if leaders[0] in v.kernels]
        same = tuple(k for k in leaders if all(k in left[name].kernels for name in names))
        groups[one_of(same)] = names
        left = {name: v for name, v in left.items() if name not in names}
    return groups


def _kernel_notes(groups: Mapping[str, list[str]], verdicts: Mapping[str, PairVerdict]) -> list[str]:
    total = len(verdicts)
    if len(groups) == 1:
        ((kernel, names),) = groups.items()
        exact = all(verdicts[name].psnr == float("inf") for name in names)
        lowest = min(verdicts[name].psnr for name in names)
        how = "identical" if exact else f"at least {lowest:.1f} dB"
        return [f"LR was made by {kernel} ({_share(len(names), total)}, {how})"]
    if not groups:
        return []
    parts = [f"{kernel} ({_share(len(names), total)}: {_names(names)})" for kernel, names in groups.items()]
    return [f"LR was made by {len(groups)} different kernels: {'; '.join(parts)}"]


def _other_notes(verdicts: Mapping[str, PairVerdict]) -> list[str]:
    notes: list[str] = []
    for kind, what in (
        ("degraded", "LR was made by no known kernel, an unknown degradation"),
        ("jpeg", "LR is JPEG-compressed"),
        ("unclear", "cannot tell how LR was made, the images are too smooth"),
    ):
        names = [name for name, v in verdicts.items() if v.kind == kind]
        if names:
            first = f"; {names[0]}: {verdicts[names[0]].text}" if kind != "unclear" else ""
            notes.append(f"{what} ({_share(len(names), len(verdicts))}{'' if first else ': ' + _names(names)}){first}")
    return notes


def _fault_lines(verdicts: Mapping[str, PairVerdict], elsewhere: set[str]) -> list[str]:
    """Return one line for each fault with the names of its pairs; one for the whole set if all pairs have it."""
    faults: dict[str, list[str]] = {}
    for name, v in verdicts.items():
        if v.error and name not in elsewhere:
            faults.setdefault(v.change, []).append(name)
    lines: list[str] = []
    for names in faults.values():
        text = verdicts[names[0]].text
        if len(names) == 1 and len(verdicts) > 1:
            lines.append(f"{names[0]}: {text}")
        elif len(names) == len(verdicts):
            lines.append(f"{_share(len(names), len(verdicts))}: {text}")
        else:
            lines.append(f"{_share(len(names), len(verdicts))} ({_names(names)}): {text}")
    return lines


def _name_lines(looks: Sequence[PairLook], found: Mapping[int, int], offset: int) -> list[str]:
    """Return the line on shifted or shuffled names."""
    if not found:
        return []
    shown = [f"the LR of {looks[i].name} belongs to the HR of {looks[j].name}" for i, j in found.items()]
    if offset:
        some = [text for text, (i, j) in zip(shown, found.items(), strict=True) if j - i == offset]
        return [
            f"the names of LR are shifted by {counted(abs(offset), 'image')}: {', '.join(some[:3])}, ... "
            f"({len(found)} of {counted(len(looks), 'pair')})"
        ]
    more = f", ... ({len(shown)} in all)" if len(shown) > _FEW else ""
    return [f"the names of LR are shuffled: {', '.join(shown[:_FEW])}{more}"]


def summarize(looks: Iterable[PairLook]) -> PairsSummary:
    """Combine the looks at all pairs of a set. Pass all pairs (in the set's order), so that shuffled names are recognized."""
    kept = list(looks)
    verdicts = {look.name: look.verdict for look in kept if look.verdict is not None}
    found, offset = _belongs(kept)
    lost = {i for i in range(len(kept)) if offset and not 0 <= i + offset < len(kept)}  # their HR is not in the set
    elsewhere = {kept[i].name for i in {*found, *lost}}
    groups = _kernel_counts({name: v for name, v in verdicts.items() if name not in elsewhere})
    problems = _name_lines(kept, found, offset) + _fault_lines(verdicts, elsewhere)
    rest = {name: v for name, v in verdicts.items() if name not in elsewhere}
    notes = _kernel_notes(groups, rest) + _other_notes(rest)
    belongs = {kept[i].name: kept[j].name for i, j in found.items()}
    return PairsSummary(problems, notes, {k: len(names) for k, names in groups.items()}, verdicts, belongs)
