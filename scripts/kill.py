"""Kill a run at random moments, run the same command again each time, and compare with a run that nobody disturbed.

    python scripts/kill.py --kills 10 experiment=quickstart trainer.max_steps=60 checkpoint.every=5 validate.every=10

All weights must be equal bit for bit, and all rows of metrics.csv but those of speed. ``--term 5`` also ends it by SIGTERM
five times; ``--torn`` damages the newest checkpoint after each kill, as a machine that loses power may.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

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


def compare(a: Path, b: Path) -> list[str]:
    problems = []
    stages = sorted(p.parent.relative_to(a) for p in a.glob("run/*/weights.safetensors"))
    assert stages
    for stage in stages:
        for name in ("weights.safetensors", "best.safetensors"):
            one, two = load_file(a / stage / name), load_file(b / stage / name)
            if one.keys() != two.keys() or any(not torch.equal(one[k], two[k]) for k in one):
                problems.append(f"{stage}/{name} differs")
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


def newest(folder: Path) -> str:
    """Name of the newest checkpoint of any stage."""
    return max((f"{p.stat().st_mtime_ns} {p}" for p in folder.glob("run/*/checkpoints/last")), default="")


def disturb(folder: Path, options: argparse.Namespace, arguments: list[str]) -> tuple[int, int]:
    """Kill at a random moment after each launch has saved once, some while it starts. Returns (kills, terms)."""
    chance = random.Random(options.seed)
    plan = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.term
    chance.shuffle(plan)
    done = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    for number in plan:
        process = launch(folder, arguments)
        before = newest(folder)
        early = chance.random() < 0.15  # while it starts
        end = time.monotonic() + (chance.uniform(0, 5) if early else 600)
        while time.monotonic() < end and process.poll() is None and newest(folder) == before:
            time.sleep(0.002)
        try:
            process.communicate(timeout=chance.uniform(0, options.longest) if not early else 0.001)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            output, _ = process.communicate()
            done[number] += 1
            if number == signal.SIGTERM and process.returncode not in (143, -15):
                sys.exit(f"SIGTERM: exit code {process.returncode}\n{output}")
            if number == signal.SIGKILL and options.torn:
                tear(folder, chance)
            continue
        if process.returncode:
            sys.exit(f"exit code {process.returncode}")
        print("(got through before it was killed)")
        break
    return done[signal.SIGKILL], done[signal.SIGTERM]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--term", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=0.5, help="seconds from the first checkpoint to the kill, at most"
    )
    parser.add_argument("--torn", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        whole = finish(calm, arguments)
        print(f"undisturbed: {whole:.1f} s", flush=True)
        kills, terms = disturb(disturbed, options, arguments)
        finish(disturbed, arguments)
        problems = compare(calm, disturbed)
        print(
            f"{kills} kill -9, {terms} SIGTERM{', torn checkpoints' if options.torn else ''}: {problems or 'all equal'}"
        )
        sys.exit(bool(problems))


if __name__ == "__main__":
    main()
