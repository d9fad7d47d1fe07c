"""Are the samples of degraded training data equal, however they are loaded? Exits with 1 if not.

The first samples of a stage are loaded with 0, 1 and 4 workers, by 2 ranks, and by processes that are killed (kill -9) and
started again behind their last sample. Each sample's pixels (LR, HR, target) are compared by their digests.

    python scripts/bench/degrade_equal.py degrade=blind samples=2000 kills=5
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from children import start_child

from sr_train.config.build import build
from sr_train.config.plan import plan
from sr_train.data.draws import PositionSampler

BATCH = 8  # samples of a batch of one rank


def lines(degrade: str, first: int, workers: int, rank: int = 0, world: int = 1) -> Iterator[str]:
    """Yield "position digest" for the samples of a rank, without end. ``first`` is the first batch of all ranks."""
    keys = [
        f"degrade={degrade}",
        "data=toy",
        "data.usm=true",
        "data.lr_patch=32",
        "scale=4",
        f"data.batch={BATCH}",
        "sets=[]",
    ]
    config = plan([*keys, f"data.workers={workers}"]).stages[0].config["data"]
    data = build(config)
    sampler = PositionSampler(BATCH, first_step=first, rank=rank, world=world)
    for number, batch in enumerate(data.loader(sampler)):
        start = ((first + number) * world + rank) * BATCH
        for slot in range(BATCH):
            digest = hashlib.blake2b(digest_size=16)
            for name in ("lr", "hr", "target"):
                digest.update(batch[name][slot].contiguous().numpy().tobytes())
            yield f"{start + slot} {digest.hexdigest()}"


def table(found: Iterator[str], last: int) -> dict[int, str]:
    """Return {position: digest} of the lines up to the position ``last``."""
    seen: dict[int, str] = {}
    for line in found:
        position, digest = line.split()
        if int(position) >= last:
            return seen
        seen[int(position)] = digest
    return seen


def two_ranks(degrade: str, samples: int) -> dict[int, str]:
    """Return the samples of two ranks, the first without workers, the second with two."""
    return table(lines(degrade, 0, 0, 0, 2), samples) | table(lines(degrade, 0, 2, 1, 2), samples)


def killed(degrade: str, samples: int, workers: int, kills: int) -> dict[int, str]:
    """Return the samples of processes of which each is killed after a random number of samples, but the last one."""
    draw, seen = random.Random(0), dict[int, str]()
    for attempt in range(kills + 1):
        first = len(seen) // BATCH  # a batch that was cut by the kill is loaded again
        left = samples - first * BATCH
        goal = left if attempt == kills else draw.randrange(left * (attempt + 1) // (kills + 1) + 1)
        command = [sys.executable, __file__, f"degrade={degrade}", f"first={first}", f"workers={workers}"]
        with start_child(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout):
                position, digest = line.split()
                if int(position) < samples:
                    assert seen.setdefault(int(position), digest) == digest, f"position {position} differs after a kill"
                if count + 1 >= goal or int(position) >= samples - 1:
                    break
            os.killpg(process.pid, signal.SIGKILL)
    return seen


def main(degrade: str = "blind", samples: int = 2000, kills: int = 5, first: int = -1, workers: int = 0) -> int:
    """Compare all ways of loading, or print the lines of one process (``first`` at least 0)."""
    if first >= 0:
        for line in lines(degrade, first, workers):
            print(line, flush=True)
    start = time.perf_counter()
    wanted = table(lines(degrade, 0, 0), samples)
    assert list(wanted) == list(range(samples))
    assert len(set(wanted.values())) == samples
    print(f"0 workers: {samples} samples, all different, {time.perf_counter() - start:.0f} s", flush=True)
    good = True
    for name, found in (
        ("1 worker", lambda: table(lines(degrade, 0, 1), samples)),
        ("4 workers", lambda: table(lines(degrade, 0, 4), samples)),
        ("2 ranks, 0 and 2 workers", lambda: two_ranks(degrade, samples)),
        (f"{kills} kills, 0 workers", lambda: killed(degrade, samples, 0, kills)),
        (f"{kills} kills, 2 workers", lambda: killed(degrade, samples, 2, kills)),
    ):
        start, seen = time.perf_counter(), found()
        wrong = [p for p in wanted if seen.get(p) != wanted[p]]
        good = good and not wrong
        print(f"{name}: {len(wrong)} of {samples} differ, {time.perf_counter() - start:.0f} s", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.exit(main(given.pop("degrade", "blind"), **{key: int(value) for key, value in given.items()}))
