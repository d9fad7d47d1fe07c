"""Place of a process among those of its run, as launchers' environment variables give it."""

import os
import sys

import pytest

from sr_train.console import UsageError
from sr_train.runs.launch import PARENT, Launch, find_launch, first_host, resolve_devices

#: What srun (SLURM 22.05) sets in task 3 of 2 nodes with 2 tasks each; the first four also stand in a batch script.
BATCH = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NODELIST": "n[1-2]"}
SRUN = {
    **BATCH, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "n[1-2]",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "1", "RANK": "3",
    "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "n1", "MASTER_PORT": "29500",
}  # fmt: skip
BY_HAND = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
CHILD = {
    PARENT: "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "NODE_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "5",
}


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/sr-train", "experiment=edsr_x4", "trainer.devices=8"])
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)


@pytest.mark.parametrize(
    ("environment", "by", "rank", "world", "local", "node", "nodes", "address"),
    [
        ({}, "", 0, 1, 0, 0, 1, "127.0.0.1"),
        (SRUN, "srun", 3, 4, 1, 1, 2, "n1"),
        ({**SRUN, "MASTER_ADDR": "10.0.0.1"}, "srun", 3, 4, 1, 1, 2, "10.0.0.1"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "", 0, 1, 0, 0, 1, "127.0.0.1"),
        ({**SRUN, **TORCHRUN}, "torchrun", 3, 4, 1, 1, 2, "n1"),
        (BY_HAND, "environment", 1, 2, 0, 1, 2, "n1"),
        ({**BY_HAND, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "environment", 1, 2, 1, 0, 1, "n1"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "", 0, 1, 0, 0, 1, "127.0.0.1"),
        (CHILD, "sr-train", 1, 2, 1, 0, 1, "127.0.0.1"),
        ({**CHILD, PARENT: str(os.getpid())}, "", 0, 1, 0, 0, 1, "127.0.0.1"),
        ({**BATCH, "SLURM_NTASKS": "1"}, "", 0, 1, 0, 0, 1, "127.0.0.1"),
    ],
)
def test_each_launcher_gives_the_place_of_a_process(environment, by, rank, world, local, node, nodes, address):
    found = find_launch(environment)
    assert (found.by, found.rank, found.world, found.local_rank) == (by, rank, world, local)
    assert (found.node, found.nodes, found.address) == (node, nodes, address)
    assert found.served == (by == "torchrun")
    assert (os.environ.pop("TORCH_CPP_LOG_LEVEL", None) == "ERROR") == (world > 1)


def test_all_tasks_of_a_step_use_one_port_and_other_steps_use_others():
    ports = {find_launch({**SRUN, "SLURM_PROCID": str(r)}).port for r in range(4)}
    others = {
        find_launch({**SRUN, "SLURM_JOB_ID": str(j), "SLURM_STEP_ID": str(s)}).port for j in (17, 18) for s in (0, 1)
    }
    assert len(ports) == 1
    assert len(others) == 4
    assert all(1024 < p < 32768 for p in others)  # below the ports that Linux gives to clients


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (BATCH, "SLURM job has 4 tasks, but sr-train was not started by srun: srun sr-train experiment=edsr_x4; or, with one "
                "process: env -u SLURM_NTASKS -u SLURM_NPROCS sr-train experiment=edsr_x4"),
        ({"RANK": "abc"}, "RANK=abc in the environment: expected an integer; remove the variable: env -u RANK sr-train"),
        ({"RANK": "1"}, "RANK=1 in the environment, but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT: .* remove .*env -u RANK"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE=2, LOCAL_RANK=1 in the environment, but not RANK"),
        ({**BY_HAND, "RANK": "2"}, "RANK must be below WORLD_SIZE"),
        ({**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"},
         r"3 processes on 2 nodes \(2,1 per node\).* srun --nodes=2 --ntasks-per-node=1 sr-train experiment=edsr_x4"),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "5"}, "give the same --nproc-per-node everywhere"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun cannot start sr-train: use srun, or torchrun"),
    ],
)  # fmt: skip
def test_variables_that_make_no_sense_are_refused_with_the_line_to_type(environment, message):
    with pytest.raises(UsageError, match=message):
        find_launch(environment)


def test_only_rank_0_prints_what_all_tasks_find():
    with pytest.raises(SystemExit) as stop:
        find_launch({**SRUN, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"})
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"), ("n[1-2]", "n1"), ("gpu[007-009,12],cpu3", "gpu007"), ("a,b", "a"), ("rack[3,5]-ib", "rack3-ib"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_list_is_rank_0(hosts, first):
    assert first_host(hosts) == first


TRAINER = {"devices": "auto", "num_nodes": 1, "strategy": "auto", "accelerator": "auto"}
TWO_BY_TWO = Launch("srun", 3, 4, 1, 1, 2, "n1", 12345)


def test_devices_are_those_of_the_launcher():
    assert resolve_devices(TRAINER, Launch(), gpus=8) == ({"devices": 1}, Launch())
    assert resolve_devices({**TRAINER, "devices": 4}, Launch(), gpus=8)[0] == {"devices": 4}
    for devices in ("auto", -1, 2, "2", [0, 1]):
        options, launch = resolve_devices({**TRAINER, "devices": devices}, TWO_BY_TWO, gpus=2)
        assert options == {"devices": devices if isinstance(devices, list) else 2, "num_nodes": 2}
        assert launch == TWO_BY_TWO


def test_a_process_that_sees_one_gpu_of_several_counts_as_a_node():
    """``srun --gpus-per-task=1`` shows each process its own GPU, with the number 0."""
    options, launch = resolve_devices(TRAINER, TWO_BY_TWO, gpus=1)
    assert options == {"devices": 1, "num_nodes": 4}
    assert (launch.local_rank, launch.node, launch.nodes, launch.rank) == (0, 3, 4, 3)


@pytest.mark.parametrize(
    ("options", "launch", "message"),
    [
        ({"devices": 8}, TWO_BY_TWO, "trainer.devices=8 trainer.num_nodes=1: this contradicts srun, which has started 2 "
         "processes per node on 2 nodes. .* srun --nodes=1 --ntasks-per-node=8 sr-train experiment=edsr_x4$"),
        ({"num_nodes": 3}, TWO_BY_TWO, "srun --nodes=3 --ntasks-per-node=2"),
        ({"devices": [0]}, Launch("torchrun", 0, 2), "torchrun --nnodes=1 --nproc-per-node=1 -m sr_train train experiment"),
        ({"strategy": "single_device"}, TWO_BY_TWO, "srun has started 4 processes; leave this key out"),
        ({"num_nodes": 2}, Launch(), "no launcher has started processes on other nodes: use srun --nodes=2 or torchrun"),
    ],
)  # fmt: skip
def test_options_that_contradict_the_launcher_are_refused_with_the_line_to_type(options, launch, message, monkeypatch):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=message):
        resolve_devices({**TRAINER, **options}, launch, gpus=0)
