"""A run: it trains the selected stages of a plan, one after the other, in a locked folder."""

from __future__ import annotations

import logging
import re
import shlex
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import distributed

from sr_train.config.plan import Plan
from sr_train.config.plan import plan as compose_plan
from sr_train.console import UsageError, explain, is_child, is_users_error, say, set_rank
from sr_train.evaluation.report.write import FILE, write_last_report
from sr_train.runs import lock, resume
from sr_train.runs.checkpoints import list_checkpoints
from sr_train.runs.launch import find_launch
from sr_train.runs.ranks import FailedElsewhereError, LostRankError, Ranks
from sr_train.runs.requeue import is_restart, requeue
from sr_train.training.cluster import Processes, place
from sr_train.training.dry_run import check_plan
from sr_train.training.pair_sheet import check_sheet
from sr_train.training.preflight import preflight
from sr_train.training.signals import Signals, StoppedError
from sr_train.training.stage import run_stage
from sr_train.training.stage_order import check_later_stages
from sr_train.training.trainer import unchanged_flags
from sr_train.training.user_callbacks import start_clock
from sr_train.weights.export.openers import opened_by
from sr_train.weights.open import full_arguments


@dataclass(frozen=True)
class Outcome:
    """End of a run; ``code`` is the exit code of the command."""

    code: int
    by_signal: bool = False


def train(arguments: Sequence[str]) -> int:
    """Compose all stages and train the unfinished stages, as the command ``sr-train ARGUMENTS`` does.

    Return the exit code. :func:`run_plan` explains the exit codes. Errors that the command would print are raised, e.g.
    ConfigError and UsageError.
    """
    return run_plan(compose_plan(arguments), arguments).code


def run_plan(plan: Plan, arguments: Sequence[str]) -> Outcome:
    """Run the selected stages of a plan while holding the run's lock.

    The exit code is 0 if all stages are finished, and 130 after Ctrl-C. It is 75 if a stage is not finished for another
    reason: a signal, a time limit or a callback. In a SLURM job, a signal also requeues the job.
    """
    mode = plan.stages[0].config["resume"]
    if mode not in ("auto", "force", "never"):
        raise UsageError(f"resume={mode}: choose from auto, force, never")
    launch = find_launch()
    set_rank(launch.rank)
    try:
        plan, launch, world = place(plan, launch)
        check_sheet(plan)
    except UsageError:
        if is_child():  # rank 0 prints the same error
            raise SystemExit(2) from None
        raise
    start_clock()
    _quiet()
    ranks = Ranks(launch, world, timeout=_timeout(plan))
    with Signals(ranks) as signals:
        try:
            ranks.start()
            if plan.stages[0].config["check"]:
                check_plan(plan, Processes(launch, ranks))
            else:
                _run(plan, Processes(launch, ranks), signals, mode, arguments)
        except StoppedError as stopped:
            signals.ended = True
            ranks.fail("stopped", stopped.code)
            if not is_child():
                _say_stopped(plan, stopped, arguments)
            return Outcome(stopped.code, stopped.number is not None)
        except FailedElsewhereError as elsewhere:
            signals.ended = True
            raise SystemExit(elsewhere.code) from None
        except Exception as error:
            signals.ended = True
            _fail(ranks, error)
        finally:
            ranks.finish()
    return Outcome(0)


def _timeout(plan: Plan) -> float:
    return float(plan.stages[0].config["trainer"].get("timeout") or 1800)


def _run(plan: Plan, processes: Processes, signals: Signals, mode: str, arguments: Sequence[str]) -> None:
    """Train the stages. Rank 0 locks the folder and checks all stages first; then the other ranks begin."""
    ranks = processes.ranks
    with nullcontext() if is_child() else lock.hold(plan.folder):
        if not is_child():
            if mode == "never" and not is_restart():
                _move_aside(plan)
            say(f"run {plan.name}: {' -> '.join(plan.selected)} in {plan.folder}")
            for note in plan.notes:
                say(note)
            stages = preflight(plan, processes)
            check_later_stages(plan, stages)
            ranks.decide("begin", lambda: True)
        else:
            ranks.decide("begin", lambda: True)
            stages = preflight(plan, processes)
        if processes.creates_processes_externally and ranks.by != "sr-train":
            ranks.meet("ready")
        while stages:
            if signals.received is not None:
                raise StoppedError(signal.Signals(signals.received).name, None, signals.received)
            with unchanged_flags():
                run_stage(plan, stages.pop(0), processes, signals, arguments)
        last = next(s for s in reversed(plan.stages) if s.name in plan.selected)
        if last.config["report"] and not is_child():
            write_last_report([plan.folder], plan.folder / FILE)
        say(f"opens in: {opened_by(full_arguments(last.config['model']))}")


def _say_stopped(plan: Plan, stopped: StoppedError, arguments: Sequence[str]) -> None:
    """Print the command that continues the run. In a SLURM job, also requeue the job."""
    command = shlex.join(["sr-train", *(a for a in arguments if a != "resume=never")])
    again = None
    config = plan.stages[0].config
    if stopped.number is not None and stopped.code == 75 and config["requeue"] and not config["check"]:
        again = requeue(plan.folder, {s.name: _newest_step(s.folder) for s in plan.stages})
    say(f"sr-train: {stopped}; {f'{again}; ' if again else ''}continue with: {command}", error=True)


def _newest_step(folder: Path) -> int:
    return next((step for step, _ in list_checkpoints(folder / "checkpoints")), 0)


_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


def _is_broken_connection(error: Exception) -> bool:
    """Return true for an error in the communication with other processes of the run."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and _CONNECTION.search(str(error)) is not None
    )


def _fail(ranks: Ranks, error: Exception) -> NoReturn:
    """Raise an error with the name of its rank.

    If another process has failed before, end this process without a message.
    """
    if ranks.world == 1:
        raise error
    if _is_broken_connection(error):
        lost = ranks.explain_loss()
        if lost is None or not ranks.fail(lost, 1):
            raise SystemExit(1 if ranks.failure is None else int(ranks.failure["code"])) from None
        raise LostRankError(lost) from None
    users = is_users_error(error)
    text, code = explain(error) if users else (f"{type(error).__name__}: {error}", 1)
    if not ranks.fail(text, code):
        raise SystemExit(code) from None
    if ranks.rank == 0 or isinstance(error, LostRankError):
        raise error
    where = f"rank {ranks.rank} on {socket.gethostname()}"
    if not users:
        sys.stderr.write(f"{where}:\n")
        raise error
    raise (UsageError if code == 2 else ValueError)(f"{where}: {text}") from None


def _move_aside(plan: Plan) -> None:
    """Rename the run's folder. If only some stages are selected, rename only the folders of the selected stages."""
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
