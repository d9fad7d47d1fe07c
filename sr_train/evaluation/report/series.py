"""Curves of a report: the numbers of ``metrics.csv`` as series, thinned so that a page stays small."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

MOST = 1200  #: points of one curve; more than the pixels of a chart are not visible

_TRAIN = {
    "loss": "Losses", "generator": "Losses", "discriminator": "Losses", "pixel": "Losses", "perceptual": "Losses",
    "adversarial": "Losses", "accuracy": "Discriminator", "real_logit": "Discriminator", "fake_logit": "Discriminator",
    "color_shift": "Discriminator", "refused": "Skipped", "skipped": "Skipped",
}  # fmt: skip

#: Charts in the order of the page.
CHARTS = ("Scores", "Losses", "Discriminator", "Learning rate", "Gradient norms", "Speed", "Memory", "Skipped", "Other")


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
    if group == "train":
        if rest.startswith("rate"):
            return "Learning rate"
        if rest.startswith("grad_norm"):
            return "Gradient norms"
        return _TRAIN.get(rest, "Losses" if "/" not in rest else "Other")
    if group == "speed":
        return "Speed"
    if group == "memory":
        return "Memory"
    return f"Scores: {name.rpartition('/')[2]}" if name.count("/") >= 2 else "Other"


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
    return CHARTS.index(chart.partition(":")[0])
