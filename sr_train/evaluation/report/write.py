"""Reports of runs, written once or again and again while a run trains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_train.console import say
from sr_train.evaluation.report.page import render
from sr_train.evaluation.report.run_data import run_data, stage_folders
from sr_train.files import write_bytes

FILE = "report.html"


def newest_run(runs: Path) -> Path:
    """Return the folder of the run that was written last. Raise ValueError if there is none."""
    found = {p.parent.parent: p.stat().st_mtime for p in sorted(runs.glob("*/*/config.yaml"))}
    if not found:
        raise ValueError(
            f"{runs}: contains no runs; give run=FOLDER, or train first, e.g. sr-train experiment=quickstart"
        )
    return max(found, key=lambda run: max(_changed(stage) for stage in stage_folders(run)))


def write_report(folders: Sequence[Path], out: Path, **options: Any) -> str:
    """Write the report of the runs in ``folders`` to the file ``out``. Return a sentence about it.

    ``options`` are arguments of :func:`.run_data.run_data`. Raise ValueError for a folder that is not one of a run.
    """
    begin = time.perf_counter()
    runs = [run_data(folder, **options) for folder in folders]
    shown = ", ".join(run["name"] for run in runs)
    data = render(f"Report: {shown}", runs=runs).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    return f"{out}: {len(data) / 1e6:.1f} MB, {time.perf_counter() - begin:.1f} s; open it in a browser"


def watch(folders: Sequence[Path], out: Path, *, every: float, **options: Any) -> None:
    """Write the report whenever a run's folder has changed, until all stages are finished."""
    seen = -1.0
    while True:
        stages = [stage for folder in folders for stage in stage_folders(folder)]
        newest = max(map(_changed, stages))
        if newest > seen:
            seen = newest
            say(write_report(folders, out, **options))
        if all((stage / "weights.safetensors").exists() for stage in stages):
            say("all stages are finished")
            return
        time.sleep(every)


def _changed(stage: Path) -> float:
    """Return the time of the newest change of a stage's numbers, events or weights, in seconds since 1970."""
    names = ("config.yaml", "metrics.csv", "events.csv", "scores.csv", "weights.safetensors")
    return max(((stage / name).stat().st_mtime for name in names if (stage / name).exists()), default=0.0)
