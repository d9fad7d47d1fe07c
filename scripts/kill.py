"""Kill a run at random moments, run the same command again each time, and compare with a run that nobody disturbed.

    python scripts/kill.py --kills 10 experiment=quickstart_edsr trainer.max_steps=60 checkpoint.every=5 validate.every=10

All weights must be equal bit for bit, what the last checkpoint holds (a discriminator, the optimizer's state) too, and all
rows of metrics.csv but those of speed. ``--kills`` are in each stage,
``--between`` after a stage and before the next one's first checkpoint. ``--term 5`` also ends each stage by SIGTERM five
times; ``--torn`` damages the newest checkpoint after each kill, as a machine that loses power may; ``--writing 5`` also kills
each stage five times while it is writing a checkpoint, its ``.part`` standing beside the others.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from sr_train import plan

PROGRAM = "import sys; sys.argv[0] = 'sr-train'; from sr_train.cli.train import main; main()"


def launch(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments, "name=run", f"paths.runs={folder}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
    """Whether two contents of a checkpoint are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def last_state(stage: Path) -> dict[str, object]:
    """Networks, averages and optimizer in a stage's last checkpoint."""
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
            problems.append(f"{stage}/checkpoints: the last ones differ")
        if rows(a / stage / "metrics.csv") != rows(b / stage / "metrics.csv"):
            problems.append(f"{stage}/metrics.csv differs")
    return problems


def tear(folder: Path, chance: random.Random) -> None:
    """Cut or spoil the newest checkpoint."""
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
    """What the newest checkpoint of a stage is, or nothing."""
    last = folder / "run" / stage / "checkpoints" / "last"
    return f"{last.stat().st_mtime_ns}" if last.exists() else ""


def wait(process: subprocess.Popen[str], condition: Callable[[], bool], longest: float = 900) -> None:
    end = time.monotonic() + longest
    while time.monotonic() < end and process.poll() is None and not condition():
        time.sleep(0.002)


def writing(folder: Path, stage: str) -> bool:
    """Whether a checkpoint of a stage is half written at this moment."""
    return any((folder / "run" / stage / "checkpoints").glob(".*.ckpt.part"))


def strike_writing(folder: Path, arguments: list[str], stage: str) -> bool:
    """kill -9 while a checkpoint is half written; whether it was left behind so.

    A small one is written in a millisecond: the process is frozen at the first sight of one, looked at again, and killed
    only if it had not done meanwhile.
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


def strike(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """End a process, unless it has got through."""
    if process.poll() is not None:
        return False
    process.send_signal(number)
    output, _ = process.communicate()
    if number == signal.SIGTERM and process.returncode not in (143, -15):
        sys.exit(f"SIGTERM: exit code {process.returncode}\n{output}")
    return True


def disturb(folder: Path, options: argparse.Namespace, arguments: list[str], stages: Sequence[str]) -> str:
    """Kill in every stage after it has saved at least once more, sometimes while it starts, and between stages."""
    chance = random.Random(options.seed)
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
            if chance.random() < 0.15:  # while it starts
                time.sleep(chance.uniform(0, 5))
            else:
                wait(process, lambda: newest(folder, stage) != before or finished.exists())  # noqa: B023 - used at once
                time.sleep(chance.uniform(0, options.longest))
            done[number] += strike(process, number)
            if number == signal.SIGKILL and options.torn:
                tear(folder, chance)
            if finished.exists():
                print(f"({stage} got through before it was killed as often: give it more steps)")
                break
        counts.append(
            f"{stage}: {done[signal.SIGKILL]} kill -9, {done[signal.SIGTERM]} SIGTERM, {halves} while writing"
        )
        between = 0
        for _ in range(options.between if i + 1 < len(stages) else 0):
            process = launch(folder, arguments)
            wait(process, finished.exists)
            time.sleep(chance.uniform(0, 2))
            between += not newest(folder, stages[i + 1]) and strike(process, signal.SIGKILL)
            process.kill()
            process.wait()
        if options.between and i + 1 < len(stages):
            counts.append(f"between {stage} and {stages[i + 1]}: {between}")
    return "; ".join(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="in each stage")
    parser.add_argument("--term", type=int, default=0, help="in each stage")
    parser.add_argument("--between", type=int, default=2, help="kills between two stages")
    parser.add_argument(
        "--longest", type=float, default=0.5, help="seconds from the first checkpoint to the kill, at most"
    )
    parser.add_argument("--writing", type=int, default=0, help="kills in each stage while a checkpoint is half written")
    parser.add_argument("--torn", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        whole = finish(calm, arguments)
        print(f"undisturbed: {whole:.1f} s", flush=True)
        stages = plan([*arguments, "name=run"]).selected
        counts = disturb(disturbed, options, arguments, stages)
        finish(disturbed, arguments)
        problems = compare(calm, disturbed)
        print(f"{counts}{'; torn checkpoints' if options.torn else ''}: {problems or 'all equal'}")
        sys.exit(bool(problems))


if __name__ == "__main__":
    main()
