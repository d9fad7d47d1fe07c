"""Reader of a stage's metrics.csv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEADER = ("step", "name", "value")

_DIGITS = 15  # most digits of a step; a longer number is damage


def read_rows(path: Path) -> list[tuple[int, str, str]]:
    """Return the rows (step, name, value) of a ``metrics.csv``. Damaged lines and an incomplete last line are skipped.

    Each line is read by itself, so a damaged line does not hide the lines after it.
    """
    if not path.is_file():
        return []
    rows = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            row = line[:-1].split(",")
            if line.endswith("\n") and len(row) == len(HEADER) and row[0].isdecimal() and len(row[0]) <= _DIGITS:
                rows.append((int(row[0]), row[1], row[2]))
    return rows


def rows_text(rows: Iterable[tuple[Any, ...]]) -> str:
    """Format rows of three values as lines of CSV."""
    return "".join(f"{a},{b},{c}\n" for a, b, c in rows)
