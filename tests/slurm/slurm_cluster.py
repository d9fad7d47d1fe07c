"""A SLURM cluster on this machine, small runs on it, and the rows of the table of launches."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "cluster.sh"
TABLE = ROOT / "build" / "launches.md"
BIN = Path(sys.executable).parent
SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "task.rate=1e-4", "curve=constant",
    "trainer.max_steps=20", "trainer.precision=32", "trainer.accelerator=cpu", "data.workers=0", "data.batch=8",
    "data.lr_patch=16", "sets=[]", "record.every=5", "checkpoint.every=5", "logger=csv",
    "callbacks.brake={_target_: brakes.Brake}",
)  # fmt: skip


@dataclass
class Row:
    """One row of the table of launches."""

    command: str
    outcome: str = ""
    codes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    weights: str = "-"

    def __str__(self) -> str:
        return f"| {self.command} | {self.outcome} | {', '.join(self.codes)} | {self.seconds:.0f} | {self.weights} |"


@dataclass
class Done:
    """A command or job that has ended."""

    code: int
    text: str
    seconds: float

    @property
    def error(self) -> str:
        """The first error of sr-train; without one, the whole output."""
        found = re.search(r"^sr-train: error: (.*(?:\n  .*)*)", self.text, re.MULTILINE)
        return found[1] if found else self.text


class Cluster:
    """The cluster and a folder with the runs of all tests."""

    def __init__(self, folder: Path, settings: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SR_"))}
        self.environment = {
            **kept,
            "SLURM_CONF": str(settings / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",
            "PATH": f"{BIN}:{settings / 'bin'}:{kept['PATH']}:/usr/sbin",
            "PYTHONPATH": str(ROOT / "tests" / "nets"),
            "OMP_NUM_THREADS": "1",
        }
        self.rows: list[Row] = []

    def row(self, command: str) -> Row:
        """Add a row to the table."""
        self.rows.append(Row(command))
        return self.rows[-1]

    def shell(self, *command: str, check: bool = True) -> str:
        """Return the output of a short command."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=30
        )
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            command, env=self.environment | variables, cwd=self.folder, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], row: Row | None = None, timeout: float = 120) -> Done:
        """Wait for a command; note its exit code and time."""
        begin = time.monotonic()
        try:
            text, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            pytest.fail(f"hangs: {text}")
        return self._noted(Done(process.returncode, text, time.monotonic() - begin), row)

    def run(self, *command: str, row: Row | None = None, **variables: str) -> Done:
        """Run a command to its end."""
        return self.finish(self.start(*command, **variables), row)

    def _noted(self, done: Done, row: Row | None) -> Done:
        if row is not None:
            row.codes.append(str(done.code))
            row.seconds += done.seconds
        return done

    def submit(self, *options: str, lines: str) -> str:
        """Submit a job file; return the job's number."""
        text = f"#!/bin/bash\n{lines}\n"
        done = subprocess.run(
            ["sbatch", "--parsable", "--open-mode=append", "--output=%x-%j.log", *options], input=text, text=True,
            env=self.environment, cwd=self.folder, capture_output=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit_file(self, file: Path, *options: str, arguments: list[str]) -> str:
        """Submit a job file of the project as a user does; its log is FOLDER/sr-train-JOB.log."""
        return self.shell("sbatch", "--parsable", *options, str(file), *arguments).strip()

    @staticmethod
    def line(*words: str) -> str:
        """Return a line of a job file."""
        return shlex.join(words)

    def field(self, job: str, name: str) -> str:
        """Return a field of ``scontrol show job``."""
        found = re.search(rf"\b{name}=(\S*)", self.shell("scontrol", "--oneliner", "show", "job", job))
        return found[1] if found else ""

    def until(self, what: str, condition, timeout: float = 90) -> None:
        """Wait until a condition is true."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s: {what}"
            time.sleep(0.2)

    def until_step(self, name: str, step: int = 5) -> None:
        """Wait until a run has written the checkpoint of a step."""
        checkpoints = self.folder / "runs" / name / "x2" / "checkpoints"
        self.until(
            f"{name} reaches step {step}", lambda: any(_step(p) >= step for p in checkpoints.glob("step_*.ckpt"))
        )

    def ended(self, job: str, row: Row | None = None, *, timeout: float = 120) -> Done:
        """Wait for a job's end."""
        begin = time.monotonic()
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")
        self.until(f"job {job} ends", lambda: self.field(job, "JobState") in over, timeout)
        code = int(self.field(job, "ExitCode").partition(":")[0])
        text = Path(self.field(job, "StdOut")).read_text()
        return self._noted(Done(code, text, time.monotonic() - begin), row)

    def release(self, job: str) -> None:
        """Start a requeued job now. SLURM would wait for two minutes."""
        self.until(f"job {job} is requeued", lambda: self.field(job, "JobState") == "PENDING")
        time.sleep(1.5)  # before, slurmctld overwrites the time
        self.shell("scontrol", "update", f"jobid={job}", "StartTime=now")

    def processes(self, name: str) -> dict[int, int]:
        """Return {rank: process id} of the running processes of a run, from SLURM's variables."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_bytes().split(b"\0")
                variables = dict(v.split(b"=", 1) for v in (path / "environ").read_bytes().split(b"\0") if b"=" in v)
            except OSError:
                continue
            if f"name={name}".encode() in command and b"python" in command[0] and b"SLURM_PROCID" in variables:
                found[int(variables[b"SLURM_PROCID"])] = int(path.name)
        return found

    def weights(self, name: str):
        """Return the weights of a finished run."""
        return load_file(self.folder / "runs" / name / "x2" / "weights.safetensors")

    def trained(self, row: Row, name: str, reference: str, *, bits: bool = True) -> None:
        """Compare a finished run with the undisturbed one, its log too, and note the result."""
        a, b = self.weights(name), self.weights(reference)
        difference = sum(float(((a[k] - b[k]).double() ** 2).sum()) for k in b)
        relative = (difference / sum(float((b[k].double() ** 2).sum()) for k in b)) ** 0.5
        row.weights = f"{'equal to' if relative == 0 else f'{relative:.1e} from'} `{reference}`"
        assert a.keys() == b.keys()
        assert relative == 0 if bits else relative < 1e-5
        assert self._log(name) == self._log(reference), "the log has other rows"

    def _log(self, name: str) -> list[str]:
        text = (self.folder / "runs" / name / "x2" / "metrics.csv").read_text()
        return [line.rpartition(",")[0] for line in text.splitlines()]

    def brake(self, on: bool = True) -> None:
        """Slow down the steps of all runs, or stop doing so."""
        if on:
            (self.folder / "brake").touch()
        else:
            (self.folder / "brake").unlink(missing_ok=True)


def _step(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem) or 0)


def command(name: str, *more: str) -> list[str]:
    """Return the command of a small run."""
    return ["sr-train", *SMALL, f"name={name}", *more]
