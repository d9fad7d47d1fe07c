"""Reader of a stage's metrics.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEADER = ("step", "name", "value")


def read_rows(path: Path) -> list[tuple[int, str, str]]:
    """Return the rows (step, name, value) of a ``metrics.csv``. An incomplete last line is skipped."""
    if not path.exists():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.reader(line for line in file if line.endswith("\n")):
            if len(row) == len(HEADER) and row[0].isdecimal():
                rows.append((int(row[0]), row[1], row[2]))
    return rows


def rows_text(rows: Iterable[tuple[Any, ...]]) -> str:
    """Format rows of three values as lines of CSV."""
    return "".join(f"{a},{b},{c}\n" for a, b, c in rows)
