"""Errors that the user can correct, and functions that print messages from the process of rank 0 only."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class ConfigError(ValueError):
    """All problems of a command line and its config files. Exit code 2."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


_rank: dict[str, int] = {}  # "own": rank of this process, once it is known

_warned: set[str] = set()  # warnings that the current command has printed


class UsageError(ValueError):
    """A value on the command line or in a config file that is wrong for every content of the user's other files.

    The exit code is 2. Problems found in images, weights and other files have exit code 1.
    """


class ProblemsError(ValueError):
    """All problems found before a run starts.

    Exit code 2 if at least one is a :class:`UsageError`, 1 if all were found in files, networks or devices.
    """

    def __init__(self, problems: Sequence[Exception]) -> None:
        self.errors = list(problems)
        self.problems = list(dict.fromkeys(map(message_of, problems)))
        self.code = 2 if any(isinstance(p, UsageError) for p in problems) else 1
        super().__init__("\n".join(self.problems))


def message_of(error: BaseException) -> str:
    """Return an error's message; ``FILE: REASON`` for an OSError."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        hint = ", but a folder is needed here; give another path" if isinstance(error, FileExistsError) else ""
        return f"{error.filename}: {error.strerror}{hint}"
    return str(error) or type(error).__name__


_REFUSALS = (ValueError, OSError, ImportError, TypeError, RuntimeError, AssertionError, LookupError, AttributeError)


@contextmanager
def collect_error(
    problems: list[Exception], what: str = "", *, usage: bool = False, names_key: bool = True
) -> Iterator[None]:
    """Catch an error inside the ``with`` block, append it to ``problems`` as one line, and continue after the block.

    Args:
        problems: list to append to.
        what: config key of the object that is built. The key is put before messages that do not contain a key.
        usage: true if errors can come only from config values. The errors then have exit code 2. A missing module
            (ImportError) keeps exit code 1.
        names_key: true if the message of every ValueError already contains the config key, as in errors of sr-train's
            classes.
    """
    try:
        yield
    except Exception as error:
        foreign = type(error).__module__.partition(".")[0] in ("lightning", "wandb")
        if isinstance(error, MemoryError) or not (foreign or isinstance(error, _REFUSALS)):
            raise
        if isinstance(error, UsageError) or (names_key and not usage and isinstance(error, (ValueError, OSError))):
            problems += error.errors if isinstance(error, ProblemsError) else [error]
            return
        text = message_of(error)
        if not (names_key and isinstance(error, ValueError)):
            kind = (
                "" if foreign or isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
            )
            text = f"{what}: {kind}{' '.join(text.split())}"
        problems.append((UsageError if usage and not isinstance(error, ImportError) else ValueError)(text))


def set_rank(rank: int) -> None:
    """Set the rank of this process among the processes of its run."""
    _rank["own"] = rank


def is_child() -> bool:
    """Return true in a process of a rank above 0.

    Before :func:`set_rank`, the rank is read from the launcher's variables.
    """
    if "own" in _rank:
        return _rank["own"] > 0
    return any(re.fullmatch(r"0*[1-9]\d*", os.environ.get(k, "")) for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(text: str, *, error: bool = False) -> None:
    """Print a text from rank 0 only: to standard error if ``error`` is true, else to standard output."""
    if not is_child():
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def warn(text: str) -> None:
    """Print a warning to standard error, from rank 0 only. The same text is printed once per command."""
    if text not in _warned:
        say(f"warning: {text}", error=True)
    _warned.add(text)


def forget_warnings() -> None:
    """Let :func:`warn` print all warnings again."""
    _warned.clear()


def is_users_error(error: Exception) -> bool:
    """Return true for an error that the user can fix. Other errors are bugs and are shown with a traceback."""
    hydra = type(error).__module__.partition(".")[0] in ("hydra", "omegaconf")
    return hydra or isinstance(error, (ValueError, OSError, ImportError, MemoryError))


def explain(error: Exception, command: str = "sr-train") -> tuple[str, int]:
    """Return the message of a user's error and its exit code."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'output'}: the disk is full; free some space and run the same command again", 1
    if isinstance(error, ProblemsError):
        return "\n  ".join(["", *error.problems]), error.code

    if isinstance(error, ConfigError):
        few = f"{command} --help lists the keys"
        return "\n  ".join([*error.problems, few] if len(error.problems) == 1 else ["", *error.problems, few]), 2
    return message_of(error), 2 if isinstance(error, UsageError) else 1


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Format a number of things: "1 image", "2 images". ``plural`` is the plural of a noun that does not take an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(scales: Sequence[int]) -> str:
    """Format scales: [2, 3] -> "x2, x3"."""
    return ", ".join(f"x{s}" for s in scales)


def expect(config: Mapping[str, Any], key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """Return a value of a command's config. Raise ConfigError unless the value has the type ``kind``.

    ``what`` describes the expected value in the message.
    """
    value = config[key]
    if not isinstance(value, kind) or (
        isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else (kind,))
    ):
        raise ConfigError([f"{key}={value!r}: expected {what}"])
    return value


def for_shell(argument: str) -> str:
    """Return KEY=VALUE for a message, so that it can be pasted into a shell."""
    plain = re.fullmatch(r"[\w@%+=:,./\[\]-]*", argument, re.ASCII)
    return argument if plain else shlex.quote(argument)
