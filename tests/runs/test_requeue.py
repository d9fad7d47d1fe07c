"""Return of a job to SLURM's queue, against a scontrol of the test."""

import json
import os

import pytest

from sr_train.runs.requeue import is_restart, requeue

JOB = {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0"}


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Install a scontrol that prints the state given to it; return (set the state, read the requeued jobs)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "scontrol"
    program.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\n[ "$1" = requeue ] && { echo "$2" >> requeued; exit "$(cat code)"; }\ncat state\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def set_state(text, code=0):
        (folder / "state").write_text(text)
        (folder / "code").write_text(str(code))

    def requeued():
        return (folder / "requeued").read_text().split() if (folder / "requeued").exists() else []

    return set_state, requeued


RUNNING = "JobId=17 JobName=x Requeue=1 Restarts=0 BatchFlag=1 JobState=RUNNING Reason=None\n"


def test_a_running_job_is_requeued(scontrol, tmp_path):
    set_state, requeued = scontrol
    set_state(RUNNING)
    assert requeue(tmp_path, {"x2": 100}, JOB) == "SLURM job 17 is requeued"
    assert requeued() == ["17"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (RUNNING.replace("RUNNING", "COMPLETING"), "not requeued: it was cancelled or is ending"),  # after scancel
        (RUNNING.replace("Requeue=1", "Requeue=0"), "not requeued: it was submitted with --no-requeue"),
        (RUNNING.replace("BatchFlag=1", "BatchFlag=0"), None),
    ],
)
def test_other_jobs_are_not_requeued(scontrol, tmp_path, state, message):
    set_state, requeued = scontrol
    set_state(state)
    said = requeue(tmp_path, {"x2": 100}, JOB)
    assert said is None if message is None else message in str(said)
    assert requeued() == []


def test_nothing_is_asked_outside_of_a_job(scontrol, tmp_path):
    set_state, requeued = scontrol
    set_state(RUNNING)
    assert requeue(tmp_path, {}, {}) is None
    assert requeue(tmp_path, {}, {"SLURM_JOB_ID": "17"}) is None
    assert requeued() == []


def test_a_refusal_of_scontrol_is_said(scontrol, tmp_path):
    set_state, _ = scontrol
    set_state(RUNNING, code=1)
    assert requeue(tmp_path, {}, JOB) == "SLURM job 17 is not requeued: scontrol requeue 17 failed"


def test_a_job_without_progress_is_requeued_twice_and_no_more(scontrol, tmp_path):
    set_state, requeued = scontrol
    set_state(RUNNING)
    for _ in range(2):
        assert requeue(tmp_path, {"x2": 100}, JOB) == "SLURM job 17 is requeued"
    said = requeue(tmp_path, {"x2": 100}, JOB)
    assert said is not None
    assert "not requeued: 3 times in a row it has not reached a new step" in said
    assert requeue(tmp_path, {"x2": 101}, JOB) == "SLURM job 17 is requeued", "a new step counts from the beginning"
    assert len(requeued()) == 3
    assert json.loads((tmp_path / "requeue.json").read_text()) == {"progress": {"x2": 101}, "count": 1}


@pytest.mark.parametrize(
    ("variables", "again"),
    [({}, False), ({"SLURM_RESTART_COUNT": "0"}, False), ({"SLURM_RESTART_COUNT": "2"}, True),
     ({"TORCHELASTIC_RESTART_COUNT": "1"}, True)],
)  # fmt: skip
def test_a_requeued_job_is_a_restart(variables, again):
    assert is_restart(variables) is again
