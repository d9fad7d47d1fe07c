"""Launcher of the processes of a run: srun, torchrun, a user who sets environment variables, or the first process itself.

The number of processes is known before anything is written. ``trainer.devices`` and ``trainer.num_nodes`` are compared
with the number of processes that the launcher has started. A difference is an error: several trainings would write to
one folder, or processes would wait for each other forever. This module imports neither torch nor Lightning, because
both read some of the environment variables when they are imported.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr_train.console import UsageError, counted

#: Set by the first process for the processes that it starts: its own process id.
PARENT = "SR_TRAIN_PARENT"

_NOT_SRUN = 0xFFFFFFF0  # SLURM's numbers of batch scripts and interactive shells, which are no steps of srun, lie above


@dataclass(frozen=True)
class Launch:
    """Place of this process among the processes of a run."""

    by: str = ""  #: srun, torchrun, environment, or sr-train for a process that another one has started; "" if alone
    rank: int = 0
    world: int = 1
    local_rank: int = 0  #: rank among the processes of this node; selects the GPU
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"  #: host of rank 0
    port: int = 0  #: port of the first connection; 0: any free one
    served: bool = False  #: the launcher, and not rank 0, listens at the port
    attempt: str = "0"  #: number of restarts by the launcher

    @property
    def per_node(self) -> int:
        """Number of processes per node."""
        return self.world // self.nodes


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Return the place (rank, node, ...) of this process among the run's processes, read from environment variables.

    Raise UsageError for variables that contradict each other. Also raise it inside a SLURM job of several tasks if this
    process was not started by srun.
    """
    env = os.environ if environment is None else environment
    found = _find(env)
    if found.world > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch prints its stack when a process is lost
    return found


def _find(env: Mapping[str, str]) -> Launch:
    if env.get(PARENT) not in (None, str(os.getpid())):
        return _started_by_us(env)
    if "TORCHELASTIC_RUN_ID" in env:
        return _torchrun(env)
    if _is_srun_step(env):
        return _srun(env)
    _refuse_without_srun(env)
    if env.get(PARENT) is not None:  # this process: Lightning has set the variables below for its children
        return Launch()
    return _by_hand(env)


def command_line() -> str:
    """Return the command line of this process as a user types it, without trainer.devices and trainer.num_nodes."""
    return shlex.join([Path(sys.argv[0]).name, *_arguments()])


def _arguments() -> list[str]:
    return [a for a in sys.argv[1:] if not a.startswith(("trainer.devices=", "trainer.num_nodes="))]


def _number(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "")
    if not re.fullmatch(r"\d+", text):
        raise UsageError(
            f"{name}={text} in the environment: expected an integer; remove the variable: {_without(name)}"
        )
    return int(text)


def _without(*names: str) -> str:
    return f"env {' '.join(f'-u {n}' for n in names)} {command_line()}"


def _started_by_us(env: Mapping[str, str]) -> Launch:
    world, local, node = (_number(env, n) for n in ("WORLD_SIZE", "LOCAL_RANK", "NODE_RANK"))
    nodes = _number(env, "SR_TRAIN_NODES") if "SR_TRAIN_NODES" in env else 1
    rank = node * (world // nodes) + local
    return Launch("sr-train", rank, world, local, node, nodes, env["MASTER_ADDR"], _number(env, "MASTER_PORT"))


def _torchrun(env: Mapping[str, str]) -> Launch:
    rank, world, local = (_number(env, n) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    nodes = _number(env, "GROUP_WORLD_SIZE") if "GROUP_WORLD_SIZE" in env else 1
    if world % nodes or world // nodes != _number(env, "LOCAL_WORLD_SIZE"):
        if rank > 0:
            raise SystemExit(2)
        raise UsageError(
            f"torchrun has started {world} processes on {nodes} nodes, but each node needs the same number: give the same "
            "--nproc-per-node everywhere"
        )
    return Launch(
        "torchrun", rank, world, local, _number(env, "GROUP_RANK"), nodes, env["MASTER_ADDR"], _number(env, "MASTER_PORT"),
        served=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True", attempt=env.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )  # fmt: skip


def _is_srun_step(env: Mapping[str, str]) -> bool:
    step = env.get("SLURM_STEP_ID", env.get("SLURM_STEPID", ""))
    return "SLURM_PROCID" in env and step.isdecimal() and int(step) < _NOT_SRUN


def _srun(env: Mapping[str, str]) -> Launch:
    rank, local, node = (_number(env, n) for n in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"))
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
    world, nodes = _number(env, name), _number(env, "SLURM_STEP_NUM_NODES") if "SLURM_STEP_NUM_NODES" in env else 1
    if world == 1:
        return Launch()
    layout = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", ""))
    if world % nodes or "," in layout:
        if rank > 0:  # rank 0 prints the same error
            raise SystemExit(2)
        raise UsageError(
            f"srun has started {world} processes on {nodes} nodes ({layout} per node), but each node needs the same number: "
            f"srun --nodes={nodes} --ntasks-per-node={max(1, world // nodes)} {command_line()}"
        )
    hosts = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
    job = env.get("SLURM_JOB_ID", "0")
    port = 12_000 + (int(job) * 64 + int(env.get("SLURM_STEP_ID", "0")) % 64) % 16_000
    return Launch(
        "srun", rank, world, local, node, nodes, env.get("MASTER_ADDR") or first_host(hosts),
        _number(env, "MASTER_PORT") if "MASTER_PORT" in env else port, attempt=env.get("SLURM_RESTART_COUNT", "0"),
    )  # fmt: skip


def first_host(hosts: str) -> str:
    """Return the first host of SLURM's list: ``node[007-009,12],gpu3`` -> ``node007``."""
    match = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,]*))?", hosts)
    return "".join(part or "" for part in match.groups()) if match else hosts


def _refuse_without_srun(env: Mapping[str, str]) -> None:
    """Raise UsageError inside a SLURM or MPI job of several tasks in which srun has not started one process per task.

    Without this check, this process would wait for processes that do not exist.
    """
    tasks = env.get("SLURM_NTASKS", env.get("SLURM_NPROCS", "1"))
    if "SLURM_JOB_ID" in env and tasks.isdecimal() and int(tasks) > 1:
        raise UsageError(
            f"this SLURM job has {tasks} tasks, but sr-train was not started by srun: srun {command_line()}; or, with one "
            f"process: {_without('SLURM_NTASKS', 'SLURM_NPROCS')}"
        )
    if int(env.get("OMPI_COMM_WORLD_SIZE") or env.get("PMI_SIZE") or 1) > 1:
        raise UsageError(f"mpirun cannot start sr-train: use srun, or torchrun --nproc-per-node=N -m {_module()}")


def _module() -> str:
    return f"sr_train train {shlex.join(_arguments())}".rstrip()


def _by_hand(env: Mapping[str, str]) -> Launch:
    """Return the place of this process that the environment variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT give.

    Without these variables, this is the only process of the run.
    """
    given = [n for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if n in env]
    values = {n: _number(env, n) for n in given}
    if not given or values.get("WORLD_SIZE") == 1:
        return Launch()
    missing = [n for n in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if n not in env]
    shown = ", ".join(f"{n}={env[n]}" for n in given)
    if missing:
        raise UsageError(
            f"{shown} in the environment, but not {', '.join(missing)}: start several processes with srun or torchrun, or, if "
            f"another program has left these variables, remove them: {_without(*given)}"
        )
    rank, world, local = values["RANK"], values["WORLD_SIZE"], values.get("LOCAL_RANK", 0)
    per_node = _number(env, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in env else 1
    if rank >= world or local >= per_node or world % per_node:
        raise UsageError(
            f"{shown} in the environment: RANK must be below WORLD_SIZE, and LOCAL_RANK below LOCAL_WORLD_SIZE "
            f"({per_node}); correct the variables, or remove them: {_without(*given)}"
        )
    return Launch(
        "environment", rank, world, local, rank // per_node, world // per_node, env["MASTER_ADDR"],
        _number(env, "MASTER_PORT"),
    )  # fmt: skip


def resolve_devices(trainer: Mapping[str, Any], launch: Launch, *, gpus: int) -> tuple[dict[str, Any], Launch]:
    """Return the trainer's options ``devices`` and ``num_nodes`` for a launch, and this process's place for these options.

    The place differs from ``launch`` if each process can use one GPU only (``srun --gpus-per-task=1``). Lightning then
    treats each process as a node of its own.

    Args:
        trainer: options of Lightning's Trainer. ``devices=auto`` is the number of processes per node that the launcher
            has started, or 1 without a launcher.
        launch: place of this process among the processes of the run.
        gpus: number of GPUs that the trainer may use in this process; 0 on a CPU.

    Raises:
        UsageError: for options that contradict the launcher; the message contains the line to type.
    """
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    if launch.world == 1:
        if nodes > 1:
            _check_nodes_by_hand(nodes)
        return {"devices": 1 if devices == "auto" else devices}, launch
    wanted = count_devices(devices, gpus)
    if launch.by != "sr-train" and (wanted not in (None, launch.per_node) or nodes not in (1, launch.nodes)):
        raise UsageError(_contradiction(trainer, launch, wanted))
    if trainer["strategy"] == "single_device":
        raise UsageError(
            f"trainer.strategy=single_device: {launch.by} has started {launch.world} processes; leave this key out"
        )
    if gpus == 1 and launch.per_node > 1:  # every process sees its own GPU only: srun --gpus-per-task=1
        return {"devices": 1, "num_nodes": launch.world}, replace(
            launch, local_rank=0, node=launch.rank, nodes=launch.world
        )
    own = devices if isinstance(devices, list) else launch.per_node
    return {"devices": own, "num_nodes": launch.nodes}, launch


def count_devices(devices: Any, gpus: int) -> int | None:
    """Return the number of processes per node that ``trainer.devices`` asks for; None if any number is accepted."""
    if devices in ("auto", -1, "-1"):
        return None
    if isinstance(devices, str) and "," in devices:
        return len([d for d in devices.split(",") if d.strip()])
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    return int(devices) if str(devices).isdecimal() else None


def _contradiction(trainer: Mapping[str, Any], launch: Launch, wanted: int | None) -> str:
    per_node, nodes = wanted or launch.per_node, max(trainer["num_nodes"], 1)
    given = f"trainer.devices={trainer['devices']} trainer.num_nodes={nodes}"
    command = command_line()
    start = {
        "srun": f"srun --nodes={nodes} --ntasks-per-node={per_node} {command}",
        "torchrun": f"torchrun --nnodes={nodes} --nproc-per-node={per_node} -m {_module()}",
    }.get(launch.by, f"WORLD_SIZE={nodes * per_node}")
    return (
        f"{given}: this contradicts {launch.by}, which has started {counted(launch.per_node, 'process', 'processes')} per "
        f"node on {counted(launch.nodes, 'node')}. "
        f"Leave out trainer.devices and trainer.num_nodes, or start as many processes as they ask for: {start}"
    )


def _check_nodes_by_hand(nodes: int) -> None:
    missing = [n for n in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise UsageError(
            f"trainer.num_nodes={nodes}: no launcher has started processes on other nodes: use srun --nodes={nodes} or "
            f"torchrun --nnodes={nodes}; or run this command on each node with {', '.join(missing)} set"
        )
