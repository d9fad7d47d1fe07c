"""Errors of the user, and messages that only one process of a run prints."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ConfigError(ValueError):
    """Everything that is wrong with a command line and the files it composes, at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


_warned: set[str] = set()  # by the command that is running


class UsageError(ValueError):
    """A value that makes no sense whatever the files hold: exit code 2. What is found in files exits with 1."""


class ProblemsError(ValueError):
    """Everything that a start refuses, at once. Exit code 2 where a value is wrong by itself, 1 for what was found only."""

    def __init__(self, problems: Sequence[Exception]) -> None:
        self.problems = list(dict.fromkeys(map(message_of, problems)))
        self.code = 2 if any(isinstance(p, UsageError) for p in problems) else 1
        super().__init__("\n".join(self.problems))


def message_of(error: BaseException) -> str:
    """The message of an error, without Python's frame around that of an OSError."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


_REFUSALS = (ValueError, OSError, ImportError, TypeError, RuntimeError, AssertionError, LookupError, AttributeError)


@contextmanager
def told(problems: list[Exception], what: str = "", *, usage: bool = False, ours: bool = True) -> Iterator[None]:
    """Add what the code inside refuses to ``problems``, as one line, and go on after it.

    Args:
        problems: is extended.
        what: key that is built; stands before messages that do not name it.
        usage: errors come from values alone: exit code 2. A module that is missing never does.
        ours: a ValueError comes from sr-train and names the key itself.
    """
    try:
        yield
    except Exception as error:
        foreign = type(error).__module__.partition(".")[0] in ("lightning", "wandb")
        if isinstance(error, MemoryError) or not (foreign or isinstance(error, _REFUSALS)):
            raise
        if isinstance(error, UsageError) or (ours and not usage and isinstance(error, (ValueError, OSError))):
            problems.append(error)
            return
        text = message_of(error)
        if not (ours and isinstance(error, ValueError)):
            kind = (
                "" if foreign or isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
            )
            text = f"{what}: {kind}{' '.join(text.split())}"
        problems.append((UsageError if usage and not isinstance(error, ImportError) else ValueError)(text))


def is_child() -> bool:
    """Whether this process was launched by another rank of the same run."""
    return any(int(os.environ.get(k) or 0) > 0 for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(text: str, *, error: bool = False) -> None:
    """Print once per run, on standard error with ``error``; other ranks are silent."""
    if not is_child():
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def warn(text: str) -> None:
    """Print a warning on standard error, once a command however often it is given; other ranks are silent."""
    if text not in _warned:
        say(f"warning: {text}", error=True)
    _warned.add(text)


def forget_warnings() -> None:
    """Let :func:`warn` print again what it has printed before."""
    _warned.clear()


def is_users_error(error: Exception) -> bool:
    """Errors that tell a user what to do; others are ours, and show where."""
    hydra = type(error).__module__.partition(".")[0] in ("hydra", "omegaconf")
    return hydra or isinstance(error, (ValueError, OSError, ImportError, MemoryError))


def explain(error: Exception, command: str = "sr-train") -> tuple[str, int]:
    """Return what a user's error says, and its exit code."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'output'}: the disk is full; make room and run the same command again", 1
    if isinstance(error, ProblemsError):
        return "\n  ".join(["", *error.problems]), error.code

    if isinstance(error, ConfigError):
        few = f"{command} --help lists the keys"
        return "\n  ".join([*error.problems, few] if len(error.problems) == 1 else ["", *error.problems, few]), 2
    return message_of(error), 2 if isinstance(error, UsageError) else 1


def listed(scales: Sequence[int]) -> str:
    """[2, 3] -> "x2, x3"."""
    return ", ".join(f"x{s}" for s in scales)
