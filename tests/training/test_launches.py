"""Two processes that a launcher has started; here, the test sets the variables of srun and starts both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_train.config.plan import plan
from sr_train.runs.checkpoints import CheckpointError
from sr_train.runs.launch import Launch
from sr_train.runs.ranks import Ranks
from sr_train.training import begin as begin_module
from sr_train.training.begin import Begin

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=4",
    "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32", "logger=csv", "curve=constant",
    "checkpoint.every=2", "trainer.max_steps=4", "sets=[]", "data.train=[{hr: photographs}]",
)  # fmt: skip


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def srun(folders, *arguments):
    """Start two tasks of srun, each in its folder; return their results."""
    common = {
        "SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    tasks = []
    for rank, folder in enumerate(folders):
        env = {**os.environ, **common, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)}
        program = [str(Path(sys.executable).with_name("sr-train")), *SMALL, *arguments]
        tasks.append(
            subprocess.Popen(program, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [task.communicate(timeout=120) for task in tasks]
    return [subprocess.CompletedProcess("srun", t.returncode, *o) for t, o in zip(tasks, outputs, strict=True)]


@pytest.mark.slow
def test_two_tasks_of_srun_are_one_run_also_with_resume_never(tmp_path, photographs):
    """Both times: one training, whose weights are the same; without a common decision, the second one would hang."""
    states = []
    for more in (("name=a",), ("name=a", "resume=never")):
        first, second = srun([tmp_path, tmp_path], *more)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        assert "srun: 2 processes on 2 nodes" in first.stdout
        assert second.stdout == ""
        states.append(load_file(tmp_path / "runs" / "a" / "x2" / "weights.safetensors"))
    assert (tmp_path / "runs" / "a" / "x2.old-1").is_dir()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.slow
def test_the_error_of_one_task_is_one_message_with_its_rank(tmp_path, photographs):
    """The second node does not have the photographs."""
    other = tmp_path / "node2"
    other.mkdir()
    first, second = srun([tmp_path, other], f"paths.runs={tmp_path}/runs")
    assert first.returncode != 0
    assert second.returncode != 0
    assert "error" not in first.stderr, first.stderr
    assert second.stderr.count("error:") == 1
    assert f"rank 1 on {socket.gethostname()}: " in second.stderr
    assert "photographs" in second.stderr
    assert "Traceback" not in first.stderr + second.stderr


class Told(Ranks):
    """Rank 1 of a run whose rank 0 has decided."""

    def __init__(self, value):
        super().__init__(Launch("srun", 1, 1))
        self.value = value

    def decide(self, what, make):
        return self.value


def test_a_checkpoint_that_only_rank_0_sees_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(begin_module, "_PATIENCE", 0.1)
    stage = plan([*SMALL, "data=toy"]).stages[0]
    begin = Begin(stage, {}, Told({"name": "step_00000700.ckpt", "step": 700}))
    with pytest.raises(
        CheckpointError, match=r"step_00000700\.ckpt: rank 0 continues .*paths\.runs must be a folder that all"
    ):
        begin.choose_checkpoint(None)
    file = tmp_path / "runs" / "quickstart_edsr" / "x2" / "checkpoints" / "step_00000700.ckpt"
    file.parent.mkdir(parents=True)
    file.touch()
    found = begin.choose_checkpoint(None)
    assert found is not None
    assert found.step == 700
    assert Begin(stage, {}, Told(None)).choose_checkpoint(None) is None


@pytest.mark.slow
def test_two_tasks_check_a_recipe_together(tmp_path, photographs):
    first, second = srun([tmp_path, tmp_path], "check=true")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "check passed: 1 stage" in first.stdout
    assert second.stdout == ""
    assert not (tmp_path / "runs").exists()
