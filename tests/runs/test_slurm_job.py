"""launcher=slurm with an sbatch that only prints a number; tests/slurm submits to a real cluster."""

import os
import re

import pytest

from sr_train.config.launcher import split_launcher
from sr_train.console import ConfigError, UsageError
from sr_train.runs.slurm_job import SlurmJob

GPUS = (
    "launcher=slurm",
    "launcher.nodes=2",
    "launcher.gpus_per_node=4",
    "launcher.hours=1.5",
    "launcher.partition=gpu",
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs sbatch and squeue; squeue prints the content of the file ``state``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in {"sbatch": "echo 17", "squeue": f"cat {tmp_path}/state"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_job_file_starts_one_process_per_gpu(slurm, invoke):
    done = invoke("sr-train", "experiment=edsr_x2", *GPUS, "data.workers=5", "launcher.setup=[module load cuda]")
    assert done.returncode == 0, done.stderr
    assert re.search(r"submitted as job 17 .*tail -F runs/slurm/edsr_x2/17.log; cancel it: scancel 17", done.stdout)
    text = (slurm / "runs/slurm/edsr_x2/job.sbatch").read_text()
    options = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
    assert {
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=6", "--time=1:30:00", "--partition=gpu",
        "--signal=USR1@120", "--requeue", "--open-mode=append", "--output=runs/slurm/edsr_x2/%j.log",
    } <= set(options)  # fmt: skip
    *_, setup, _, command = text.splitlines()
    assert setup == "module load cuda"
    assert command.startswith("srun --kill-on-bad-exit=1 ")
    assert command.endswith("trainer.num_nodes=2 trainer.devices=4 launcher=local")
    assert "launcher.nodes" not in command


def test_a_sweep_submits_a_job_per_run(slurm, invoke):
    done = invoke("sr-train", "-m", "experiment=edsr_x2", "seed=1,2", "launcher=slurm")
    assert done.returncode == 0, done.stderr
    for name in ("seed-1", "seed-2"):
        text = (slurm / "runs/slurm/edsr_x2" / name / "job.sbatch").read_text()
        assert f"name=edsr_x2/{name} " in text


def test_a_second_job_of_a_run_is_refused_while_the_first_one_waits(slurm, invoke):
    assert invoke("sr-train", "experiment=edsr_x2", "launcher=slurm").returncode == 0
    (slurm / "state").write_text("PENDING\n")
    done = invoke("sr-train", "experiment=edsr_x2", "launcher=slurm")
    assert done.returncode == 2
    assert "run edsr_x2: job 17 of this run is PENDING" in done.stderr


def test_a_machine_without_slurm_is_said(tmp_path, invoke, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = invoke("sr-train", "experiment=edsr_x2", "launcher=slurm")
    assert done.returncode == 2
    assert "sbatch is not on PATH; type this on a login node" in done.stderr


def test_a_refusal_of_sbatch_is_one_line(slurm, invoke):
    (slurm / "bin/sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: mian' >&2\nexit 1\n"
    )
    done = invoke("sr-train", "experiment=edsr_x2", "launcher=slurm", "launcher.partition=mian")
    assert done.returncode == 1
    assert "job.sbatch: sbatch refused this job: invalid partition specified: mian" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launcher.hours=2"], "add launcher=slurm"),
        (["launcher=slurm", "launcher.hourz=2"], "did you mean hours"),
        (["launcher=slurm", "launcher.hours=x"], "expected a number"),
        (["launcher=slurm", "launcher.nodes=1,2"], "all jobs of a command have one launcher"),
    ],
)
def test_wrong_keys_of_the_launcher_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        split_launcher(arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "launcher.nodes=0: expected an integer of at least 1"),
        ({"hours": 0.01}, "expected more than launcher.grace=120 seconds"),
        ({"gpus_per_node": 2, "tasks_per_node": 4}, "every process uses one GPU"),
        ({"options": ["exclusive"]}, "expected options of sbatch"),
    ],
)
def test_wrong_values_of_the_launcher_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SlurmJob(**options)


def test_keys_that_follow_from_the_size_of_the_job_are_refused():
    with pytest.raises(UsageError, match="launcher=slurm sets this key"):
        SlurmJob().arguments(["x4.trainer.devices=2"])
    assert SlurmJob(gpus_per_node=0, tasks_per_node=2).arguments([])[0] == "trainer.accelerator=cpu"
