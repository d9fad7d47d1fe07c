"""History of a stage: ``history.jsonl`` has one line for each process that began or continued it, and one for its end.

A process that is killed writes no end. Its end is then the time of the last line of ``metrics.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FILE = "history.jsonl"


@dataclass
class Sitting:
    """One process that trained a stage."""

    begin: float  #: seconds since 1970
    first_step: int
    command: list[str] = field(default_factory=list[str])  #: as typed, without the program
    changed: list[str] = field(default_factory=list[str])  #: keys that the arguments set
    initial: list[str] = field(default_factory=list[str])  #: lines about the initial weights
    host: str = ""
    device: str = ""
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict[str, str])
    end: float | None = None
    last_step: int | None = None
    outcome: str = ""

    @property
    def seconds(self) -> float:
        """Duration; 0 if the end is not known."""
        return 0.0 if self.end is None else max(0.0, self.end - self.begin)

    def as_json(self) -> dict[str, Any]:
        """Return plain values with readable times."""
        return {**asdict(self), "begin": _time(self.begin), "end": None if self.end is None else _time(self.end),
                "seconds": self.seconds}  # fmt: skip


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


def add_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Append one line to the history of a stage."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(line), allow_nan=False) + "\n")


def read_history(folder: Path) -> list[Sitting]:
    """Return the processes that trained a stage, in order. Lines that cannot be read are skipped."""
    path = folder / FILE
    found: list[Sitting] = []
    if not path.exists():
        return found
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line: Any = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict):
            continue
        if "begin" in line:
            _close(found, folder, line["begin"])
            known = {k: v for k, v in line.items() if k in Sitting.__dataclass_fields__}
            try:
                found.append(Sitting(**known))
            except TypeError:
                continue
        elif found and "end" in line:
            last = found[-1]
            last.end, last.last_step, last.outcome = line["end"], line.get("last_step"), str(line.get("outcome", ""))
    _close(found, folder, None)
    return found


def _close(found: Sequence[Sitting], folder: Path, before: float | None) -> None:
    """Estimate the end of a process that wrote none: the last change of ``metrics.csv``, at most the next process's begin."""
    if not found or found[-1].end is not None:
        return
    rows = folder / "metrics.csv"
    changed = rows.stat().st_mtime if rows.exists() else found[-1].begin
    found[-1].end = max(found[-1].begin, min(changed, before or changed))
    found[-1].outcome = found[-1].outcome or "killed or still running"
