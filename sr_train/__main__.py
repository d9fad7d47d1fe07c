"""``python -m sr_train COMMAND ...``: the six commands, where the scripts of the installation are not at hand."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {  # modules of sr_train.cli, by the name of the command without "sr-"
    "train": "train",
    "eval": "evaluate",
    "prepare": "prepare",
    "upscale": "upscale",
    "interp": "interp",
    "convert": "convert",
}


def main() -> None:
    """Run the command that is named first."""
    from sr_train.cli.main import HELP, VERSION, fail, version_text
    from sr_train.config.folders import near

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
        fail("sr_train", f"{name!r} is no command{near(name, list(COMMANDS))}; choose from {choices}", 2)
    del sys.argv[1]
    # Under the module's own name: processes that Lightning launches for other ranks are started by it.
    runpy.run_module(f"sr_train.cli.{known[name]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
