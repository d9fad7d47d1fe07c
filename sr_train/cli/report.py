"""``sr-report``: write a report of runs as one HTML file."""

from __future__ import annotations

from pathlib import Path

from sr_train.cli.main import run
from sr_train.console import UsageError, expect


def report(arguments: list[str]) -> int:
    """Run ``sr-report``: read the runs' folders and write the page."""
    from sr_train.config.compose import compose_command
    from sr_train.config.paths import matching

    config = compose_command("report", arguments)
    for key, least in (("points", 10), ("pictures", 3), ("every", 1)):
        if expect(config, key, int, f"an integer of at least {least}") < least:
            raise UsageError(f"{key}={config[key]}: expected an integer of at least {least}")
    watched = expect(config, "watch", bool, "true or false")
    given = config["run"]
    items = given if isinstance(given, list) else [] if given is None else [given]
    from sr_train.evaluation.report.write import check_out, newest_run, runs_of, watch, write_report

    found = [[Path(path) for path in matching("run", str(item))] for item in items]
    found = found or [[newest_run(Path(config["paths"]["runs"]))]]
    folders = [run for matches in found for run in runs_of(matches)]
    first = found[0][0] if len(found[0]) == 1 else folders[0]
    out = Path(str(config["out"])) if config["out"] is not None else first / "report.html"
    check_out(out)
    options = {"points": config["points"], "most_steps": config["pictures"]}
    if watched:
        watch(folders, out, every=config["every"], **options)
    else:
        print(write_report(folders, out, **options))
    return 0


def main() -> None:
    """Entry point of ``sr-report``."""
    run("sr-report", "report", report)


if __name__ == "__main__":
    main()
