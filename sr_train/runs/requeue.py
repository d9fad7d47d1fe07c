"""Requeue of a stopped SLURM job: SLURM puts the job back into the queue and starts it again later."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sr_train.files import write_bytes

_LIMIT = 3  # requeues in a row without a new step

_FILE = "requeue.json"


def is_restart(environment: Mapping[str, str] | None = None) -> bool:
    """Return true if SLURM or torchrun has restarted this command.

    In this case resume=never must not rename the folder, because the first start of the same command has trained there.
    """
    env = os.environ if environment is None else environment
    return any(env.get(name, "0") not in ("", "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def requeue(folder: Path, progress: Mapping[str, int], environment: Mapping[str, str] | None = None) -> str | None:
    """Ask SLURM to requeue this job; return a sentence for the user, or None outside of SLURM.

    A job is requeued only while SLURM counts it as running: after a preemption or ``--signal``, but not after scancel.
    A job that would be requeued for the third time in a row without a new step is not requeued, because it would never
    end.

    Args:
        folder: folder of the run.
        progress: {stage: number of finished steps}.
        environment: environment variables; default: the environment variables of this process.
    """
    env = os.environ if environment is None else environment
    job = env.get("SLURM_JOB_ID")
    if (
        job is None or "SLURM_PROCID" not in env
    ):  # the second one is missing in a shell of salloc, which ends with its user
        return None
    state = _scontrol("show", "job", job, "--oneliner")
    if state is not None and "BatchFlag=0" in state.split():  # srun without sbatch: nothing could start it again
        return None
    if state is None or "JobState=RUNNING" not in state.split():
        return f"SLURM job {job} is not requeued: it was cancelled or is ending"
    if "Requeue=0" in state.split():
        return f"SLURM job {job} is not requeued: it was submitted with --no-requeue"
    count = _without_progress(folder, progress)
    if count >= _LIMIT:
        return (
            f"SLURM job {job} is not requeued: {count} times in a row it has not reached a new step; give the job more time, "
            "or a smaller checkpoint.every"
        )
    if _scontrol("requeue", job) is None:
        return f"SLURM job {job} is not requeued: scontrol requeue {job} failed"
    return f"SLURM job {job} is requeued"


def _without_progress(folder: Path, progress: Mapping[str, int]) -> int:
    """Return how often in a row the run was requeued without a new step in any stage, including this time."""
    file = folder / _FILE
    try:
        last = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        last = {}
    count = int(last.get("count", 0)) + 1 if last.get("progress") == dict(progress) else 1
    if folder.is_dir():
        write_bytes(file, f"{json.dumps({'progress': dict(progress), 'count': count})}\n".encode())
    return count


def _scontrol(*arguments: str) -> str | None:
    """Return the output of scontrol, or None if it failed."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
