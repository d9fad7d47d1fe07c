"""``launcher=slurm``: write a job file for each run and submit it with sbatch.

The job file starts the ordinary command sr-train by srun, one process per task, as in a job file that a user writes.
The state of this process is not stored in the job file. The command in the job handles signals, sets the exit code, and
asks SLURM to requeue the job.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sr_train.config.build import build
from sr_train.config.plan import Plan
from sr_train.config.sweep import Job
from sr_train.console import UsageError, say
from sr_train.files import write_bytes

_SET = ("trainer.devices", "trainer.num_nodes")  # keys that follow from the number of nodes and tasks


class Submitted(NamedTuple):
    """A job that sbatch has accepted."""

    id: str
    name: str  #: name of the run
    log: Path
    waiting: subprocess.Popen[str] | None  #: sbatch, if it waits for the job's end


class SlurmJob:
    """Size and limits of a job, as in ``conf/launcher/slurm.yaml``.

    Args:
        nodes: number of machines.
        gpus_per_node: GPUs of each machine; 0 trains on the CPU.
        tasks_per_node: processes of each machine; None is one per GPU.
        cpus_per_task: CPU cores of each process; None is ``data.workers + 1``.
        hours: time limit.
        grace: number of seconds before the time limit at which the run writes a checkpoint and stops.
        partition: SLURM partition; None for the cluster's default.
        account: SLURM account; None for the cluster's default.
        memory: memory of each machine, e.g. 64G; None for the cluster's default.
        options: further options of sbatch.
        setup: shell commands that the job runs before the program.
        wait: true to wait until the job ends.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        gpus_per_node: int = 1,
        tasks_per_node: int | None = None,
        cpus_per_task: int | None = None,
        hours: float = 24.0,
        grace: int = 120,
        partition: str | None = None,
        account: str | None = None,
        memory: str | None = None,
        options: list[str] | None = None,
        setup: list[str] | None = None,
        wait: bool = False,
    ) -> None:
        self.nodes = nodes
        self.gpus = gpus_per_node
        self.tasks = tasks_per_node or max(gpus_per_node, 1)
        self.cpus = cpus_per_task
        self.minutes = round(hours * 60)
        self.grace = grace
        self.given = {"partition": partition, "account": account, "mem": memory}
        self.options = list(options or ())
        self.setup = list(setup or ())
        self.wait = wait
        for name, value, least in (("nodes", nodes, 1), ("gpus_per_node", gpus_per_node, 0), ("grace", grace, 0)):
            if value < least:
                raise UsageError(f"launcher.{name}={value}: expected an integer of at least {least}")
        if self.minutes < 1 or self.minutes * 60 <= grace:
            raise UsageError(f"launcher.hours={hours:g}: expected more than launcher.grace={grace} seconds")
        if gpus_per_node and self.tasks != gpus_per_node:
            raise UsageError(
                f"launcher.tasks_per_node={self.tasks}: every process uses one GPU; give launcher.gpus_per_node={self.tasks}"
            )
        wrong = [o for o in self.options if not o.startswith("-")]
        if wrong:
            raise UsageError(
                f"launcher.options={wrong}: expected options of sbatch, e.g. launcher.options=[--exclusive]"
            )

    def arguments(self, typed: Sequence[str]) -> list[str]:
        """Return the arguments of the command inside the job: the typed arguments and the number of processes.

        Raise UsageError for keys that launcher=slurm sets.
        """
        for argument in typed:
            key = argument.partition("=")[0].lstrip("+")
            if key.endswith(_SET):
                raise UsageError(
                    f"{argument}: launcher=slurm sets this key; give launcher.nodes and launcher.gpus_per_node, or "
                    "launcher.tasks_per_node with launcher.gpus_per_node=0"
                )
        accelerator = [] if self.gpus else ["trainer.accelerator=cpu"]
        size = [f"trainer.num_nodes={self.nodes}", f"trainer.devices={self.tasks}"]
        return [*typed, *accelerator, *size, "launcher=local"]

    def text(self, name: str, arguments: Sequence[str], workers: int, log: str) -> str:
        """Return the job file of a run.

        Args:
            name: name of the run.
            arguments: arguments of the command.
            workers: loader workers of each process.
            log: file for the output; ``%j`` is the job's number.
        """
        cpus = self.cpus or workers + 1
        hours, minutes = divmod(self.minutes, 60)
        options = [
            f"--job-name={_for_sbatch(name)}",
            f"--output={_for_sbatch(log)}",
            "--open-mode=append",  # a requeued job continues the log
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={self.tasks}",
            f"--cpus-per-task={cpus}",
            *([f"--gpus-per-node={self.gpus}"] if self.gpus else []),
            f"--time={hours}:{minutes:02d}:00",
            f"--signal=USR1@{self.grace}",
            "--requeue",
            *(f"--{key}={value}" for key, value in self.given.items() if value is not None),
            *self.options,
        ]
        program = [sys.executable, "-m", "sr_train", "train", *arguments]
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            *self.setup,
            f"export SRUN_CPUS_PER_TASK={cpus}",  # srun no longer takes it from sbatch
            f"srun --kill-on-bad-exit=1 {shlex.join(program)}",
        ]
        return "\n".join([*lines, ""])

    def submit(self, plan: Plan, typed: Sequence[str]) -> Submitted:
        """Submit the job of a plan, and print how to follow and cancel it.

        Args:
            plan: plan of the run.
            typed: arguments of the command, without arguments for the launcher.
        """
        config = plan.stages[0].config
        folder = Path(config["paths"]["runs"]) / "slurm" / plan.name
        if "\\" in str(folder):
            raise UsageError(
                f"{folder}: sbatch cannot write a log to a folder whose name contains a backslash; give another name=NAME or "
                "paths.runs=DIR"
            )
        arguments = self.arguments(typed)
        for program in ("sbatch", "squeue"):
            if shutil.which(program) is None:
                raise UsageError(
                    f"launcher=slurm: {program} is not on PATH; type this on a login node of a SLURM cluster, "
                    "or leave launcher=slurm out to train here"
                )
        _refuse_a_second(folder, plan.name)
        log_folder = str(folder).replace("%", "%%")
        workers = max((_workers(stage.config) for stage in plan.stages), default=0)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "job.sbatch"
        write_bytes(file, self.text(plan.name, arguments, workers, f"{log_folder}/%j.log").encode())
        job, waiting = self._sbatch(file)
        log = folder / f"{job}.log"
        write_bytes(folder / "job", f"{job}\n".encode())
        follow = "" if self.wait else f"; follow it: tail -F {shlex.quote(str(log))}; cancel it: scancel {job}"
        say(f"run {plan.name}: submitted as job {job} ({file}){follow}")
        return Submitted(job, plan.name, log, waiting)

    def _sbatch(self, file: Path) -> tuple[str, subprocess.Popen[str] | None]:
        command = ["sbatch", "--parsable", *(["--wait"] if self.wait else []), str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        job = process.stdout.readline().strip().partition(";")[0]  # JOB or JOB;CLUSTER
        if not job:
            reason = " ".join(process.communicate()[1].split()).removeprefix("sbatch: error: ")
            raise ValueError(f"{file}: sbatch refused this job: {reason or f'exit code {process.returncode}'}")
        if self.wait:
            return job, process
        process.communicate()
        return job, None


def _for_sbatch(text: str) -> str:
    """Quote a text for a line ``#SBATCH ...`` of a job file.

    Outside of double quotes, sbatch splits a line at spaces. Inside double quotes, a backslash has the same meaning as
    in a shell.
    """
    if not re.search(r"[\s'\"#\\]", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _workers(config: Mapping[str, Any]) -> int:
    workers = config["data"].get("workers", 0)
    return workers if isinstance(workers, int) else 0


def _refuse_a_second(folder: Path, name: str) -> None:
    """Raise UsageError if the last job of this run is still waiting or running, because two jobs cannot train one run."""
    file = folder / "job"
    job = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    if not job:
        return
    asked = subprocess.run(["squeue", "--noheader", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False)
    state = asked.stdout.strip()  # empty, or an error, for a job that has ended
    if asked.returncode == 0 and state:
        log = shlex.quote(str(folder / f"{job}.log"))
        raise UsageError(
            f"run {name}: job {job} of this run is {state}; follow it: tail -F {log}; cancel it: scancel {job}; "
            "or give another name=NAME"
        )


class Jobs:
    """Submitted jobs of one command, one per run.

    Args:
        launcher: config of the launcher.
    """

    def __init__(self, launcher: Mapping[str, Any]) -> None:
        self.job: SlurmJob = build(launcher)
        self.submitted: list[Submitted] = []

    def submit(self, plan: Plan, typed: Sequence[str]) -> Jobs:
        """Submit the job of a plan.

        ``typed`` contains the arguments of the command, without arguments for the launcher.
        """
        self.submitted.append(self.job.submit(plan, typed))
        return self

    def add(self, job: Job) -> float:
        """Submit a job of a sweep. Return NaN, because the job's score is not known when it is submitted."""
        if job.sweeper is not None:
            raise UsageError(
                "launcher=slurm: the sweeper needs the jobs' scores, and launcher=slurm does not wait for them; run the sweep "
                "in one job without launcher=slurm, or give hydra/launcher=submitit_slurm (package hydra-submitit-launcher)"
            )
        composed = job.compose()
        self.submit(composed, job.arguments)
        return math.nan

    def finish(self) -> int:
        """Return the highest exit code of the submitted jobs; 0 if launcher.wait is false.

        If launcher.wait is true, wait until all jobs have ended, and print their errors.
        """
        return max((_outcome(job) for job in self.submitted), default=0)


def _outcome(job: Submitted) -> int:
    """Wait until a job has ended, print its error in one line, and return its exit code.

    If launcher.wait is false, return 0 at once.
    """
    if job.waiting is None:
        return 0
    job.waiting.communicate()
    code = job.waiting.returncode
    if code:
        text = job.log.read_text(encoding="utf-8", errors="replace") if job.log.exists() else ""
        errors = re.findall(r"^(?:\d+: )?(?:sr-train: error: |slurmstepd: error: )(.+)$", text, re.MULTILINE)
        reason = errors[0] if errors else f"exit code {code}"
        say(f"sr-train: error: job {job.id} (run {job.name}): {reason}; log: {job.log}", error=True)
    return code
