"""Content of a run's folder for a report: stages with curves, scores, events, pictures and configs, as plain values."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sr_train.evaluation.report.pictures import MOST_STEPS, pictures
from sr_train.evaluation.report.series import MOST, curves
from sr_train.runs.history import Sitting, read_history
from sr_train.runs.metrics import read_rows
from sr_train.runs.resume import ChangedError, flatten, read_config
from sr_train.torch_files import TorchFileError, read_header

#: Parts of a config that say where and how a run is executed, not what is trained.
_LEFT_OUT = ("fingerprint", "environment")


def stage_folders(run: Path) -> list[Path]:
    """Return the folders of a run's stages in the order of training: a stage follows the stage that it starts from.

    Raise ValueError if the folder has no stage.
    """
    found = sorted((p.parent for p in run.glob("*/config.yaml")), key=lambda p: (p / "config.yaml").stat().st_mtime)
    if not found:
        hint = f"; give the run's folder, {run.parent}" if (run / "config.yaml").exists() else ""
        raise ValueError(f"run={run}: there is no stage in it (no folder with config.yaml){hint}")
    names = {p.name: p for p in found}
    ordered: dict[str, Path] = {}
    entered: set[str] = set()  # so that damaged configs, in which stages start from each other, end

    def place(name: str) -> None:
        if name in entered or name not in names:
            return
        entered.add(name)
        before = _mapping(_config(names[name]).get("init")).get("stage")
        if isinstance(before, str):
            place(before)
        ordered[name] = names[name]

    for name in names:
        place(name)
    return list(ordered.values())


def run_data(run: Path, *, points: int = MOST, most_steps: int = MOST_STEPS) -> dict[str, Any]:
    """Return the content of a run's folder as plain values for :func:`.page.render`.

    Args:
        run: folder of the run, ``runs/NAME``.
        points: most points of a curve.
        most_steps: most steps shown of one validation image.
    """
    stages = [stage_data(folder, points=points, most_steps=most_steps) for folder in stage_folders(run)]
    return {"name": run.name, "folder": str(run), "stages": stages}


def stage_data(folder: Path, *, points: int = MOST, most_steps: int = MOST_STEPS) -> dict[str, Any]:
    """Return the content of a stage's folder. What is missing or unreadable is left out."""
    config = _config(folder)
    rows = read_rows(folder / "metrics.csv")
    made = curves(rows, points)
    weights, best = _header(folder / "weights.safetensors"), _header(folder / "best.safetensors")
    best_step = _step(best)
    history = read_history(folder)
    last = max((row[0] for row in rows), default=0)
    plain = {k: v for k, v in config.items() if k not in _LEFT_OUT}
    return {
        "name": folder.name,
        "finished": "model" in weights,
        "step": max(last, _step(weights) or 0),
        "steps": _mapping(config.get("trainer")).get("max_steps"),
        "model": _class(config.get("model")),
        "task": _class(config.get("task")),
        "data": _sources(config.get("data")),
        "best": best_step,
        "best_scores": _finite(best.get("scores", {})),
        "scores": _finite(weights.get("scores", {})),
        "images": image_scores(folder),
        "seconds": sum(sitting.seconds for sitting in history),
        "sittings": [sitting.as_json() for sitting in history],
        "initial": next((s.initial for s in history if s.initial), []),
        "environment": {k: _text(v) for k, v in _mapping(config.get("environment")).items()},
        "events": [*events(folder), *_resumes(history)],
        "curves": [curve.as_json() for curve in made],
        "pictures": pictures(folder, best=best_step, most_steps=most_steps),
        "config": {k: _text(v) for k, v in flatten(plain).items()},
        "changed": sorted({k for s in history for k in s.changed}),
    }


def events(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a stage's ``events.csv`` as {step, what, images}."""
    rows = [r for r in _csv_rows(folder / "events.csv") if len(r) >= 2 and r[0].isdecimal() and len(r[0]) < 16]
    return [{"step": int(r[0]), "what": r[1], "images": r[2] if len(r) > 2 else ""} for r in rows]


def image_scores(folder: Path) -> dict[str, Any]:
    """Return the scores of each image from ``scores.csv``: {names: metrics, rows: [[set, image, protocol, ...]]}."""
    head, *rows = _csv_rows(folder / "scores.csv") or [[]]
    if not head:
        return {}
    return {"names": head, "rows": [[_number(cell) for cell in row] for row in rows if len(row) == len(head)]}


def differing(stages: Iterable[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """Return {key: value of each stage} for the keys of configs whose values differ."""
    configs = [stage["config"] for stage in stages]
    keys = dict.fromkeys(key for config in configs for key in config)
    found = {key: [config.get(key) for config in configs] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _csv_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file. Each line is read by itself; lines that cannot be read are left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(next(csv.reader([line]), []))
        except csv.Error:
            continue
    return rows


def _config(folder: Path) -> dict[str, Any]:
    """Return a stage's config; an empty one if the file is missing or damaged."""
    try:
        return read_config(folder) or {}
    except (ChangedError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _step(header: Mapping[str, Any]) -> int | None:
    """Return the step in the header of a weights file, if it is a number."""
    step = _mapping(header.get("origin")).get("step")
    return step if isinstance(step, int) else None


def _finite(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the scores that are numbers; None for one that is not finite, because JSON has no infinity."""
    return {k: v if math.isfinite(v) else None for k, v in scores.items() if isinstance(v, int | float)}


def _resumes(history: list[Sitting]) -> list[dict[str, Any]]:
    return [{"step": s.first_step, "what": "resumed", "images": ""} for s in history[1:]]


def _header(path: Path) -> dict[str, Any]:
    """Return the fields of a weights file's header; an empty dict if the file is missing or damaged."""
    try:
        header = read_header(path)
    except (OSError, TorchFileError):
        return {}
    if "model" not in header:
        return {}
    found: dict[str, Any] = {}
    for name in ("origin", "scores", "model"):
        try:
            value = json.loads(header.get(name, "{}"))
        except (ValueError, RecursionError):
            value = {}
        found[name] = value if isinstance(value, dict) else {}
    return found


def _class(node: Any) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def _sources(node: Any) -> list[str]:
    train = node.get("train") if isinstance(node, dict) else None
    return [str(s.get("hr", s)) if isinstance(s, dict) else str(s) for s in (train if isinstance(train, list) else [])]


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(cell: str) -> float | str:
    """Return a cell as a number. A number that is not finite remains text, because JSON has no infinity."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    return value if math.isfinite(value) else cell
