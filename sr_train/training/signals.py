"""Signals of a run: SIGTERM, Ctrl-C, SIGUSR1 and SIGUSR2 end it with a checkpoint."""

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
    """Signal that a run stopped before its end; nothing that was computed is lost.

    Args:
        by: name of the signal or the callback.
        step: step of the checkpoint; None if no training had begun.
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
    """Handler of a run's signals in the main thread. It replaces those of Lightning and of launchers.

    While ``training`` is true, a signal is only noted, and the run ends after the step. Otherwise StoppedError is raised at
    once, because there is nothing to save. A second Ctrl-C always ends the run at once.

    Args:
        ranks: processes of the run; all of them are told about the signal.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks
        self.training = False
        #: the run has ended: SIGTERM of srun, which ends the rest of a job, must not change the exit code
        self.ended = False
        self.agreed: int | None = None  #: signal that all ranks know at the same step, because it has cut a validation
        self._own: int | None = None
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int, int] | None = None  # ends of a pipe, and Python's descriptor before

    @property
    def received(self) -> int | None:
        """Signal that this process or another one of the run has received."""
        return self._own or (None if self.ranks is None else self.ranks.signal)

    def __enter__(self) -> Signals:
        """Install the handlers; outside of the main thread Python allows none."""
        self.install()
        if threading.current_thread() is threading.main_thread():
            read, write = os.pipe()
            os.set_blocking(write, False)
            self._pipe = read, write, signal.set_wakeup_fd(write, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(read,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.ended and number == signal.SIGTERM else handler)
        self._before.clear()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._pipe[2])
            os.close(self._pipe[1])  # ends the thread, which closes the other end
            self._pipe = None

    def _watch(self, read: int) -> None:
        """End the process if the main thread does not react to a signal.

        Python's handlers run in the main thread only. It may wait in native code for ever, e.g. for another rank that hangs.
        """
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                deadline = time.monotonic() + _STUCK
                while number[0] in HANDLED and self._own is None and not self.ended and time.monotonic() < deadline:
                    time.sleep(0.05)
                if number[0] in HANDLED and self._own is None and not self.ended and number[0] != signal.SIGINT:
                    name = signal.Signals(number[0]).name
                    sys.stderr.write(f"{name}: training does not react, so it ends without a new checkpoint\n")
                    sys.stderr.flush()
                    os._exit(OPEN)

    def install(self) -> None:
        """Install the handlers again, because Lightning has replaced some of them."""
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
