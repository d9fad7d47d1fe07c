"""Collection of scores of single images. The score of a set is the mean over its images, as in papers' tables.

For a set of clips, the mean over frames is computed for each clip first, and then the mean over clips, as in EDVR's
tables. So long and short clips have the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """Scores of one image under one protocol."""

    set: str
    key: str
    protocol: str
    values: dict[str, float]
    clip: str = ""  #: clip that the frame belongs to; empty for an image


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the images that have it; some metrics have no score of a small image."""
    columns = {name: [v[name] for v in values if name in v] for value in values for name in value}
    return {name: sum(column) / len(column) for name, column in columns.items()}


class Meter:
    """Collector of the scores of many images. :meth:`summary` returns their means."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, set_name: str, key: str, protocol: str, values: dict[str, float], clip: str = "") -> None:
        """Add the values of one image, or of one frame of a clip, under one protocol."""
        self.rows.append(Row(set_name, key, protocol, values, clip))

    def reset(self) -> None:
        """Remove all scores."""
        self.rows.clear()

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the mean scores: {set: {protocol: {metric: mean, ..., "n": number of images}}}."""
        groups: dict[tuple[str, str], dict[str, list[dict[str, float]]]] = {}
        for row in self.rows:
            clips = groups.setdefault((row.set, row.protocol), {})
            clips.setdefault(f"clip {row.clip}" if row.clip else f"image {row.key}", []).append(row.values)
        result: dict[str, dict[str, dict[str, float]]] = {}
        for (set_name, protocol), clips in groups.items():
            means = _mean([_mean(values) for values in clips.values()])
            result.setdefault(set_name, {})[protocol] = {**means, "n": sum(map(len, clips.values()))}
        return result

    def by_clip(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Return the mean scores of each clip: {set: {protocol: {clip: {metric: mean, ..., "n": number of frames}}}}.

        Sets of images are left out.
        """
        groups: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = {}
        for row in self.rows:
            if row.clip:
                found = groups.setdefault(row.set, {}).setdefault(row.protocol, {})
                found.setdefault(row.clip, []).append(row.values)
        return {
            s: {p: {c: {**_mean(v), "n": len(v)} for c, v in clips.items()} for p, clips in protocols.items()}
            for s, protocols in groups.items()
        }

    def flat(self) -> Iterator[tuple[str, float]]:
        """Yield (``set/protocol/metric``, mean), for logs and for choosing the best checkpoint."""
        for set_name, protocols in self.summary().items():
            for protocol, values in protocols.items():
                for name, value in values.items():
                    if name != "n":
                        yield f"{set_name}/{protocol}/{name}", value
