"""Fixtures of the tests on a SLURM cluster: the cluster, the table of launches, and the undisturbed runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from slurm_cluster import SCRIPT, TABLE, Cluster, command


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker("slurm")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [p for p in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(p, path=path)]
    reason = f"{', '.join(missing)} not installed: see scripts/slurm/cluster.sh" if missing else ""
    reason = reason or ("" if os.getuid() == 0 else "scripts/slurm/cluster.sh needs root")
    if reason:
        (pytest.fail if os.environ.get("SR_TEST_SLURM") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("slurm")
    settings = folder / "cluster"
    ports = {**os.environ, "SLURM_TOY_PORT": str(free_ports(3))}
    up = [str(SCRIPT), "up", str(settings), "2"]
    started = subprocess.run(up, capture_output=True, text=True, timeout=60, env=ports)
    assert started.returncode == 0, started.stderr
    cluster = Cluster(folder, settings)
    yield cluster
    subprocess.run([str(SCRIPT), "down", str(settings)], capture_output=True, timeout=60, check=True)
    head = ["| launch | outcome | exit code | s | weights after 20 steps |", "|---|---|---|---|---|"]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join([*head, *map(str, cluster.rows), ""]))
    sys.stdout.write(f"\n{TABLE.read_text()}{TABLE}\n")


def free_ports(count):
    """Return the first of ``count`` adjacent ports that nobody uses."""
    for first in range(17400, 20000, 10):
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


@pytest.fixture(autouse=True)
def no_brake(request):
    yield
    if "slurm" in request.fixturenames:
        slurm = request.getfixturevalue("slurm")
        slurm.brake(False)
        slurm.shell("scancel", "--user=root", check=False)


@pytest.fixture(scope="session")
def one(slurm):
    """Name of the undisturbed run of one process."""
    row = slurm.row("sr-train (one process)")
    done = slurm.run(*command("one"), row=row)
    assert done.code == 0, done.text
    row.outcome, row.weights = "trains", "the reference `one`"
    return "one"


@pytest.fixture(scope="session")
def two(slurm, one):
    """Name of the undisturbed run of two processes."""
    row = slurm.row("srun --ntasks=2 sr-train")
    done = slurm.run("srun", "--ntasks=2", *command("two"), row=row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, "two", one, bits=False)
    return "two"
