"""``sr-train``: every stage of an experiment, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sr_train.cli.main import run
from sr_train.config.folders import files_of
from sr_train.config.help import header
from sr_train.training.run import run_plan

if TYPE_CHECKING:
    from sr_train.config.plan import Plan


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


def train(arguments: list[str]) -> int:
    """Compose all stages, then run those that are open."""
    if not arguments:
        print(list_experiments())
        return 0
    if any(a.split("=")[0] in _HYDRA for a in arguments):
        from sr_train.training.sweep import run_hydra

        return run_hydra(arguments, run_plan)
    from sr_train.config.plan import plan

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


def main() -> None:
    """Entry point of ``sr-train``."""
    run("sr-train", "train", train, show_groups=_GROUPS, options=(*_HYDRA, *_CFG))


if __name__ == "__main__":
    main()
