"""Run: the selected stages of a plan, one after the other, in a locked folder."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

from sr_train.config.plan import Plan
from sr_train.config.plan import plan as compose_plan
from sr_train.console import UsageError, is_child, say
from sr_train.runs import lock, resume
from sr_train.training.dry_run import check_plan
from sr_train.training.preflight import preflight
from sr_train.training.stage import run_stage
from sr_train.training.trainer import unchanged_flags
from sr_train.training.user_callbacks import StoppedError, start_clock


def train(arguments: Sequence[str]) -> int:
    """Compose all stages and train the unfinished ones, as ``sr-train ARGUMENTS`` does. Return the exit code of ``run_plan``.

    Errors that the command would print are raised, e.g. ConfigError and UsageError.
    """
    return run_plan(compose_plan(arguments), arguments)


def run_plan(plan: Plan, arguments: Sequence[str]) -> int:
    """Run the selected stages of a plan while holding the run's lock; return the exit code.

    The code is 0 if all stages are finished, 128 + N if signal N ended the run, and 75 if a stage was left open for another
    reason (:class:`sr_train.training.stopping.Stop`).
    """
    mode = plan.stages[0].config["resume"]
    if mode not in ("auto", "force", "never"):
        raise UsageError(f"resume={mode}: choose from auto, force, never")
    start_clock()
    command = shlex.join(["sr-train", *arguments])
    _quiet()
    if plan.stages[0].config["check"]:
        return check_plan(plan)
    with nullcontext() if is_child() else lock.hold(plan.folder):
        if mode == "never" and not is_child():
            _move_aside(plan)
            command = command.replace(" resume=never", "")
        say(f"run {plan.name}: {' -> '.join(plan.selected)} in {plan.folder}")
        for note in plan.notes:
            say(note)
        stages = preflight(plan)
        try:
            while stages:
                with unchanged_flags():
                    run_stage(plan, stages.pop(0))
        except StoppedError as stopped:
            say(f"sr-train: {stopped}; continue with: {command}", error=True)
            return stopped.code
    return 0


def _move_aside(plan: Plan) -> None:
    """Rename the run's folder; if only some stages are selected, rename the folders of these."""
    whole = set(plan.selected) == {s.name for s in plan.stages}
    for folder in [plan.folder] if whole else [s.folder for s in plan.stages if s.name in plan.selected]:
        aside = resume.move_aside(folder)
        if aside is not None:
            say(f"{folder}: renamed to {aside}")


def _quiet() -> None:
    """Hide Lightning's hints, and print warnings in one line."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    warnings.filterwarnings("ignore", message=".*is a wrapper class for the backend.*")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("profilers.profiler", "callbacks.model_summary"):  # their tables are printed at level INFO
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)  # noqa: T201 - on every rank
