"""Comparison of LR images with their HR images: how LR was made, and pairs that are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sr_train.data.doctor.findings import Finding, finding
from sr_train.data.doctor.opened import Opened
from sr_train.data.pair_check.check import PairLook, summarize

Looks = Mapping[tuple[str, str, int], PairLook]  #: by the names of HR and LR, and the scale

_FRAMES = 1000  # pairs of a source of clips that are compared


def compared(opened: Opened) -> set[tuple[str, int]]:
    """Return (name of HR, scale) of the pairs to compare: all images, or as many frames, spread over the clips."""
    chosen: set[tuple[str, int]] = set()
    for scale, lows in opened.lows.items():
        names = list(lows)
        step = max(1, len(names) // _FRAMES) if opened.video else 1
        chosen |= {(opened.hr[name].name, scale) for name in names[::step]}
    return chosen


def look_findings(opened: Opened, looks: Looks) -> tuple[list[Finding], list[str]]:
    """Return findings for the pairs of a source, and remarks, e.g. the kernel that made LR."""
    found: list[Finding] = []
    remarks: list[str] = []
    for low in opened.spec.lows:
        items = opened.lows.get(low.scale, {})
        keys = [(opened.hr[name].name, item.name, low.scale) for name, item in items.items()]
        own = [looks[key] for key in keys if key in looks]
        if not own:
            continue
        summary = summarize(own)
        wrong = {look.name: look.verdict.text for look in own if look.verdict is not None and look.verdict.error}
        wrong |= {name: f"belongs to the HR image of {other}" for name, other in summary.belongs.items()}
        found += [finding("pair", name, text) for name, text in wrong.items()]
        found += _other_kernels([look for look in own if look.name not in wrong])
        if summary.problems and not wrong:
            found += [finding("pair", low.where, text) for text in summary.problems]
        remarks += [f"{low.where} x{low.scale}: {text}" for text in summary.notes]
    return found, remarks


def _other_kernels(looks: Sequence[PairLook]) -> list[Finding]:
    """Return findings for the pairs whose LR was made in another way than that of most pairs."""
    verdicts = {
        look.name: look.verdict for look in looks if look.verdict is not None and look.verdict.kind != "unclear"
    }
    ways = {name: set(v.kernels) if v.kind == "kernel" else {v.kind} for name, v in verdicts.items()}
    usual = Counter(way for own in ways.values() for way in own).most_common(1)
    if not usual or 2 * usual[0][1] <= len(ways):
        return []
    text = "{}; the LR of most pairs was made by " + usual[0][0]
    return [finding("kernel", name, text.format(verdicts[name].text)) for name in ways if usual[0][0] not in ways[name]]
