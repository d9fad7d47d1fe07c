"""Kill a run at random moments, run the same command again each time, and compare with an uninterrupted run.

    python scripts/kill.py --kills 10 experiment=quickstart_edsr trainer.max_steps=60 checkpoint.every=5 validate.every=10

All weights, the content of the last checkpoint (discriminator, optimizer state) and all entries of metrics.csv except the
speed must be equal, bit for bit. ``--kills`` is the number of kills in each stage, ``--between`` the number after a stage
and before the first checkpoint of the next one. ``--term 5`` also ends each stage five times with SIGTERM. ``--torn``
damages the newest checkpoint after each kill, as a power failure may. ``--writing 5`` also kills each stage five times
while it writes a checkpoint (a ``.part`` file).
``--any-process`` sends each signal to a random process of the run: to one of the ranks or to a loader's worker, e.g. with
``trainer.devices=2 trainer.strategy=ddp trainer.accelerator=cpu``. All processes must be gone within ``--gone`` seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from bench.children import start_child
from safetensors.torch import load_file

from sr_train import plan

PROGRAM = "import sys; sys.argv[0] = 'sr-train'; from sr_train.cli.train import main; main()"


def launch(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments, "name=run", f"paths.runs={folder}"]
    return start_child(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, arguments: list[str]) -> float:
    start = time.monotonic()
    process = launch(folder, arguments)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"exit code {process.returncode}:\n{output}")
    return time.monotonic() - start


def rows(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if ",speed/" not in line]


def same(a: object, b: object) -> bool:
    """Return true if two contents of a checkpoint are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def last_state(stage: Path) -> dict[str, object]:
    """Return the networks, averages and optimizer state of a stage's last checkpoint."""
    content = torch.load(max(stage.glob("checkpoints/step_*.ckpt")), map_location="cpu", weights_only=True)
    return {k: content[k] for k in ("global_step", "state_dict", "optimizer_states")}


def compare(a: Path, b: Path) -> list[str]:
    problems = []
    stages = sorted(p.parent.relative_to(a) for p in a.glob("run/*/weights.safetensors"))
    assert stages
    for stage in stages:
        for name in ("weights.safetensors", "best.safetensors"):
            one, two = load_file(a / stage / name), load_file(b / stage / name)
            if one.keys() != two.keys() or any(not torch.equal(one[k], two[k]) for k in one):
                problems.append(f"{stage}/{name} differs")
        if not same(last_state(a / stage), last_state(b / stage)):
            problems.append(f"{stage}: the last checkpoints differ")
        if rows(a / stage / "metrics.csv") != rows(b / stage / "metrics.csv"):
            problems.append(f"{stage}/metrics.csv differs")
    return problems


def tear(folder: Path, chance: random.Random) -> None:
    """Truncate or damage the newest checkpoint."""
    files = sorted(folder.glob("run/*/checkpoints/step_*.ckpt"))
    if len(files) > 1:
        data = bytearray(files[-1].read_bytes())
        if chance.random() < 0.5:
            del data[chance.randrange(len(data)) :]
        else:
            at = chance.randrange(len(data) - 4096)
            data[at : at + 4096] = bytes(4096)
        files[-1].write_bytes(data)


def newest(folder: Path, stage: str) -> str:
    """Return an identifier of the newest checkpoint of a stage, or an empty string."""
    last = folder / "run" / stage / "checkpoints" / "last"
    return f"{last.stat().st_mtime_ns}" if last.exists() else ""


def wait(process: subprocess.Popen[str], condition: Callable[[], bool], longest: float = 900) -> None:
    end = time.monotonic() + longest
    while time.monotonic() < end and process.poll() is None and not condition():
        time.sleep(0.002)


def writing(folder: Path, stage: str) -> bool:
    """Return true while a stage is writing a checkpoint."""
    return any((folder / "run" / stage / "checkpoints").glob(".*.ckpt.part"))


def strike_writing(folder: Path, arguments: list[str], stage: str) -> bool:
    """Kill (kill -9) while a checkpoint is being written. Return true if a partial checkpoint was left.

    A small checkpoint is written in a millisecond. Therefore the process is stopped when a partial checkpoint appears, and
    killed only if the checkpoint is still partial.
    """
    finished = folder / "run" / stage / "weights.safetensors"
    process = launch(folder, arguments)
    while process.poll() is None and not finished.exists():
        if writing(folder, stage):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            if writing(folder, stage):
                break
            process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()
    return writing(folder, stage)


SECONDS: list[float] = []  # from a signal to the end of all processes


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in tree(int(child)))]


def parent_of(pid: int) -> int:
    """Return a process's parent, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command_of(pid: int) -> bytes:
    """Return the command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Return true for a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def strike(
    process: subprocess.Popen[str], number: signal.Signals, chance: random.Random | None = None, gone: float = 60
) -> bool:
    """Send a signal to a process, or with ``chance`` to a random one of its tree, unless it has finished."""
    if process.poll() is not None:
        return False
    start, everyone = time.monotonic(), list[int]()
    if chance is None:
        process.send_signal(number)
    else:
        everyone = tree(process.pid)
        # A loader's worker, which has the command line of its parent, ignores SIGTERM.
        children = [p for p in everyone if parent_of(p) == process.pid]
        ranks = [process.pid, *(p for p in children if command_of(p) != command_of(process.pid))]
        with suppress(ProcessLookupError):
            os.kill(chance.choice(ranks if number == signal.SIGTERM else everyone), number)
    output, _ = process.communicate()
    while any(alive(pid) for pid in everyone):
        if time.monotonic() - start > gone:
            sys.exit(f"{number.name}: processes live {gone} s later\n{output}")
        time.sleep(0.05)
    SECONDS.append(time.monotonic() - start)
    if number == signal.SIGTERM and process.returncode not in (0, 75, -15):
        sys.exit(f"SIGTERM: exit code {process.returncode}\n{output}")
    return True


def disturb(folder: Path, options: argparse.Namespace, arguments: list[str], stages: Sequence[str]) -> str:
    """Kill every stage repeatedly, each time after one more checkpoint or during the start, and between stages."""
    chance = random.Random(options.seed)
    victims = chance if options.any_process else None
    counts: list[str] = []
    for i, stage in enumerate(stages):
        numbers = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.term
        chance.shuffle(numbers)
        done = {signal.SIGKILL: 0, signal.SIGTERM: 0}
        finished = folder / "run" / stage / "weights.safetensors"
        halves = sum(strike_writing(folder, arguments, stage) for _ in range(options.writing) if not finished.exists())
        for number in numbers:
            before = newest(folder, stage)
            process = launch(folder, arguments)
            if chance.random() < 0.15:  # during the start
                time.sleep(chance.uniform(0, 5))
            else:
                wait(process, lambda: newest(folder, stage) != before or finished.exists())  # noqa: B023 - used at once
                time.sleep(chance.uniform(0, options.longest))
            done[number] += strike(process, number, victims, options.gone)
            if number == signal.SIGKILL and options.torn:
                tear(folder, chance)
            if finished.exists():
                print(f"({stage} finished before the last kill; give it more steps)")
                break
        counts.append(
            f"{stage}: {done[signal.SIGKILL]} kill -9, {done[signal.SIGTERM]} SIGTERM, {halves} while writing"
        )
        between = 0
        for _ in range(options.between if i + 1 < len(stages) else 0):
            process = launch(folder, arguments)
            wait(process, finished.exists)
            time.sleep(chance.uniform(0, 2))
            between += not newest(folder, stages[i + 1]) and strike(process, signal.SIGKILL, victims, options.gone)
            process.kill()
            process.wait()
        if options.between and i + 1 < len(stages):
            counts.append(f"between {stage} and {stages[i + 1]}: {between}")
    return "; ".join(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="kills in each stage")
    parser.add_argument("--term", type=int, default=0, help="SIGTERMs in each stage")
    parser.add_argument("--between", type=int, default=2, help="kills between two stages")
    parser.add_argument(
        "--longest", type=float, default=0.5, help="largest time from a checkpoint to the kill, in seconds"
    )
    parser.add_argument(
        "--writing", type=int, default=0, help="kills in each stage while a checkpoint is being written"
    )
    parser.add_argument("--any-process", action="store_true", help="send signals to random processes of the run")
    parser.add_argument("--gone", type=float, default=60, help="seconds within which all processes must have ended")
    parser.add_argument("--torn", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        whole = finish(calm, arguments)
        print(f"uninterrupted: {whole:.1f} s", flush=True)
        stages = plan([*arguments, "name=run"]).selected
        counts = disturb(disturbed, options, arguments, stages)
        finish(disturbed, arguments)
        problems = compare(calm, disturbed)
        print(f"from a signal to the end of all processes: at most {max(SECONDS, default=0):.1f} s", flush=True)
        print(f"{counts}{'; damaged checkpoints' if options.torn else ''}: {problems or 'all equal'}")
        sys.exit(bool(problems))


if __name__ == "__main__":
    main()
