"""Run a check of data sets with a progress bar, print its report, and write it to a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from sr_train.console import UsageError, counted, say
from sr_train.data.doctor.check import Doctor
from sr_train.data.doctor.findings import Report, check_out
from sr_train.data.doctor.opened import described
from sr_train.data.doctor.specs import Spec

_BY_NAME = ("source", "mixed", "leak by name")  # findings that are printed before anything is decoded


def run_check(specs: Iterable[Spec], *, workers: int | None = None, out: str | None = None) -> Report:
    """Check sources and print the report. ``out`` is a ``.json`` or ``.csv`` file for all findings.

    ``workers`` is the number of threads, by default that of the cores. After Ctrl-C the report contains what was found so far.
    """
    check_out(out)
    workers = workers or _cores()
    specs = list(specs)
    if not specs:
        raise UsageError("check=: there are no data sources to check")
    doctor = Doctor(specs, workers=workers)
    for opened in doctor.sources:
        say(described(opened))
    report = _read(doctor, workers) if doctor.images else doctor.run()
    if out is not None:
        report.write(out)
    say(report.text(out))
    return report


def _read(doctor: Doctor, workers: int) -> Report:
    """Print what the names show, then decode all images."""
    for found in doctor.findings:
        if found.kind in _BY_NAME:
            say(f"{found.severity}: {found.file}: {found.message}")
    try:
        estimate = doctor.estimate()
    except KeyboardInterrupt:
        return doctor.interrupted()
    size = f", {estimate.bytes / 1e6:,.1f} MB" if estimate.bytes else ""
    say(
        f"{counted(estimate.images, 'image')}{size}: about {_duration(estimate.seconds)} with {counted(workers, 'thread')}"
    )
    every = 0.2 if sys.stderr.isatty() else 10
    with tqdm(total=doctor.images, desc="check", unit="image", file=sys.stderr, mininterval=every) as bar:
        return doctor.run(bar.update)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_config(path: str) -> bool:
    """Return True for the path of a YAML file."""
    return Path(path).suffix.lower() in (".yaml", ".yml")
