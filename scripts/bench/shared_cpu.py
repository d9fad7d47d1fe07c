"""Time of a training step alone and next to busy programs, for each way in which OpenMP's threads may wait.

    python scripts/bench/shared_cpu.py
    python scripts/bench/shared_cpu.py --busy 1,2,3 --nice 10 --channels 16 --blocks 4 --batch 16 --patch 24

A step is forward, L1, backward and Adam of an EDSR x2 on one batch in memory. Each way runs in its own process, because OpenMP
reads the environment when torch is loaded; the processes alternate blocks of ``--block`` steps while the others wait.

- ``default``: nothing is set, as before sr-train set OMP_WAIT_POLICY
- ``spin 1000``, ``spin 10000``: GOMP_SPINCOUNT, rounds of spinning before a thread sleeps
- ``passive``: OMP_WAIT_POLICY=PASSIVE, which sr-train's commands set
- ``parts``: PASSIVE, and the batch in as many parts as torch has threads (task.parts)

The columns are the median seconds per step alone and next to N busy processes, each of which keeps a core busy. The busy
processes are children of this script and end with it. ``fair`` is the time that a step would take if its threads got their
share of the cores: the time alone, times (threads + N) / cores, if there are fewer cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from children import end, start_child
from peer import Program, Turns

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "parts": {"OMP_WAIT_POLICY": "PASSIVE"},
}
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Train in this process, alternating with the other ways."""
    import torch
    from torch.nn.functional import l1_loss

    from sr_train.models.edsr import EDSR
    from sr_train.tasks.parts import BatchParts

    torch.manual_seed(0)
    network = EDSR(scale=2, channels=job["channels"], blocks=job["blocks_of_net"], res_scale=1.0)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    run = BatchParts(network, torch.get_num_threads() if job["way"] == "parts" else 1)
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    side, bf16 = job["patch"], job["precision"] == "bf16"
    lr, hr = torch.rand(job["batch"], 3, side, side), torch.rand(job["batch"], 3, 2 * side, 2 * side)
    lr = lr.contiguous(memory_format=torch.channels_last)
    turns = Turns(job["block"], job["blocks"])
    for _ in range(job["block"] * job["blocks"] + 1):
        turns.begin()
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            sr = run(lr)
        l1_loss(sr.float(), hr).backward()
        adam.step()
    return {"threads": torch.get_num_threads(), "torch": torch.__version__}


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print("\n" + json.dumps(steps(json.loads(sys.argv[1]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", default="1,2", help="numbers of busy processes (default: %(default)s)")
    parser.add_argument("--nice", type=int, default=0, help="niceness of the busy processes (default: %(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="default: %(default)s")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=16, help="residual blocks of the network")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=48, help="LR patch")
    parser.add_argument("--block", type=int, default=3, help="steps per block (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each way and load (default: %(default)s)")
    args = parser.parse_args()
    loads = [0, *(int(n) for n in args.busy.split(","))]
    rounds = [n for n in loads for _ in range(args.rounds)]
    sizes = {k: getattr(args, k) for k in ("precision", "channels", "batch", "patch", "block")}
    job = {**sizes, "blocks_of_net": args.blocks, "blocks": 1 + len(rounds)}
    seconds: dict[str, dict[int, list[float]]] = {way: {n: [] for n in loads} for way in args.ways.split(",")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"{cores} cores, load average {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(prefix="bench-shared-cpu-") as folder:
        programs: dict[str, Program] = {}
        for way in seconds:
            for name in VARIABLES:
                os.environ.pop(name, None)
            os.environ.update(WAYS[way])
            log = Path(folder, f"{way}.log")
            programs[way] = Program(sys.executable, __file__, {**job, "way": way}, log, asis=True)
            programs[way].turn()
        for count in rounds:
            for way, program in programs.items():
                busy = [start_child(["nice", "-n", str(args.nice), sys.executable, "-c", BUSY]) for _ in range(count)]
                try:
                    seconds[way][count].append(program.turn() / args.block)
                finally:
                    for process in busy:
                        end(process)
        threads = {program.end()["threads"] for program in programs.values()}
    report(seconds, max(threads), cores)


BUSY = "while True: pass"


def report(seconds: dict[str, dict[int, list[float]]], threads: int, cores: int) -> None:
    """Print the median seconds per step of each way alone and next to busy processes."""
    loads = list(next(iter(seconds.values())))
    heads = ["alone", *(f"next to {n} (fair)" for n in loads[1:])]
    print(f"{threads} threads; seconds per step, median\n{'':12}" + "".join(f"{head:>24}" for head in heads))
    for way, found in seconds.items():
        middle = {n: statistics.median(values) for n, values in found.items()}
        cells = [f"{middle[0]:.3f}"]
        cells += [f"{middle[n]:.3f} ({middle[0] * max(1, (threads + n) / cores):.3f})" for n in loads[1:]]
        print(f"{way:12}" + "".join(f"{cell:>24}" for cell in cells))
    if "default" in seconds and "passive" in seconds:
        pairs = zip(seconds["passive"][0], seconds["default"][0], strict=True)
        print(f"passive alone: {statistics.median(a / b for a, b in pairs) - 1:+.1%} (at most +3 %)")


if __name__ == "__main__":
    main()
