"""What the commands share: help from the YAML, composing, errors and exit codes. Imports nothing heavy."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from sr_train.configs import conf_folder, groups, near, options_of, ours

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?P<value>[^#]*)(?:# *(?P<comment>.*))?$")
HELP = ("-h", "--help", "help")
VERSION = "--version"
_warned: set[str] = set()  # by the command that is running


def header(path: Path) -> list[str]:
    """The comment lines that a YAML file opens with, without Hydra's ``@package``."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line[1:].removeprefix(" "))
    return lines


def keys_of(path: Path) -> list[tuple[str, str, str]]:
    """(key, default, comment) of every plain key in a command's YAML, in order, nested keys dotted."""
    found, parents = [], []
    in_defaults = False
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _KEY.match(line)
        if line.startswith("defaults:"):
            in_defaults = True
        elif in_defaults and not line.startswith((" ", "-")):
            in_defaults = False
        if match is None or in_defaults:
            continue
        depth = len(match["indent"]) // 2
        parents = [*parents[:depth], match["key"]]
        value = match["value"].strip()
        if (value or match["comment"]) and parents[0] != "hydra":
            found.append((".".join(parents), value, match["comment"] or ""))
    return found


def group_options() -> dict[str, list[str]]:
    """Config groups and their options, by file name."""
    return {group: [o for o in options_of(group) if o != "base"] for group in groups()}


def help_text(command: str, config: str, show_groups: Sequence[str] = ()) -> str:
    """``--help`` of a command, made of its YAML's first comment and its keys."""
    path = conf_folder() / f"{config}.yaml"
    rows = keys_of(path)
    width = max(len(f"{key}={value}") for key, value, _ in rows)
    lines = [f"usage: {command} KEY=VALUE ...", "", *header(path), "", "Keys (KEY=default):"]
    lines += [f"  {f'{key}={value}':<{width}}  {comment}".rstrip() for key, value, comment in rows]
    if show_groups:
        example = next(g for g in ("trainer", *show_groups) if g in show_groups)
        lines += ["", f"Groups (GROUP=OPTION; their keys as GROUP.KEY=VALUE: {command} --help {example}):"]
        lines += [
            f"  {name + '=':<14}{' '.join(options)}" for name, options in group_options().items() if name in show_groups
        ]
    return "\n".join(lines)


def version_text(command: str) -> str:
    """``--version``: the command's and those of what it stands on, read without importing them."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import sr_train

    lines = [f"{command} {sr_train.__version__}"]
    for package in ("torch", "lightning", "hydra-core"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return "\n".join([*lines, f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"])


def check_options(config: str, arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raise UsageError for a word that begins with a dash and is no option of the command."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if not name.startswith("-") or name in known:
            continue
        word = name.lstrip("-").replace("-", "_")
        keys = [key for key, _, _ in keys_of(conf_folder() / f"{config}.yaml")]
        advice = ours(word) if config == "train" else None
        hint = f"; {advice}" if advice else near(name, known) or near(word, [*keys, *groups()])
        options = ", ".join(known)
        raise UsageError(
            f"unknown option {name!r}{hint}; keys are typed without dashes, KEY=VALUE; options are {options}"
        )


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


def fail(command: str, message: str, code: int = 1) -> NoReturn:
    """Say what is wrong and exit."""
    print(f"{command}: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def is_child() -> bool:
    """Whether this process was launched by another rank of the same run."""
    return any(int(os.environ.get(k) or 0) > 0 for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    """Print, once a run: other ranks are silent."""
    if not is_child():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning on standard error, once a command however often it is given; other ranks are silent."""
    if text not in _warned and not is_child():
        print(f"warning: {text}", file=sys.stderr, flush=True)
    _warned.add(text)


def is_users_error(error: Exception) -> bool:
    """Errors that tell a user what to do; others are ours, and show where."""
    hydra = type(error).__module__.partition(".")[0] in ("hydra", "omegaconf")
    return hydra or isinstance(error, (ValueError, OSError, ImportError, MemoryError))


def run(
    command: str,
    config: str,
    work: Callable[[list[str]], int],
    show_groups: Sequence[str] = (),
    options: Sequence[str] = (),
) -> None:
    """Run a command: help, errors of the user in one paragraph (SR_DEBUG=1 shows where), exit codes.

    0 done; 1 failed by what was found: files, folders, networks, devices, a disk; 2 a command line (or a config file) that
    makes no sense by itself: unknown keys, values of the wrong type, out of their range or none of the choices; 130
    interrupted.
    """
    arguments = sys.argv[1:]
    _warned.clear()
    try:
        if any(a in HELP for a in arguments):
            from sr_train.cli.topic import topic_text

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
    except BrokenPipeError:  # the reader of a pipe left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if not is_users_error(error) or os.environ.get("SR_DEBUG"):
            raise
        fail(command, *explain(error, command))


def quote_template(argument: str) -> str:
    """Quote the value of ``KEY=DIR/{stem}_x{scale}``, which Hydra's grammar would take for a mapping."""
    key, _, value = argument.partition("=")
    template = re.match(r"[^\[({'\"]|\{(?:stem|scale)\}", value) and re.search(r"\{(?:stem|scale)\}", value)
    return f"{key}='{value}'" if template and not set(value) & set("'\",[]()") else argument


def explain(error: Exception, command: str = "sr-train") -> tuple[str, int]:
    """Return what a user's error says, and its exit code."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'output'}: the disk is full; make room and run the same command again", 1
    if isinstance(error, ProblemsError):
        return "\n  ".join(["", *error.problems]), error.code
    from sr_train.stages import ConfigError

    if isinstance(error, ConfigError):
        few = f"{command} --help lists the keys"
        return "\n  ".join([*error.problems, few] if len(error.problems) == 1 else ["", *error.problems, few]), 2
    return message_of(error), 2 if isinstance(error, UsageError) else 1


def compose_command(config: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Compose a command's config from ``KEY=VALUE`` arguments to plain values; all errors at once, as ConfigError."""
    from omegaconf import OmegaConf

    from sr_train.stages import ConfigError, compose_config, parse

    arguments = [quote_template(a) for a in arguments]
    defaults = compose_config(config, [])
    base = [str(k) for k in defaults]
    overrides = parse(arguments)
    tops = [o.key_or_group.partition(".")[0] for o in overrides]
    problems = [f"unknown key {t!r}{near(t, [*base, *groups()])}" for t in tops if t not in base and t not in groups()]
    for o in (o for o in overrides if o.is_sweep_override()):
        key, values = o.key_or_group, (o.input_line or "").partition("=")[2]
        one = isinstance(OmegaConf.select(defaults, key), (bool, int, float))
        problems.append(f"{o.input_line}: {'expected one value' if one else f'give a list, {key}=[{values}]'}")
    if problems:
        raise ConfigError(problems)
    composed = compose_config(config, arguments)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError([f"{k} has no value; give {k}=..." for k in missing])
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def listed(scales: Sequence[int]) -> str:
    """[2, 3] -> "x2, x3"."""
    return ", ".join(f"x{s}" for s in scales)


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """Hydra's ``instantiate``, with the constructor's own error instead of Hydra's around it."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(dict(node), **given, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise ValueError(f"{node.get('_target_')}: {error}") from None


def expect(config: Mapping[str, Any], key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """A value of a command's config, checked by type; ``what`` says what was expected."""
    value = config[key]
    if not isinstance(value, kind) or (
        isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else (kind,))
    ):
        from sr_train.stages import ConfigError

        raise ConfigError([f"{key}={value!r}: expected {what}"])
    return value


def arithmetic_of(config: Mapping[str, Any]) -> Any:
    """``arithmetic=`` of bicubic, one of those there are."""
    from sr_train.imresize import check_arithmetic

    try:
        check_arithmetic(config["arithmetic"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config["arithmetic"]


def workers_of(value: Any) -> int:
    """``workers=auto`` (cores of this process) or a number."""
    if value == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        from sr_train.stages import ConfigError

        raise ConfigError([f"workers={value!r}: expected auto or a whole number from 1 on"])
    return value
