"""Messages between the processes of a run: decisions of rank 0, failures, signals, and what each process is doing.

All messages go through torch's TCPStore, a small table of keys and values in the process of rank 0 (or in torchrun's
agent). The table works before the process group of the GPUs exists, and while an operation of this group waits. So no
process waits forever for a process that has failed. A beat (heartbeat) is a message that a process writes to the table
every 0.5 s: its step and what it does.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from sr_train.runs.launch import Launch

BEAT = 0.5  # seconds between two beats of a process

_LOST = 8 * BEAT  # seconds without a beat after which a process counts as ended, once an operation with it has failed

SILENCE = 60.0  # seconds without a step after which rank 0 prints what the processes do

_NOTICE = 3.0  # seconds that a process that has failed waits for the others to notice

_GRACE = 5.0  # seconds that a process has to end by itself after another one has failed


class LostRankError(ValueError):
    """Error for a process that has ended without a message, e.g. by kill -9."""


class FailedElsewhereError(Exception):
    """Signal that another process has failed and has printed its error; ``code`` is the exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"another process of the run has failed with exit code {code}")


class Ranks:
    """Connection of this process to the other processes of a run. In a run with one process, nothing is sent.

    Args:
        launch: place of this process among the processes of the run.
        world: number of processes, including processes that rank 0 has not started yet.
        timeout: seconds that a process waits until the other processes begin.
    """

    def __init__(self, launch: Launch, world: int = 1, *, timeout: float = 1800.0) -> None:
        self.rank, self.world, self.timeout = launch.rank, world, timeout
        self.host, self.port, self.by = launch.address, launch.port, launch.by
        self.signal: int | None = None  #: signal that another process has received
        self.failure: dict[str, Any] | None = None  #: message and exit code of the process that failed first
        self._launch = launch
        self._asked: int | None = None  # signal that this process has received
        self._doing, self._step, self._since = "starts", -1, time.monotonic()
        self._decided = 0
        self._told = SILENCE
        self._seen: dict[int, tuple[str, float]] = {}  # newest beat of each rank, and when this process saw it first
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Store | None = self._connect(first=True) if world > 1 else None

    # -- begin and end --------------------------------------------------------------------------------------------

    def _connect(self, *, first: bool = False) -> Store:
        launch = self._launch
        serves = launch.rank == 0 and not launch.served and first
        try:
            # Lightning's own connection uses the same port: torch lets both share one server in the process of rank 0.
            store = TCPStore(
                self.host, self.port, is_master=serves, multi_tenant=True, timeout=timedelta(seconds=self.timeout),
                wait_for_workers=False,
            )  # fmt: skip
        except (RuntimeError, TimeoutError) as error:
            first_line = (str(error).splitlines() or [""])[0][:200]
            raise LostRankError(
                f"rank {launch.rank} cannot reach rank 0 at {self.host}:{self.port} ({first_line}); rank 0 may have failed, or "
                "a firewall separates the nodes; MASTER_ADDR and MASTER_PORT select another address"
            ) from None
        self.port = store.port
        return PrefixStore(f"sr_train/{launch.attempt}", store)

    def start(self) -> None:
        """Start a thread that sends the heartbeats of this process, and watches signals and failures of the other processes."""
        self._beat(self._store)
        self._thread = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Stop the exchange of messages. Rank 0 waits until the other processes no longer need the table of messages.

        The process that fails first waits up to 3 s until the other processes have read its exit code. Otherwise srun
        would end them by SIGTERM as soon as the failed process ends, and they would exit with another code.
        """
        first = self.failure is not None and self.failure.get("rank") == self.rank
        if self._store is not None:
            try:
                self._store.set(f"done/{self.rank}", "1")
                if first or (self.rank == 0 and self.failure is None):
                    self._wait_for_the_others(self._store, _NOTICE if first else 30.0)
            except RuntimeError:  # the connection is gone, and with it the others
                pass
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5)
        if self.failure is not None and self.world > 1:
            _guard_exit(int(self.failure["code"]))

    def _wait_for_the_others(self, store: Store, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        others = [r for r in range(self.world) if r != self.rank and store.check([f"beat/{r}"])]
        while time.monotonic() < deadline and not all(store.check([f"done/{r}"]) for r in others):
            time.sleep(0.05)

    # -- decisions ------------------------------------------------------------------------------------------------

    def decide(self, what: str, make: Callable[[], Any]) -> Any:
        """Call ``make`` on rank 0, and return its result, a plain value, on every rank.

        All ranks must make the same decisions in the same order; ``what`` is the name of the decision. Raise
        FailedElsewhereError if rank 0 has failed.
        """
        if self._store is None:
            return make()
        key, self._decided = f"decision/{self._decided}", self._decided + 1
        if self.rank == 0:
            value = make()
            self._store.set(key, json.dumps({"what": what, "value": value}))
            return value
        found = json.loads(self._read(key))
        if found["what"] != what:
            raise RuntimeError(
                f"rank {self.rank} waits for the decision {what!r}, but rank 0 has sent the decision {found['what']!r}: "
                "the ranks do not run the same code and config"
            )
        return found["value"]

    def _read(self, key: str) -> bytes:
        """Wait until another process has written a key to the table of messages, and return the value."""
        assert self._store is not None
        while True:
            self.check()
            try:
                if self._store.check([key]):
                    return self._store.get(key)
            except RuntimeError:
                raise self._lost_rank_0() from None
            time.sleep(0.05)

    # -- failures -------------------------------------------------------------------------------------------------

    def fail(self, message: str, code: int) -> bool:
        """Report to all processes that this process has failed. Return false if another process has failed before."""
        if self._store is None:
            return True
        mine = {"rank": self.rank, "host": socket.gethostname(), "message": message, "code": code, "id": os.getpid()}
        try:
            found = json.loads(self._store.compare_set("failure", "", json.dumps(mine)) or b"{}")
        except RuntimeError:
            found = mine
        self.failure = found or mine
        return self.failure == mine

    def lose(self, message: str) -> None:
        """Print that a process has ended without a message, and report it to all processes; do nothing after a failure."""
        if self.failure is None and not self._ended.is_set() and self.fail(message, 1):
            sys.stderr.write(f"sr-train: error: {message}\n")

    def meet(self, what: str) -> None:
        """Wait until all processes have called this with the same ``what``.

        Raise LostRankError that lists the processes that have not called this within the timeout.
        """
        if self._store is None:
            return
        self._store.set(f"{what}/{self.rank}", "1")
        deadline = time.monotonic() + self.timeout
        missing = list(range(self.world))
        while missing:
            self.check()
            try:
                missing = [r for r in missing if not self._store.check([f"{what}/{r}"])]
            except RuntimeError:
                raise self._lost_rank_0() from None
            if missing and time.monotonic() > deadline:
                raise LostRankError(
                    f"{_ranks(missing)} did not begin within {self.timeout:.0f} s; see the launcher's output for errors of "
                    "these processes; trainer.timeout=SECONDS waits longer"
                )
            time.sleep(0.05 if missing else 0)

    def check(self) -> None:
        """Raise FailedElsewhereError if another process has failed."""
        if self.failure is not None:
            raise FailedElsewhereError(int(self.failure["code"]))

    def explain_loss(self) -> str | None:
        """Return the message for an operation that failed because a process ended; None if the process reported its error."""
        deadline = time.monotonic() + 2 * _LOST
        while time.monotonic() < deadline and self.failure is None:
            try:
                silent = self.silent()
            except RuntimeError:
                return str(self._lost_rank_0()) if self.rank == 1 else None
            if silent:
                return f"{_ranks(silent)} ended without a message: killed, out of memory, or the node was lost"
            time.sleep(BEAT / 4)
        return None if self.failure is not None else "the connection between the processes of the run broke"

    def silent(self) -> list[int]:
        """Return the ranks that have sent heartbeats before, but have sent none for 4 s."""
        assert self._store is not None
        beats = {r: self._read_beat(self._store, r) for r in range(self.world) if r != self.rank}
        return [r for r, beat in beats.items() if beat is not None and beat["age"] > _LOST]

    def _lost_rank_0(self) -> LostRankError:
        return LostRankError("rank 0 ended without a message: killed, out of memory, or the node was lost")

    # -- signals --------------------------------------------------------------------------------------------------

    def ask_to_stop(self, number: int) -> None:
        """Report a signal of this process to the other processes. A signal handler may call this method."""
        self._asked = number

    # -- beats ----------------------------------------------------------------------------------------------------

    def doing(self, what: str, step: int | None = None) -> None:
        """Store what this process does, e.g. "waits for data", and the last finished step, for the next heartbeat."""
        self._doing = what
        self._since = time.monotonic()
        if step is not None:
            self._step, self._told = step, SILENCE

    def pause(self) -> None:
        """Do not print "no step for N s" until the next step has been finished, e.g. during a validation."""
        self._step = -1

    def _beat(self, store: Store | None) -> None:
        if store is None:
            return
        busy = time.monotonic() - self._since
        content = {
            "step": self._step,
            "doing": self._doing,
            "for": busy,
            "host": socket.gethostname(),
            "now": time.time(),
        }
        store.set(f"beat/{self.rank}", json.dumps(content))

    def _read_beat(self, store: Store, rank: int) -> dict[str, Any] | None:
        """Return a rank's newest heartbeat and its age in seconds by this process's clock; None before the first one."""
        if not store.check([f"beat/{rank}"]):
            return None
        text = store.get(f"beat/{rank}").decode()
        seen, since = self._seen.get(rank, ("", 0.0))
        if seen != text:
            since = time.monotonic()
            self._seen[rank] = (text, since)
        return {**json.loads(text), "age": time.monotonic() - since}

    def _watch(self) -> None:
        """Send heartbeats of this process, and read signals and failures of other processes, until the run ends."""
        store = None if self._store is None else self._connect()
        failed_at: float | None = None
        while not self._ended.wait(BEAT):
            try:
                if store is not None:
                    self._exchange(store)
                self._break_silence(store)
            except RuntimeError:  # rank 0 is gone
                self.failure = self.failure or {"code": 1, "rank": 0}
            if self.failure is not None:
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > _GRACE:  # the main thread waits for a process that has failed
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(int(self.failure["code"]))

    def _exchange(self, store: Store) -> None:
        self._beat(store)
        for rank in range(self.world) if self.rank == 0 else ():
            self._read_beat(store, rank)
        if self._asked is not None:
            store.set("signal", str(self._asked))
        if self.signal is None and store.check(["signal"]):
            self.signal = int(store.get("signal"))
        if self.failure is None and store.check(["failure"]):
            self.failure = json.loads(store.get("failure"))

    def _break_silence(self, store: Store | None) -> None:
        """Print on rank 0 what every process does, after 60 s without a step, and again after 120 s, 240 s, ..."""
        quiet = time.monotonic() - self._since
        if self.rank != 0 or self._step < 0 or quiet < self._told:
            return
        self._told *= 2
        beats = {0: {"step": self._step, "doing": self._doing, "for": quiet, "age": 0.0, "host": socket.gethostname()}}
        for rank in range(1, self.world) if store is not None else ():
            beat = self._read_beat(store, rank)  # pyright: ignore[reportArgumentType]
            beats[rank] = beat or {"step": -1, "doing": "has not begun", "for": quiet, "age": 0.0, "host": "?"}
        sys.stderr.write(f"no step for {quiet:.0f} s: {describe_beats(beats)}\n")


def _guard_exit(code: int) -> None:
    """End this process at most 5 s after it begins to exit, because NCCL may wait forever for processes that have ended."""
    exiting = threading.Event()

    def wait() -> None:
        exiting.wait()
        time.sleep(_GRACE)
        os._exit(code)

    threading.Thread(target=wait, name="exit", daemon=True).start()
    atexit.register(exiting.set)


def describe_beats(beats: dict[int, dict[str, Any]]) -> str:
    """Return one line on all heartbeats: what slow and lost ranks do, and the number of ranks that wait for them."""
    if len(beats) == 1:
        return f"{beats[0]['doing']} (after step {beats[0]['step']})"
    lost = {r: b for r, b in beats.items() if b["age"] > 10 * BEAT}
    late = min(b["step"] for b in beats.values())
    behind = {r: b for r, b in beats.items() if b["step"] == late or r in lost}
    groups: dict[str, list[int]] = {}
    for rank, beat in behind.items():
        text = f"has not answered for {beat['age']:.0f} s on {beat['host']} (stopped, or its node is gone)"
        if rank not in lost:
            text = f"{beat['doing']} (after step {beat['step']}, on {beat['host']})"
        groups.setdefault(text, []).append(rank)
    lines = [f"{_ranks(ranks)}: {text}" for text, ranks in sorted(groups.items(), key=lambda g: g[1][0] not in lost)]
    rest = len(beats) - len(behind)
    return "; ".join([*lines, *([f"the other {rest} wait"] if rest > 1 else ["the other one waits"] if rest else [])])


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:8]))}{', ...' if len(ranks) > 8 else ''}"
