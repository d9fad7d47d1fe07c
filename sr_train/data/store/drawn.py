"""Table of what a degradation drew for every image: lines of JSON while images are made, a CSV file at the end."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sr_train.files import write_bytes

TABLE = "degradation.csv"

_LINES = "degradation.jsonl"


class Row(NamedTuple):
    """Choices for one image."""

    number: int  #: position of the image, from 0
    key: str  #: name of the image
    scale: int
    drawn: Mapping[str, float | str]


class DrawnTable:
    """Table in the folder of an unfinished store. Rows are on disk before the images that they belong to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / _LINES
        found = _parsed(path.read_bytes()) if path.exists() else ()
        self.rows: dict[tuple[int, str], Row] = {(row.scale, row.key): row for row in found}

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows to the disk."""
        lines = b"".join(json.dumps(row, default=_plain).encode() + b"\n" for row in rows)
        if not lines:
            return
        self.rows |= {(row.scale, row.key): row for row in _parsed(lines)}
        with (self.folder / _LINES).open("ab") as file:
            file.write(b"\n" + lines)  # a kill may have left a part of a line
            file.flush()
            os.fsync(file.fileno())

    def text(self, keys: Iterable[str]) -> bytes:
        """Return the CSV file with the rows of ``keys``."""
        wanted = frozenset(keys)
        return table_of(
            sorted((row for row in self.rows.values() if row.key in wanted), key=lambda row: (row.number, row.scale))
        )

    def finish(self, keys: Iterable[str]) -> None:
        """Write the CSV file with the rows of ``keys``, and delete the lines."""
        write_bytes(self.folder / TABLE, self.text(keys))
        self.delete()

    def delete(self) -> None:
        """Delete the lines."""
        (self.folder / _LINES).unlink(missing_ok=True)


def table_of(rows: Iterable[Row]) -> bytes:
    """Return rows as CSV: number, name, scale, and a column for each choice, those of one operator together."""
    listed = list(rows)
    found = list(dict.fromkeys(name for row in listed for name in row.drawn))
    parts = list(dict.fromkeys(name.partition(".")[0] for name in found))
    names = sorted(found, key=lambda name: parts.index(name.partition(".")[0]))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "name", "scale", *names])
    for row in listed:
        writer.writerow([row.number, row.key, row.scale, *(row.drawn.get(name, "") for name in names)])
    return out.getvalue().encode()


def _parsed(lines: bytes) -> Iterator[Row]:
    """Yield the rows of complete lines; a line may be cut by a kill."""
    for line in lines.splitlines():
        with suppress(ValueError, TypeError):
            number, key, scale, drawn = json.loads(line)
            yield Row(int(number), str(key), int(scale), dict(drawn))


def _plain(value: Any) -> Any:
    """Convert a number of numpy, or another object of a user's class."""
    return value.item() if hasattr(value, "item") else str(value)
