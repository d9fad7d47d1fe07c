"""Training of a sweep's jobs (``sr-train -m``). Each job is a separate run with a score and an exit code."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sr_train.config.plan import Plan, Stage
from sr_train.config.sweep import Job
from sr_train.console import UsageError, explain, is_users_error, say
from sr_train.data.lone import is_lone
from sr_train.evaluation.metrics import lower_is_better
from sr_train.evaluation.report.write import FILE, write_last_report
from sr_train.training.run import Outcome
from sr_train.training.score_names import best_metric


@dataclass
class Row:
    """One job of a sweep."""

    name: str
    folder: Path | None = None
    state: str = "not started"
    score: float = math.nan
    metric: str = ""
    lower: bool = False  #: a lower score is better
    seconds: float = 0.0


def table(rows: Sequence[Row]) -> str:
    """Return the jobs as lines, the best score first, and jobs without a score last."""
    lower = any(row.lower for row in rows)
    ordered = sorted(rows, key=lambda row: (math.isnan(row.score), row.score if lower else -row.score))
    width = max(len(row.name) for row in rows)
    metric = next((row.metric for row in rows if row.metric), "score")
    lines = [f"{'job':<{width}}  {metric:>12}  {'time':>9}  state"]
    for row in ordered:
        score = "-" if math.isnan(row.score) else f"{row.score:.4f}"
        minutes, seconds = divmod(round(row.seconds), 60)
        lines.append(f"{row.name:<{width}}  {score:>12}  {minutes:>5}:{seconds:02d}  {row.state}")
    return "\n".join(lines)


class SweepTable:
    """Runner of a sweep's jobs. It counts the jobs and stores the names of failed jobs.

    Args:
        run_plan: function of (plan, arguments of the job) that trains a plan and returns the outcome.
    """

    def __init__(self, run_plan: Callable[[Plan, Sequence[str]], Outcome]) -> None:
        self.run_plan = run_plan
        self.code, self.jobs, self.failed = 0, 0, list[str]()
        self.rows: list[Row] = []
        self.report = False  #: write one report over all jobs at the end

    def run(self, job: Job) -> float:
        """Train one job. Return its best score; NaN without a score.

        An error of the job is printed, and the next job starts. If an optimizing sweeper of Hydra (e.g. Optuna) chooses
        the jobs, the error is raised instead.
        """
        self.jobs += 1
        begin = time.monotonic()
        self.rows.append(row := Row(job.name))
        try:
            composed = job.compose()
            row.folder, self.report = composed.folder, self.report or bool(composed.stages[0].config["report"])
            if job.sweeper is not None:
                check_score(composed, job.sweeper)
            with job.alone(), _clean_process():
                outcome = self.run_plan(composed, job.arguments)
        except Exception as error:
            if not is_users_error(error) or job.sweeper is not None or os.environ.get("SR_DEBUG"):
                raise
            message, code = explain(error)
            self.failed.append(job.name)
            row.state, row.seconds = "failed", time.monotonic() - begin
            say(f"sr-train: error: job {job.name}: {message}", error=True)
            self.code = max(self.code, code)
            return math.nan
        self.code = max(self.code, outcome.code)
        row.state, row.seconds = "finished" if outcome.code == 0 else "time is up", time.monotonic() - begin
        if outcome.by_signal:  # it ends the whole sweep
            raise SystemExit(outcome.code)
        row.score = best_score(composed)
        row.metric, row.lower = _best_metric(_last_selected(composed).config)
        return row.score

    def finish(self) -> int:
        """Print a table of the jobs by score, and the failed jobs. Return the sweep's exit code: the highest of its jobs.

        With ``report=true``, also write one report over all jobs, ``report.html`` in the sweep's folder.
        """
        if len(self.rows) > 1:
            say(table(self.rows))
        folders = [row.folder for row in self.rows if row.folder is not None and any(row.folder.glob("*/config.yaml"))]
        if self.report and folders:
            write_last_report(folders, folders[0].parent / FILE)
        if self.failed:
            say(f"{len(self.failed)} of {self.jobs} jobs failed: {', '.join(self.failed)}")
        return self.code


@contextmanager
def _clean_process() -> Iterator[None]:
    """Restore the environment variables and the number of threads after a job, and remove torch's process group."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)


def _last_selected(composed: Plan) -> Stage:
    return next(s for s in reversed(composed.stages) if s.name in composed.selected)


def _best_metric(config: Mapping[str, Any]) -> tuple[str, bool]:
    """Return (metric by which the best network is chosen, true if lower is better).

    The metric is ``validate.best``, e.g. ``set5/y/psnr``; without it, only the last part, e.g. ``psnr``.
    """
    best, metrics = config["validate"]["best"], config["validate"]["metrics"]
    if best is not None:
        return best, lower_is_better(best)
    if all(map(is_lone, (config["data"]["val"] or {}).values())):
        return "niqe", True
    name = "psnr" if "psnr" in metrics else "ssim" if "ssim" in metrics else str(next(iter(metrics), "none"))
    return name, lower_is_better(name)


def check_score(composed: Plan, sweeper: Mapping[str, Any]) -> None:
    """Raise UsageError if jobs have no score, or if the sweeper would minimize a score for which higher is better.

    Also raise it in the opposite case.
    """
    stage = _last_selected(composed)
    if not stage.config["data"]["val"]:
        raise UsageError(
            f"stage {stage.name}: the sweeper needs a score, but sets=[] disables validation: give sets=[NAME]"
        )
    metric, lower = _best_metric(stage.config)
    right = "minimize" if lower else "maximize"
    given = sweeper.get("direction")
    if given is not None and str(given).rpartition(".")[2] in {"minimize", "maximize"} - {right}:
        better = "lower" if lower else "higher"
        raise UsageError(
            f"hydra.sweeper.direction: {metric} is better when {better}: give hydra.sweeper.direction={right}"
        )


def best_score(composed: Plan) -> float:
    """Return the score by which ``best.safetensors`` of the last selected stage was chosen; NaN without this file."""
    stage = _last_selected(composed)
    file = stage.folder / "best.safetensors"
    if not file.exists():
        return math.nan
    with safe_open(file, framework="pt") as content:
        scores: dict[str, float] = json.loads((content.metadata() or {}).get("scores", "{}"))
    return float(scores.get(best_metric(stage.config["validate"]["best"], scores), math.nan))
