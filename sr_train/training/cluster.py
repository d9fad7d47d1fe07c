"""Description of a run's processes for Lightning, and the start of processes if no launcher (srun, ...) has started them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from sr_train.config.plan import Plan, Stage, with_trainer
from sr_train.console import counted, say
from sr_train.runs.launch import PARENT, Launch, count_devices, resolve_devices
from sr_train.runs.ranks import Ranks

_GRACE = 2.0  # seconds that a failed process has to tell why


class Processes(ClusterEnvironment):
    """Description of a run's processes for Lightning: ranks and addresses of a :class:`~sr_train.runs.launch.Launch`.

    Without this class, Lightning would read the environment variables itself. Lightning's own class for SLURM is not
    used: it saves a checkpoint inside its signal handler, which ends in a deadlock with two ranks, and it refuses
    ``--ntasks``.
    """

    def __init__(self, launch: Launch, ranks: Ranks) -> None:
        super().__init__()
        self.launch = launch
        self.ranks = ranks
        self._rank, self._world = launch.rank, launch.world

    @property
    def creates_processes_externally(self) -> bool:
        """True if all processes of the run have been started already, so that Lightning must not start any."""
        return self.launch.by != "" or os.environ.get(PARENT) == str(os.getpid())

    @property
    def main_address(self) -> str:
        """Host of rank 0."""
        return os.environ.get("MASTER_ADDR", self.launch.address) if self.launch.by == "" else self.launch.address

    @property
    def main_port(self) -> int:
        """Port of rank 0."""
        return self.ranks.port

    @staticmethod
    def detect() -> bool:
        """Return false, so that Lightning never chooses this class by itself. sr-train passes it to the trainer explicitly."""
        return False

    def world_size(self) -> int:
        """Return the number of processes."""
        return self._world

    def set_world_size(self, size: int) -> None:
        """Store the number of processes that Lightning has computed from its devices."""
        self._world = size

    def global_rank(self) -> int:
        """Return the rank of this process."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Store the rank of this process that Lightning has computed."""
        self._rank = rank

    def local_rank(self) -> int:
        """Return the rank of this process among the processes of this node."""
        return self.launch.local_rank

    def node_rank(self) -> int:
        """Return the number of this node."""
        return int(os.environ.get("NODE_RANK", "0")) if self.launch.by == "" else self.launch.node


def one_process() -> Processes:
    """Return the description for Lightning (:class:`Processes`) of a run with this process only."""
    return Processes(Launch(), Ranks(Launch()))


class ChildProcesses(_SubprocessScriptLauncher):
    """Launcher that starts the other processes of this node from the first process.

    Lightning's own launcher kills all processes when one process has ended. This launcher first reports which process
    has failed.
    """

    def __init__(self, environment: Processes, processes: int, nodes: int) -> None:
        super().__init__(environment, processes, nodes)
        self.ranks = environment.ranks

    def launch(self, function: Callable[..., Any], *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes of this node, unless a launcher has started them. Then call ``function``."""
        if not self.cluster_environment.creates_processes_externally:
            self._start()
            threading.Thread(target=self._observe, args=(list(self.procs),), daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _start(self) -> None:
        """Start this process's command once more for each other rank of this node."""
        environment = self.cluster_environment
        os.environ |= {
            PARENT: str(os.getpid()),
            "SR_TRAIN_NODES": str(self.num_nodes),
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the errors are explained by sr_train.runs.ranks
        program = Path(sys.argv[0])
        # without a file, e.g. if another program has changed sys.argv, the module is run
        command = [str(program.absolute())] if program.is_file() else ["-m", "sr_train", "train"]
        for rank in range(1, self.num_processes):
            own = {**os.environ, "LOCAL_RANK": str(rank)}
            self.procs.append(subprocess.Popen([sys.executable, *command, *sys.argv[1:]], env=own))

    def _observe(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Watch the started processes.

        If one of them fails without a message, report this to all processes of the run.
        """
        while True:
            running = [child.poll() is None for child in children]
            failed = next(((i, c) for i, c in enumerate(children, 1) if c.returncode), None)
            if failed is None and not any(running):
                return
            if failed is not None:
                time.sleep(_GRACE)
                code = failed[1].returncode
                how = (
                    f"was ended by signal {-code} (killed, or out of memory)" if code < 0 else f"ended with code {code}"
                )
                self.ranks.lose(f"rank {failed[0]} {how}")
                return
            time.sleep(0.2)


def use_processes(trainer: L.Trainer, environment: Processes) -> None:
    """Let the trainer start the other processes of this node with :class:`ChildProcesses`."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and environment.launch.by == "":
        strategy._launcher = ChildProcesses(environment, strategy.num_processes, strategy.num_nodes)


def gpus_of(accelerator: object) -> int:
    """Return the number of GPUs that a trainer may use in this process."""
    return torch.cuda.device_count() if str(accelerator) in ("auto", "gpu", "cuda") else 0


def place(plan: Plan, launch: Launch) -> tuple[Plan, Launch, int]:
    """Compare ``trainer.devices`` and ``trainer.num_nodes`` of all stages with the launcher (srun, torchrun, ...).

    Return three values: the plan, in which these keys have the values that are used; the place of this process; and the
    number of processes of the run. Raise UsageError if a stage contradicts the launcher.
    """
    worlds, seen, stages = [1], launch, list[Stage]()
    for stage in plan.stages:
        trainer = stage.config["trainer"]
        gpus = gpus_of(trainer["accelerator"])
        options, seen = resolve_devices(trainer, launch, gpus=gpus)
        stages.append(with_trainer(stage, **options))
        if stage.name in plan.selected:
            count = count_devices(options["devices"], gpus) or gpus
            worlds.append(max(1, count) * int(options.get("num_nodes", trainer["num_nodes"])))
    if launch.world > 1 and launch.by != "sr-train":
        say(f"{launch.by}: {launch.world} processes on {counted(launch.nodes, 'node')}")
    return dataclasses.replace(plan, stages=tuple(stages)), seen, max(launch.world, *worlds)
