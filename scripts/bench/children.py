"""Processes that a script starts, and that end with the script, also if a signal ends it.

A child leads its own process group. The groups are killed when the script ends, by itself, by an error or by SIGTERM, SIGINT
or SIGHUP. On Linux, the kernel also kills the children if the script is killed by SIGKILL; processes that they have started,
such as a loader's workers, look for their parent every few seconds.

This file does not import sr_train, because peer.py imports it with BasicSR's Python.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # SIGINT raises KeyboardInterrupt, so the script ends by itself
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_started: list[subprocess.Popen[Any]] = []


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a child with the options of ``subprocess.Popen``."""
    if not _started:
        atexit.register(end_all)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL or (
                    number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN  # of the parent
                ):
                    signal.signal(number, _end)
    parent = os.getpid()

    def follow() -> None:  # in the child, before the program
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the script has ended meanwhile
                os._exit(1)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child is known to _end
    try:
        # follow() takes no lock, so it is safe with threads
        process = subprocess.Popen(list(command), start_new_session=True, preexec_fn=follow, **options)  # noqa: PLW1509
        _started[:] = [p for p in _started if p.returncode is None]
        _started.append(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def run_child(
    command: Sequence[str], *, check: bool = False, capture_output: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a child to its end, as ``subprocess.run``."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start_child(command, **options)
    try:
        output, errors = process.communicate()
    finally:
        end(process)
    done = subprocess.CompletedProcess(list(command), process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a child with its process group, unless it has ended."""
    if process.poll() is None:
        _kill(process)
        process.wait()


def end_all() -> None:
    """Kill all children of this script."""
    for process in _started:
        end(process)


def _end(number: int, frame: FrameType | None) -> None:
    """Kill the children and end the script. Its blocks ``finally`` are run, and wait for the children."""
    for process in _started:  # no call of wait(), whose lock the interrupted code may hold
        if process.returncode is None:
            _kill(process)
    raise SystemExit(128 + number)


def _kill(process: subprocess.Popen[Any]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
