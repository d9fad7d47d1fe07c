"""``sr-train``: every stage of an experiment, one after the other."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from sr_train.cli.common import UsageError, header, is_child, run
from sr_train.cli.ends import StoppedError, begin_sitting
from sr_train.cli.preflight import check_stages, unchanged_flags
from sr_train.cli.stage import run_stage
from sr_train.configs import files_of

if TYPE_CHECKING:
    from sr_train.stages import Plan

_GROUPS = (
    "experiment",
    "model",
    "task",
    "optimizer",
    "discriminator",
    "loss",
    "curve",
    "data",
    "sets",
    "trainer",
    "logger",
    "callbacks",
    "paths",
)
_HYDRA = ("-m", "--multirun", "--info", "-i", "-sc", "--shell-completion", "--hydra-help")
_CFG = ("--cfg", "-c", "--resolve")


def list_experiments() -> str:
    """Every experiment with its one line, read from the YAML alone."""
    files = files_of("experiment")
    width = max(len(f.stem) for f in files)
    rows = [f"  {f.stem:<{width}}  {next(iter(header(f)), '')}" for f in files]
    return "\n".join(
        ["usage: sr-train experiment=NAME [KEY=VALUE ...]", "", "Experiments:", *rows, "", "sr-train --help: keys"]
    )


def _quiet() -> None:
    """Lightning's advice is for those who write loops; ours is on screen already."""
    import logging

    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    warnings.filterwarnings("ignore", message=".*is a wrapper class for the backend.*")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("profilers.profiler", "callbacks.model_summary"):  # asked for by the user, who gets their tables there
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def train(arguments: list[str]) -> int:
    """Compose all stages, then run those that are open."""
    if not arguments:
        print(list_experiments())
        return 0
    if any(a.split("=")[0] in _HYDRA for a in arguments):
        from sr_train.cli.sweep import run_hydra

        return run_hydra(arguments, run_plan)
    from sr_train.stages import plan

    cfg = [i for i, a in enumerate(arguments) if a.split("=")[0] in _CFG]
    if cfg:
        rest = [a for i, a in enumerate(arguments) if i not in cfg and not (i - 1 in cfg and a in ("job", "all"))]
        _print_config(plan(rest))
        return 0
    return run_plan(plan(arguments), arguments)


def _print_config(composed: Plan) -> None:
    from omegaconf import OmegaConf

    for stage in composed.stages:
        if stage.name in composed.selected:
            print(f"# stage {stage.name}\n{OmegaConf.to_yaml(OmegaConf.create(stage.config))}")


def run_plan(composed: Plan, arguments: Sequence[str]) -> int:
    """Run the selected stages of a plan, holding the run's lock; returns the exit code.

    0 where all are finished; 128 + the signal where one ended it; 75 where a stage was left open otherwise, see
    :class:`sr_train.callbacks.Stop`.
    """
    from sr_train.cli import resume
    from sr_train.cli.lock import hold

    mode = composed.stages[0].config["resume"]
    if mode not in ("auto", "force", "never"):
        raise UsageError(f"resume={mode}: choose from auto, force, never")
    begin_sitting()
    command = shlex.join(["sr-train", *arguments])
    _quiet()
    if composed.stages[0].config["check"]:
        from sr_train.cli.check import check_plan

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


def main() -> None:
    """Entry point of ``sr-train``."""
    run("sr-train", "train", train, show_groups=_GROUPS, options=(*_HYDRA, *_CFG))


if __name__ == "__main__":
    main()
