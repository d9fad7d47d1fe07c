"""Code that all commands share: help, errors and exit codes. Imports nothing slow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from sr_train.config.folders import conf_folder, foreign_hint, groups, near, then
from sr_train.config.help import help_text, keys_of
from sr_train.console import UsageError, explain, forget_warnings, is_users_error
from sr_train.runs.openmp import let_threads_sleep

let_threads_sleep()  # before a command imports torch

HELP = ("-h", "--help", "help")

VERSION = "--version"

PACKAGES = (  # whose versions --version prints
    "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "numpy", "opencv-python", "pillow", "lmdb",
    "safetensors", "scikit-image", "tensorboard", "av", "wandb",
)  # fmt: skip


def version_text(command: str) -> str:
    """Return the lines that ``--version`` prints: versions, CPU and GPUs, as a bug report needs them."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import sr_train

    lines = [f"{command} {sr_train.__version__}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} is not installed")
    lines.append(f"Python {platform.python_version()} on {platform.platform()}")
    try:
        from sr_train.devices import hardware

        lines += hardware()
    except (ImportError, OSError, RuntimeError) as error:  # a damaged installation or driver is what a report is about
        lines.append(f"torch does not work: {error}")
    return "\n".join(lines)


def check_options(config: str, arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raise UsageError for an argument that begins with a dash and is not an option of the command."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if not name.startswith("-") or name in known:
            continue
        word = name.lstrip("-").replace("-", "_")
        keys = [key for key, _, _ in keys_of(conf_folder() / f"{config}.yaml")]
        advice = foreign_hint(word) if config == "train" else None
        hint = f"; {advice}" if advice else near(name, known) or near(word, [*keys, *groups()])
        options = ", ".join(known)
        rule = f"keys are typed without dashes, KEY=VALUE; options are {options}"
        raise UsageError(f"unknown option {name!r}{then(hint, rule)}")


def fail(command: str, message: str, code: int = 1) -> NoReturn:
    """Print an error message and exit."""
    print(f"{command}: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def run(
    command: str,
    config: str,
    work: Callable[[list[str]], int],
    show_groups: Sequence[str] = (),
    options: Sequence[str] = (),
) -> None:
    """Run a command, or print its help, and exit. An error that the user can correct is printed without a traceback.

    SR_DEBUG=1 prints tracebacks of all errors. Exit code 0 is success. Exit code 1 is a problem in files, networks or
    devices, or a full disk. Exit code 2 is a wrong command line or config file: an unknown key, or a value of a wrong
    type or range. Exit code 130 means that the user interrupted the command.
    """
    arguments = sys.argv[1:]
    forget_warnings()
    try:
        if any(a in HELP for a in arguments):
            from sr_train.config.help import topic_text

            topics = [a for a in arguments if a not in HELP and "=" not in a and not a.startswith("-")]
            shown = [topic_text(command, config, topic, show_groups) for topic in topics]
            print("\n\n".join(shown) or help_text(command, config, show_groups))
            raise SystemExit(0)
        if VERSION in arguments:
            print(version_text(command))
            raise SystemExit(0)
        check_options(config, arguments, (*HELP[:2], VERSION, *options))
        raise SystemExit(work(arguments))
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the program that reads our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if not is_users_error(error) or os.environ.get("SR_DEBUG"):
            raise
        fail(command, *explain(error, command))


def arithmetic_of(config: Mapping[str, Any]) -> Any:
    """Return the value of ``arithmetic=``: the name of the way to compute LR from HR images (see ``sr_train.resampling``).

    Raise UsageError for an unknown name.
    """
    from sr_train.resampling import check_arithmetic

    try:
        check_arithmetic(config["arithmetic"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config["arithmetic"]


def workers_of(value: Any) -> int:
    """Return the number of threads for the key ``workers=``.

    ``auto`` is the number of cores that this process may use.
    """
    if value == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        from sr_train.console import ConfigError

        raise ConfigError([f"workers={value!r}: expected auto or an integer of at least 1"])
    return value
