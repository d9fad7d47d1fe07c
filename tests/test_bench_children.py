"""No process of a script in scripts/bench lives on when a signal ends the script."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "scripts" / "bench"

SCRIPT = """
import subprocess, sys
from children import start_child, run_child
code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print(flush=True); time.sleep(60)"
first = start_child([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
first.stdout.readline()
try:
    print("ready", flush=True)
    run_child(["sleep", "60"])
finally:
    print("cleaned", flush=True)
"""


def below(pid):
    """Return the processes below a process: its children first, then theirs."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    found, wanted = list[int](), {pid}
    while wanted:
        wanted = {int(p) for p, parent, stat in rows if int(parent) in wanted and not stat.startswith("Z")}
        found += wanted
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def started(*command):
    return subprocess.Popen([sys.executable, *command], cwd=BENCH, stdout=subprocess.PIPE, text=True)


@pytest.fixture(autouse=True)
def ignored():
    """Ignore SIGTERM, which a child inherits."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_children_end_with_their_script(number):
    script = started("-S", "-c", SCRIPT)
    assert script.stdout is not None
    assert script.stdout.readline() == "ready\n"
    wait_for(lambda: len(below(script.pid)) == 3)
    processes = below(script.pid)
    script.send_signal(number)
    script.wait(20)
    if number == signal.SIGKILL:  # the kernel ends the children, not what they have started
        *processes, grandchild = processes
        os.kill(grandchild, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, processes)))
    assert script.returncode == {signal.SIGTERM: 143, signal.SIGINT: -2, signal.SIGKILL: -9}[number]
    assert ("cleaned" in script.stdout.read()) == (number != signal.SIGKILL)


def test_every_script_starts_its_processes_in_this_way():
    own = [*BENCH.glob("*.py"), BENCH.parent / "kill.py"]
    direct = re.compile(r"subprocess\.(run|Popen|call|check_call|check_output)\(|os\.(system|fork|spawn)")
    assert [path.name for path in own if direct.search(path.read_text())] == ["children.py"]
