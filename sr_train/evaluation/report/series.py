"""Curves of a report: the numbers of ``metrics.csv`` as series, thinned so that a page stays small."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

MOST = 1200  #: points of one curve; more than the pixels of a chart are not visible

_CHARTS = {
    "train/accuracy": "Accuracy of the discriminator", "train/real_logit": "Logits", "train/fake_logit": "Logits",
    "train/color_shift": "Color shift", "train/refused": "Refused steps and skipped images",
    "train/skipped": "Refused steps and skipped images", "speed/steps_per_s": "Steps per second",
    "speed/peak_memory_gb": "Memory", "speed/pairs_per_s": "Pairs per second", "speed/wait": "Share of time waiting for data",
}  # fmt: skip

#: Charts in the order of the page; others follow.
CHARTS = (
    "Scores", "Losses", "Accuracy of the discriminator", "Logits", "Color shift", "Learning rate", "Gradient norms",
    "Steps per second", "Pairs per second", "Share of time waiting for data", "Memory", "Refused steps and skipped images",
)  # fmt: skip


class Curve(NamedTuple):
    """One curve."""

    chart: str  #: title of its chart
    name: str  #: e.g. ``train/loss`` or ``set5/y/psnr``
    steps: list[int]
    values: list[float | None]  #: None for a number that is not finite

    def as_json(self) -> dict[str, Any]:
        """Return the curve as a dictionary of plain values."""
        values = [None if v is None else float(f"{v:.6g}") for v in self.values]
        return {"chart": self.chart, "name": self.name, "steps": self.steps, "values": values}


def chart_of(name: str) -> str:
    """Return the title of the chart for a number, e.g. ``Losses`` for ``train/pixel``, ``psnr`` for ``set5/y/psnr``."""
    group, _, rest = name.partition("/")
    if name in _CHARTS:
        return _CHARTS[name]
    if group == "train":
        return (
            "Learning rate"
            if rest.startswith("rate")
            else "Gradient norms"
            if rest.startswith("grad_norm")
            else "Losses"
        )
    if group == "memory":
        return "Memory"
    return f"Scores: {name.rpartition('/')[2]}" if name.count("/") >= 2 else "Others"


def curves(rows: Iterable[tuple[int, str, str]], most: int = MOST) -> list[Curve]:
    """Return the curves of the rows (step, name, value) of a ``metrics.csv``, sorted by chart and name.

    Values that are not numbers are left out. If a step occurs twice, the later row is used.
    """
    found: dict[str, dict[int, float]] = {}
    for step, name, text in rows:
        try:
            found.setdefault(name, {})[step] = float(text)
        except ValueError:
            continue
    made = []
    for name, points in found.items():
        steps = sorted(points)
        kept = thinned([points[s] for s in steps], most)
        values = [points[steps[i]] for i in kept]
        finite = [v if math.isfinite(v) else None for v in values]
        if chart_of(name) == CHARTS[-1] and not any(values):
            continue  # nothing was refused or skipped
        made.append(Curve(chart_of(name), name, [steps[i] for i in kept], finite))
    return sorted(made, key=lambda curve: (_place(curve.chart), curve.chart, curve.name))


def thinned(values: Sequence[float], most: int) -> list[int]:
    """Return the indices of at most ``most`` points that keep the shape of a curve: first, last, and extremes between.

    The points between are cut into equal parts. The smallest and the largest value of each part are kept, and a value
    that is not finite before both.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    parts = max(1, (most - 2) // 2)
    kept = {0, count - 1}
    for part in range(parts):
        span = range(1 + part * (count - 2) // parts, 1 + (part + 1) * (count - 2) // parts)
        wrong = [i for i in span if not math.isfinite(values[i])]
        kept |= {wrong[0]} if wrong else {min(span, key=values.__getitem__), max(span, key=values.__getitem__)}
    return sorted(kept)


def _place(chart: str) -> int:
    title = chart.partition(":")[0]
    return CHARTS.index(title) if title in CHARTS else len(CHARTS)
