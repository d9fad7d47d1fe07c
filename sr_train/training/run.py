"""A run: its stages trained one after the other under the run's lock."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

from sr_train.config.plan import Plan, plan
from sr_train.console import UsageError, is_child
from sr_train.runs import resume
from sr_train.runs.lock import hold
from sr_train.training.dry_run import check_plan
from sr_train.training.preflight import check_stages, unchanged_flags
from sr_train.training.stage import run_stage
from sr_train.training.stopping import StoppedError, begin_sitting


def _quiet() -> None:
    """Lightning's advice is for those who write loops; ours is on screen already."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    warnings.filterwarnings("ignore", message=".*is a wrapper class for the backend.*")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("profilers.profiler", "callbacks.model_summary"):  # asked for by the user, who gets their tables there
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def train(arguments: Sequence[str]) -> int:
    """Train the stages that ``KEY=VALUE`` arguments ask for, as ``sr-train`` does; return the exit code (:func:`run_plan`)."""
    return run_plan(plan(arguments), arguments)


def run_plan(composed: Plan, arguments: Sequence[str]) -> int:
    """Run the selected stages of a plan, holding the run's lock; returns the exit code.

    0 where all are finished; 128 + the signal where one ended it; 75 where a stage was left open otherwise, see
    :class:`sr_train.training.callbacks.Stop`.
    """
    mode = composed.stages[0].config["resume"]
    if mode not in ("auto", "force", "never"):
        raise UsageError(f"resume={mode}: choose from auto, force, never")
    begin_sitting()
    command = shlex.join(["sr-train", *arguments])
    _quiet()
    if composed.stages[0].config["check"]:
        return check_plan(composed)
    with nullcontext() if is_child() else hold(composed.folder):
        if mode == "never" and not is_child():
            whole = set(composed.selected) == {s.name for s in composed.stages}
            old = [composed.folder] if whole else [s.folder for s in composed.stages if s.name in composed.selected]
            for folder in old:
                aside = resume.move_aside(folder)
                if aside is not None:
                    print(f"{folder}: moved aside to {aside}")
            command = command.replace(" resume=never", "")
        if not is_child():
            print(f"run {composed.name}: {' -> '.join(composed.selected)} in {composed.folder}", flush=True)
            print("".join(f"{note}\n" for note in composed.notes), end="", flush=True)
        check_stages(composed)
        try:
            for stage in composed.stages:
                if stage.name in composed.selected:
                    with unchanged_flags():
                        run_stage(composed, stage)
        except StoppedError as stopped:
            if not is_child():
                print(f"sr-train: {stopped}; continue with: {command}", file=sys.stderr)
            return stopped.code
    return 0
