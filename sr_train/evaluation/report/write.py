"""Reports of runs, written once or again and again while a run trains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_train.console import UsageError, say, warn
from sr_train.evaluation.report.page import render
from sr_train.evaluation.report.run_data import run_data, stage_folders
from sr_train.files import write_bytes
from sr_train.runs.history import read_history
from sr_train.runs.lock import is_held

FILE = "report.html"


def newest_run(runs: Path) -> Path:
    """Return the folder of the run that was written last. Raise ValueError if there is none."""
    found = {p.parent.parent: p.stat().st_mtime for p in sorted(runs.glob("*/*/config.yaml"))}
    if not found:
        raise ValueError(
            f"{runs}: contains no runs; give run=FOLDER, or train first, e.g. sr-train experiment=quickstart"
        )
    return max(found, key=lambda run: max(_changed(stage) for stage in stage_folders(run)))


def runs_of(matches: Sequence[Path]) -> list[Path]:
    """Return the runs in the folders that a path or a pattern matches; files next to them, e.g. a report, are left out."""
    return [run for path in [p for p in matches if p.is_dir()] or matches for run in _runs_in(path)]


def _runs_in(folder: Path) -> list[Path]:
    """Return the runs in a sweep's folder, or the folder itself if it is that of a run or contains no runs."""
    if any(folder.glob("*/config.yaml")):
        return [folder]
    return sorted({p.parent.parent for p in folder.glob("*/*/config.yaml")}) or [folder]


def check_out(out: Path) -> None:
    """Raise UsageError unless ``out`` is the path of an HTML file. Other files, e.g. weights or devices, are never replaced."""
    if out.is_dir():
        raise UsageError(f"out={out}: is a folder; give a file, e.g. out={out / FILE}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"out={out}: expected a file whose name ends in .html, e.g. out={out.with_name(FILE)}")
    if out.exists() and not out.is_file():
        raise UsageError(f"out={out}: is not a regular file; give another path")


def _distinct(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: that of its folder, or as many last parts of its path as make all names different."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def write_report(folders: Sequence[Path], out: Path, **options: Any) -> str:
    """Write the report of the runs in ``folders`` to the file ``out``. Return a sentence about it.

    ``options`` are arguments of :func:`.run_data.run_data`. A run that occurs twice is shown once. Raise UsageError for
    ``out`` that is not an HTML file, ValueError for a folder that is not one of a run.
    """
    begin = time.perf_counter()
    check_out(out)
    folders = list({folder.resolve(): folder for folder in folders}.values())
    runs = [{**run_data(f, **options), "name": n} for f, n in zip(folders, _distinct(folders), strict=True)]
    shown = ", ".join(run["name"] for run in runs)
    data = render(f"Report: {shown}", runs=runs).encode(errors="replace")  # a file's name may be no UTF-8
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    return f"{out}: {len(data) / 1e6:.1f} MB, {time.perf_counter() - begin:.1f} s; open it in a browser"


def write_last_report(folders: Sequence[Path], out: Path) -> None:
    """Write the report at the end of a run. An error is a warning, because the run itself has ended well."""
    try:
        say(write_report(folders, out))
    except (OSError, ValueError) as error:
        warn(f"{out}: the report was not written ({error}); write it later with sr-report run={folders[0]}")


def watch(folders: Sequence[Path], out: Path, *, every: float, **options: Any) -> None:
    """Write the report whenever a run's folder has changed, until the runs have ended.

    A run has ended if no process trains it, and all its stages are finished or one has failed. A run that was stopped
    or killed may continue. A folder that is missing, e.g. because the run has not begun, is waited for.
    """
    check_out(out)
    seen, waits = -1.0, False
    while True:
        ended = not any(map(is_held, folders))  # before the report, so that the last one has the end
        try:
            stages = [stage for folder in folders for stage in stage_folders(folder)]
            newest = max(map(_changed, stages))
            if newest > seen:
                say(write_report(folders, out, **options))
                seen = newest
            waits = False
            if ended and all(map(_has_ended, folders)):
                say("the run has ended")
                return
        except (FileNotFoundError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            if not waits:
                say(f"{error}; waiting for it")
            waits = True
        time.sleep(every)


def _has_ended(run: Path) -> bool:
    """Return true if all stages of a run are finished, or the last process of one has failed."""
    stages = stage_folders(run)
    last = [history[-1].outcome for stage in stages if (history := read_history(stage))]
    return all((s / "weights.safetensors").exists() for s in stages) or any(o.startswith("failed") for o in last)


def _changed(stage: Path) -> float:
    """Return the time of the newest change of a stage's numbers, events or weights, in seconds since 1970."""
    names = ("config.yaml", "metrics.csv", "events.csv", "scores.csv", "weights.safetensors")
    return max(((stage / name).stat().st_mtime for name in names if (stage / name).exists()), default=0.0)
