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

_LATEST = 2.5e11  # seconds since 1970: the year 9892, near the last one that datetime has


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
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def add_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Append one line to the history of a stage."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(line), allow_nan=False) + "\n")


def read_history(folder: Path) -> list[Sitting]:
    """Return the processes that trained a stage, in order. Lines that cannot be read are skipped."""
    path = folder / FILE
    found: list[Sitting] = []
    if not path.is_file():
        return found
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line: Any = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict):
            continue
        if "begin" in line:
            if (sitting := _sitting(line)) is not None:
                _close(found, folder, sitting.begin)
                found.append(sitting)
        elif found and _is_time(line.get("end")):
            last, step = found[-1], line.get("last_step")
            last.end, last.last_step = line["end"], step if _is_step(step) else None
            last.outcome = str(line.get("outcome", ""))
    _close(found, folder, None)
    return found


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _strings(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _sitting(line: Mapping[str, Any]) -> Sitting | None:
    """Return the process that a line describes; None without a time and a step. Other values of a wrong type are left out."""
    if not _is_time(line["begin"]) or not _is_step(line.get("first_step")):
        return None
    versions, processes = line.get("versions"), line.get("processes", 1)
    return Sitting(
        begin=line["begin"],
        first_step=line["first_step"],
        command=_strings(line.get("command")),
        changed=_strings(line.get("changed")),
        initial=_strings(line.get("initial")),
        host=str(line.get("host", "")),
        device=str(line.get("device", "")),
        processes=processes if _is_step(processes) else 1,
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
    )


def _close(found: Sequence[Sitting], folder: Path, before: float | None) -> None:
    """Estimate the end of a process that wrote none: the last change of ``metrics.csv``, at most the next process's begin."""
    if not found or found[-1].end is not None:
        return
    rows = folder / "metrics.csv"
    changed = rows.stat().st_mtime if rows.exists() else found[-1].begin
    found[-1].end = max(found[-1].begin, min(changed, before or changed))
    found[-1].outcome = found[-1].outcome or "killed or still running"
