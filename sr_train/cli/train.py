"""``sr-train``: every stage of an experiment, one after the other."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import UsageError, build, header, is_child, run
from sr_train.cli.stage import StoppedError, preflight, run_stage
from sr_train.cli.starts import check_warm_starts
from sr_train.cli.trial import try_network
from sr_train.configs import files_of, groups, search_path

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
_HYDRA = ("-m", "--multirun", "--info", "-i", "-sc", "--shell-completion", "--hydra-help", "--version")


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
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def train(arguments: list[str]) -> int:
    """Compose all stages, then run those that are open."""
    if not arguments:
        print(list_experiments())
        return 0
    if any(a.split("=")[0] in _HYDRA for a in arguments):
        return _hydra(arguments)
    from sr_train.stages import plan

    cfg = [i for i, a in enumerate(arguments) if a.split("=")[0] in ("--cfg", "-c", "--resolve")]
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
    """Run the selected stages of a plan, holding the run's lock."""
    from sr_train.cli import resume
    from sr_train.cli.lock import hold

    mode = composed.stages[0].config["resume"]
    if mode not in ("auto", "force", "never"):
        raise UsageError(f"resume={mode}: choose from auto, force, never")
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
        for stage in composed.stages:
            if stage.name in composed.selected:
                preflight(stage)
                try_network(stage)
                build(stage.config["data"])  # every source is opened before the first stage is trained
        check_warm_starts(composed)
        try:
            for stage in composed.stages:
                if stage.name in composed.selected:
                    run_stage(composed, stage)
        except StoppedError as stopped:
            if not is_child():
                print(f"sr-train: {stopped}; continue with: {command}", file=sys.stderr)
            return 128 + stopped.number
    return 0


def _shortened(name: str, longest: int = 200) -> str:
    """A file's name has 255 bytes at most, and a run's lock and old folders need some of them."""
    if len(name.encode()) <= longest:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{name.encode()[: longest - 9].decode(errors='ignore')}-{digest}"


def _hydra(arguments: list[str]) -> int:
    """Sweeps, shell completion and Hydra's own information, by Hydra."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from sr_train.stages import plan

    # A stage's keys (gan.trainer.max_steps) are in no schema that Hydra knows: they are added.
    known = {*groups(), "validate", "checkpoint", "record", "hydra"}
    argv = [
        f"+{a}" if "." in a.partition("=")[0] and not a.startswith("-") and a.partition(".")[0] not in known else a
        for a in arguments
    ]
    code = 0

    @hydra.main(config_path="pkg://sr_train.conf", config_name="train", version_base="1.3")
    def job(_: Any) -> None:
        nonlocal code
        chosen = HydraConfig.get()
        task = [o.removeprefix("+") for o in chosen.overrides.task]
        if not any(o.startswith("name=") for o in task):
            experiment = next((o.partition("=")[2] for o in task if o.startswith("experiment=")), "run")
            swept = chosen.job.override_dirname.replace("/", "_").replace("+", "") or "default"
            task.append(f"name='{experiment}/{_shortened(swept)}'")
        code = max(code, run_plan(plan(task), task))
        if code > 128:  # a signal ends the sweep, not one job of it
            raise SystemExit(code)

    first = next((i for i, a in enumerate(argv) if "=" in a and not a.startswith("-")), len(argv))
    argv[first:first] = search_path()  # beside the others: argparse takes overrides in one piece
    sys.argv = ["sr-train", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    job()
    return code


def main() -> None:
    """Entry point of ``sr-train``."""
    run("sr-train", "train", train, show_groups=_GROUPS)
