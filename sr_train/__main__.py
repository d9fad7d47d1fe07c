"""Entry point of ``python -m sr_train COMMAND ...``, which runs the seven commands: sr-train, sr-eval, sr-prepare, ...

This entry point also works if the folder of the installed commands is not on PATH.
"""

from __future__ import annotations

import runpy
import sys

COMMANDS = {  # name of the command without "sr-" -> module of sr_train.cli
    "train": "train",
    "eval": "evaluate",
    "prepare": "prepare",
    "upscale": "upscale",
    "interp": "interp",
    "convert": "convert",
    "report": "report",
}


def main() -> None:
    """Run the command that the first argument names."""
    from sr_train.cli.main import HELP, VERSION, fail, version_text
    from sr_train.config.folders import near, then

    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in HELP:
        listed = "\n".join(f"  {c:<9}as sr-{c}" for c in COMMANDS)
        print(f"usage: python -m sr_train COMMAND KEY=VALUE ...\n\nCommands (each has --help):\n{listed}")  # noqa: T201
        return
    if name == VERSION:
        print(version_text("sr-train"))  # noqa: T201
        return
    known = {**COMMANDS, **{f"sr-{c}": module for c, module in COMMANDS.items()}, "evaluate": "evaluate"}
    if name not in known:
        choices = ", ".join(COMMANDS)
        hint = then(near(name, list(COMMANDS)), f"choose from {choices}")
        fail("sr_train", f"{name!r} is not a command{hint}", 2)
    del sys.argv[1]
    # alter_sys: Lightning starts the processes of the other ranks from the module's own name
    runpy.run_module(f"sr_train.cli.{known[name]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
