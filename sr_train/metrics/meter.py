"""Collects scores image by image; a set's value is the mean over its images, as in every paper's table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """One image under one protocol."""

    set: str
    key: str
    protocol: str
    values: dict[str, float]


class Meter:
    """Scores of many images: ``{"set": {"protocol": {"psnr": mean, "ssim": mean, "n": images}}}``."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, set_name: str, key: str, protocol: str, values: dict[str, float]) -> None:
        """Keep the values of one image under one protocol."""
        self.rows.append(Row(set_name, key, protocol, values))

    def reset(self) -> None:
        """Forget everything."""
        self.rows.clear()

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Means by set and protocol, and ``n``, the number of images."""
        groups: dict[tuple[str, str], list[dict[str, float]]] = {}
        for row in self.rows:
            groups.setdefault((row.set, row.protocol), []).append(row.values)
        result: dict[str, dict[str, dict[str, float]]] = {}
        for (set_name, protocol), values in groups.items():
            means = {name: sum(v[name] for v in values) / len(values) for name in values[0]}
            result.setdefault(set_name, {})[protocol] = {**means, "n": len(values)}
        return result

    def flat(self) -> Iterator[tuple[str, float]]:
        """``set/protocol/metric`` and its mean, for logs and for choosing the best."""
        for set_name, protocols in self.summary().items():
            for protocol, values in protocols.items():
                for name, value in values.items():
                    if name != "n":
                        yield f"{set_name}/{protocol}/{name}", value
