"""``sr-train``: train all stages of an experiment, one after the other."""

from __future__ import annotations

from sr_train.cli.main import run
from sr_train.config.folders import files_of
from sr_train.config.help import header
from sr_train.runs.launch import find_launch

_GROUPS = (
    "experiment", "model", "task", "optimizer", "discriminator", "loss", "adversarial", "curve", "data", "degrade", "sets",
    "trainer",
    "logger", "callbacks", "paths", "launcher",
)  # fmt: skip

_SWEEP = ("-m", "--multirun")

_HYDRA = (*_SWEEP, "--info", "-i", "-sc", "--shell-completion", "--hydra-help")

_CFG = ("--cfg", "-c", "--resolve")


def list_experiments() -> str:
    """Return a list of all experiments with their titles, read from the YAML files."""
    files = files_of("experiment")
    width = max(len(f.stem) for f in files)
    rows = [f"  {f.stem:<{width}}  {next(iter(header(f)), '')}" for f in files]
    return "\n".join(
        ["usage: sr-train experiment=NAME [KEY=VALUE ...]", "", "Experiments:", *rows, "", "sr-train --help: keys"]
    )


def train(arguments: list[str]) -> int:
    """Run ``sr-train``: compose all stages, then train those that are not finished."""
    options = {a.split("=")[0] for a in arguments}
    if not arguments:
        print(list_experiments())
        return 0
    if options.intersection(_SWEEP):
        return _sweep(arguments)
    if options.intersection(_HYDRA):
        from sr_train.config.sweep import show_hydra

        show_hydra(arguments)
        return 0
    if options.intersection(_CFG):
        print(_config_text(arguments))
        return 0
    from sr_train.config.launcher import split_launcher
    from sr_train.config.plan import plan

    launcher, arguments = split_launcher(arguments)
    if launcher is not None:
        from sr_train.runs.slurm_job import Jobs

        return Jobs(launcher).submit(plan(arguments), arguments).finish()
    find_launch()  # before Lightning is imported, which reads the same variables
    composed = plan(arguments)
    from sr_train.training.run import run_plan

    return run_plan(composed, arguments).code


def _sweep(arguments: list[str]) -> int:
    from sr_train.config.launcher import split_launcher
    from sr_train.config.sweep import run_sweep

    launcher, arguments = split_launcher(arguments)
    if launcher is not None:
        from sr_train.runs.slurm_job import Jobs

        jobs = Jobs(launcher)
        run_sweep(arguments, jobs.add)
        return jobs.finish()
    find_launch()
    from sr_train.training.run import run_plan
    from sr_train.training.sweep import SweepTable

    table = SweepTable(run_plan)
    run_sweep(arguments, table.run)
    return table.finish()


def _config_text(arguments: list[str]) -> str:
    """Return the composed config of every selected stage as YAML."""
    from omegaconf import OmegaConf

    from sr_train.config.plan import plan

    cfg = [i for i, a in enumerate(arguments) if a.split("=")[0] in _CFG]
    rest = [a for i, a in enumerate(arguments) if i not in cfg and not (i - 1 in cfg and a in ("job", "all"))]
    composed = plan(rest)
    chosen = [stage for stage in composed.stages if stage.name in composed.selected]
    return "\n".join(f"# stage {s.name}\n{OmegaConf.to_yaml(OmegaConf.create(dict(s.config)))}" for s in chosen)


def main() -> None:
    """Entry point of ``sr-train``."""
    run("sr-train", "train", train, show_groups=_GROUPS, options=(*_HYDRA, *_CFG))


if __name__ == "__main__":
    main()
