"""Sweeps (``sr-train -m``) and Hydra's options such as ``--info``.

A job is an ordinary run with its own folder below the sweep's name. Hydra chooses the values of each job. Before the first
job starts, :func:`sr_train.config.plan.plan` checks every key and value of all jobs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override

from sr_train.config.compose import parse
from sr_train.config.folders import foreign_hint, groups, options_of, search_path
from sr_train.config.overrides import NESTED
from sr_train.config.paths import quote_paths, unquoted
from sr_train.config.plan import Plan, plan
from sr_train.console import ConfigError, say

_TYPED = "typed."  # prefix for keys that Hydra must not read as a choice of a config group

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

_SIMPLE = re.compile(r"[^A-Za-z0-9._-]+")  # characters that need quotes on a command line


def show_hydra(arguments: Sequence[str]) -> None:
    """Let Hydra print the information that its own options request."""
    _run_hydra(sys.argv[0], arguments, quote_paths("train", arguments), lambda: 0.0)  # runs no job


def run_sweep(arguments: Sequence[str], work: Callable[[Job], float]) -> None:
    """Let Hydra call ``work`` for each job of a command line with ``-m``. ``work`` returns the job's score.

    Raise ConfigError if a job's config has problems. The error lists the problems of all jobs. Only the jobs of Hydra's
    basic sweeper are checked.
    """
    sweep = Sweep(sys.argv[0], arguments)
    _run_hydra(sweep.program, arguments, sweep.argv, lambda: work(sweep.job()))


def _run_hydra(program: str, arguments: Sequence[str], given: Sequence[str], work: Callable[[], float]) -> None:
    @hydra.main(config_path="pkg://sr_train.conf", config_name="train", version_base="1.3")
    def job(_: Any) -> float:
        return work()

    argv = list(given)
    first = next((i for i, a in enumerate(argv) if "=" in a and not a.startswith("-")), len(argv))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with tempfile.TemporaryDirectory(prefix="sr-train-") as folder:
        # Hydra's multirun.yaml and folders are not needed, so they go to a temporary folder. Other launchers need them.
        own = [] if any(a.startswith("hydra/launcher=") for a in argv) else [f"hydra.sweep.dir={json.dumps(folder)}"]
        # before the first override, because argparse accepts overrides in one block only
        argv[first:first] = [*search_path(), *own]
        sys.argv = [program, *argv]
        try:
            with _lazy_help_texts():
                job()
        finally:
            sys.argv = [program, *arguments]
        for found in Path(folder).glob("optimization_results.yaml"):  # written by sweepers that optimize
            say(f"result of the sweep:\n{found.read_text().replace('++', '').replace(_TYPED, '').rstrip()}")


@contextmanager
def _lazy_help_texts() -> Iterator[None]:
    """Let argparse accept help texts that are no strings.

    Hydra 1.3 has such a text, and argparse of Python 3.14 refuses it.
    """
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None:  # Python 3.13 and earlier
        yield
        return
    argparse.ArgumentParser._check_help = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        argparse.ArgumentParser._check_help = check  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Job:
    """One job of a sweep."""

    program: str  #: path of this program, for processes that Lightning launches
    arguments: list[str]  #: arguments of the job
    unnamed: bool  #: the user gave the sweep no name
    sweeper: Mapping[str, Any] | None  #: config of a sweeper that uses the scores; None for Hydra's basic sweeper

    @property
    def name(self) -> str:
        """Name of the job's run."""
        return self.arguments[-1].partition("=")[2]

    def compose(self) -> Plan:
        """Compose the configs of the job. A job that an earlier version of sr-train started keeps its old name."""
        composed = plan(self.arguments)
        older = _older(composed, self.arguments) if self.unnamed else None
        if older is None:
            return composed
        self.arguments[-1] = f"name={older}"
        return plan(self.arguments)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Set ``sys.argv`` to the job's own command line and hide Hydra's config, inside the ``with`` block.

        Lightning uses ``sys.argv`` or Hydra's config to start the processes of the other ranks. Without this change,
        each of these processes would run the whole sweep.
        """
        argv, config = sys.argv, HydraConfig.instance().cfg
        sys.argv, HydraConfig.instance().cfg = [self.program, *self.arguments], None
        try:
            yield
        finally:
            sys.argv, HydraConfig.instance().cfg = argv, config


class Sweep:
    """The command line of a sweep for Hydra, and the jobs that Hydra makes from this command line.

    Args:
        program: path of this program.
        arguments: arguments of the command line.

    Raises:
        ConfigError: a job's config has problems. The error lists the problems of all jobs. Only jobs of Hydra's basic
            sweeper are checked.
    """

    def __init__(self, program: str, arguments: Sequence[str]) -> None:
        self.program = program
        typed = [a for a in arguments if "=" in a and not a.startswith("-")]
        overrides = parse(typed, sweep=True)
        keys = [o.key_or_group for o in overrides]
        problems = [
            f"{k}: {foreign_hint(k)}"
            for k in keys
            if k.startswith("hydra.") and foreign_hint(k) != foreign_hint("hydra")
        ]
        problems += [f"~{o.key_or_group}: keys cannot be deleted" for o in overrides if o.is_delete()]
        if problems:
            raise ConfigError(problems)
        self.unnamed = "name" not in keys
        self.fixed = {o.key_or_group for o in overrides if not o.is_sweep_override()}
        given = dict(zip(typed, (_given(o) for o in overrides), strict=True))
        self.argv = [given.get(a, a) for a in arguments]
        self._check([o for o in given.values() if not o.startswith("hydra")], keys)

    def _check(self, given: Sequence[str], keys: Sequence[str]) -> None:
        """Compose every job that Hydra's basic sweeper will make.

        If there are problems, raise one ConfigError that lists all.
        """
        overrides = parse(given, command=None)
        if any(k.startswith("hydra") for k in keys) or not all(_is_discrete(o) for o in overrides):
            return
        problems: list[str] = []
        names: list[str] = []
        for (*texts,) in BasicSweeper.split_arguments(overrides, None)[0]:
            try:
                names.append(plan(self.arguments(texts)).name)
            except ConfigError as error:
                problems += error.problems
        problems += [
            f"name={n}: two jobs would have this name" for n in sorted({n for n in names if names.count(n) > 1})
        ]
        if problems:
            raise ConfigError(problems)

    def arguments(self, overrides: Sequence[str]) -> list[str]:
        """Convert the overrides that Hydra passes to a job to KEY=VALUE arguments as a user types them."""
        task = [o.lstrip("+").removeprefix(_TYPED) for o in overrides]
        kept = [unquoted("train", t) for t in task if not t.startswith("name=")]
        return [*kept, f"name={self.name(task)}"]

    def name(self, task: Sequence[str]) -> str:
        """Return a job's name: the sweep's name and the swept values, in characters that need no quotes."""
        values = {key: value for key, _, value in (text.partition("=") for text in task)}
        given = unquoted("train", f"name={values['name']}").partition("=")[2] if "name" in values else None
        name = values.get("experiment", "run").strip("'\"") if given is None else given
        shown = {"name", "resume"} if "name" in values else {"name", "resume", "experiment"}
        swept = [_word(key, value) for key, value in values.items() if key not in self.fixed | shown]
        if not swept:
            return name if "name" in values else f"{name}/default"
        return f"{name}/{shortened('+'.join(swept))}"

    def job(self) -> Job:
        """Return the job that Hydra is running."""
        chosen = HydraConfig.get()
        sweeper = None if str(chosen.sweeper.get("_target_")) == _BASIC else chosen.sweeper
        arguments = self.arguments(list(chosen.overrides.task))
        return Job(self.program, arguments, self.unnamed, sweeper)


def _is_discrete(override: Override) -> bool:
    return not override.is_sweep_override() or override.is_discrete_sweep()


def _given(override: Override) -> str:
    """Return an override in a syntax that Hydra accepts for every key: ``++KEY=VALUE`` adds unknown keys."""
    key, text = override.key_or_group, (override.input_line or "").partition("=")[2]
    group = key.rpartition(".")[2]
    if key.startswith("hydra"):
        return override.input_line or ""
    if override.is_sweep_override() and hasattr(override._value, "filter"):  # glob(edsr*)
        text = ",".join(override._value.filter(options_of(group)))  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    if key == "name" and not override.is_sweep_override():
        return f"name={text}"
    if key not in groups():
        return f"++{key}={text}"
    plain = override.is_sweep_override() or isinstance(override.value(), (str, list))
    return f"{key}={text}" if plain and key not in NESTED else f"++{_TYPED}{key}={text}"


def _word(key: str, value: str) -> str:
    """Return KEY-VALUE in characters that need no quotes. If characters were replaced, a digest of the value is appended."""
    simple = _SIMPLE.sub("-", value.strip("'\"[]{}"))
    digest = hashlib.blake2b(value.encode(), digest_size=3).hexdigest()
    return f"{key}-{simple}" if simple == value else f"{key}-{simple}-{digest}"


def shortened(name: str, longest: int = 200) -> str:
    """Return a name with at most ``longest`` bytes: file names have at most 255, and lock files add a suffix."""
    if len(name.encode()) <= longest:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{name.encode()[: longest - 9].decode(errors='ignore')}-{digest}"


def _older(composed: Plan, arguments: Sequence[str]) -> str | None:
    """Return the name that sr-train 0.1.0 gave to a job, if a run with this name exists and no run with the new name.

    The old name contains all typed arguments, first the arguments ``STAGE.KEY=VALUE``. Return None in all other cases.
    """
    known = {*groups(), "validate", "checkpoint", "record"}
    typed = [a for a in arguments if a.partition("=")[0] not in ("experiment", "name", "resume")]
    added = [a for a in typed if "." in a.partition("=")[0] and a.partition(".")[0] not in known]
    swept = ",".join([*sorted(added), *sorted(set(typed) - set(added))]).replace("/", "_").replace("+", "")
    old = f"{composed.name.partition('/')[0]}/{shortened(swept or 'default')}"
    runs = composed.folder.parents[composed.name.count("/")]
    return old if (runs / old).exists() and not composed.folder.exists() else None
