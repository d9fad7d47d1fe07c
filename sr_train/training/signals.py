"""Signals of a run: SIGTERM, Ctrl-C, SIGUSR1 and SIGUSR2 end the run with a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from sr_train.runs.ranks import Ranks

#: Exit code of a run that was stopped before its end; the same command continues it.
OPEN = 75  # EX_TEMPFAIL of sysexits.h

HANDLED = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, n))

_STUCK = 25.0  # seconds that the main thread may take to react to a signal; SLURM kills a process after 30


class StoppedError(Exception):
    """Exception for a run that was stopped before its end. Nothing that was computed is lost.

    Args:
        by: name of the signal or of the callback that stopped the run.
        step: step of the last checkpoint; None if training had not begun.
        number: number of the signal; None for a callback.
    """

    def __init__(self, by: str, step: int | None, number: int | None = None) -> None:
        self.number = number
        self.step = step
        super().__init__(f"stopped by {by}" + ("" if step is None else f" at step {step}"))

    @property
    def code(self) -> int:
        """Exit code of the command: 130 for Ctrl-C, else 75."""
        return 128 + self.number if self.number == signal.SIGINT else OPEN


class Signals:
    """Handler of a run's signals in the main thread. It replaces the signal handlers of Lightning and of launchers.

    While ``training`` is true, the handler only stores the signal, and the run ends after the current step. Otherwise
    it raises StoppedError at once, because there is nothing to save. A second Ctrl-C always ends the run at once.

    Args:
        ranks: connection to the other processes of the run, to which the signal is reported.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks
        self.training = False
        #: true if the run has ended: SIGTERM, with which srun ends a job's other processes, must not change the exit code
        self.ended = False
        self.agreed: int | None = None  #: signal that all ranks know at the same step, because it has cut a validation
        self._own: int | None = None
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int, int] | None = None  # ends of a pipe, and Python's descriptor before

    @property
    def received(self) -> int | None:
        """Number of the signal that this process or another process of the run has received; None without a signal."""
        return self._own or (None if self.ranks is None else self.ranks.signal)

    def __enter__(self) -> Signals:
        """Install the signal handlers, and watch the main thread.

        Python allows signal handlers in the main thread only.
        """
        self.install()
        if threading.current_thread() is threading.main_thread():
            read, write = os.pipe()
            os.set_blocking(write, False)
            self._pipe = read, write, signal.set_wakeup_fd(write, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(read,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.ended and number == signal.SIGTERM else handler)
        self._before.clear()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._pipe[2])
            os.close(self._pipe[1])  # ends the thread, which closes the other end
            self._pipe = None

    def _watch(self, read: int) -> None:
        """End the process if the main thread does not react to a signal within 25 s.

        Python's signal handlers run in the main thread only. This thread may wait in native code forever, e.g. for
        another rank.
        """
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                deadline = time.monotonic() + _STUCK
                while number[0] in HANDLED and self._own is None and not self.ended and time.monotonic() < deadline:
                    time.sleep(0.05)
                if number[0] in HANDLED and self._own is None and not self.ended and number[0] != signal.SIGINT:
                    name = signal.Signals(number[0]).name
                    sys.stderr.write(
                        f"{name}: training does not react, so this process ends without a new checkpoint\n"
                    )
                    sys.stderr.flush()
                    os._exit(OPEN)

    def install(self) -> None:
        """Install the signal handlers. This is repeated after Lightning has replaced some of them."""
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED:
                before = signal.signal(number, self._receive)
                self._before.setdefault(number, before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self._own is not None or not self.training):
            raise KeyboardInterrupt
        if self.ended:
            return
        self._own = number
        if self.ranks is not None:
            self.ranks.ask_to_stop(number)
        name = signal.Signals(number).name
        if not self.training:
            raise StoppedError(name, None, number)
        sys.stderr.write(f"\n{name}: stopping after this step\n")
