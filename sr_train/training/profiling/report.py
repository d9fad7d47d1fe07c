"""What a profile means: where the time of a step goes, as a table and as advice. Numbers in, words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

DATA, COPY, FORWARD, BACKWARD = "data wait", "copy", "forward", "backward"

GUARD, OPTIMIZER, CALLBACKS, OTHER = "gradient check", "optimizer", "callbacks", "other"

LOGGING, VALIDATION, CHECKPOINT = "logging", "validation", "checkpoint"

#: In the order in which a step meets them. ``optimizer`` includes the EMA, ``callbacks`` are the user's own, ``other`` is the
#: rest of the loop, Lightning's and ours.
PARTS: tuple[str, ...] = (
    DATA,
    COPY,
    FORWARD,
    BACKWARD,
    GUARD,
    OPTIMIZER,
    LOGGING,
    VALIDATION,
    CHECKPOINT,
    CALLBACKS,
    OTHER,
)


class Rare(NamedTuple):
    """Something that is done every so often."""

    seconds: float  #: each time, beyond what the part costs in every step
    every: int  #: steps
    seen: int  #: times within the measured steps; 0: it was tried out after them


class Setup(NamedTuple):
    """What advice has to know of a run."""

    pairs: int  #: a step
    workers: int
    cores: int  #: of this machine that the process may use
    decoded: int = 0  #: training sources whose files are decoded for every sample
    reduced: int = 0  #: training sources whose LR is made from HR for every sample
    precision: str = "32-true"
    native_bf16: bool = False  #: whether the hardware computes in bf16 itself
    compiled: bool = False
    fused: bool = False  #: the optimizer
    memory: tuple[int, int] | None = None  #: of the GPU: (most that was taken, all there is), in bytes


class Profile(NamedTuple):
    """A measurement."""

    first: int  #: step that was measured
    last: int
    parts: Mapping[str, float]  #: seconds a step; what is rare is spread over its interval
    rare: Mapping[str, Rare]
    loader: float  #: pairs/s of the loader alone
    walls: Sequence[float]  #: seconds of each measured step without what is rare

    @property
    def step(self) -> float:
        """Seconds a step."""
        return sum(self.parts.values())

    def share(self, *parts: str) -> float:
        """Of a step."""
        return sum(self.parts.get(p, 0.0) for p in parts) / max(self.step, 1e-12)


def spread(seconds: Sequence[float], due: Sequence[bool], every: int, tried: float) -> tuple[float, Rare]:
    """(seconds a step in the long run, of a part that has more to do every ``every`` steps; what it takes then).

    Args:
        seconds: of the part, by step.
        due: the steps in which there was more to do.
        every: steps.
        tried: seconds that it takes each time, for where no step was due.
    """
    usual = [s for s, d in zip(seconds, due, strict=True) if not d]
    often = [s for s, d in zip(seconds, due, strict=True) if d]
    base = sum(usual) / len(usual) if usual else 0.0
    each = max(median(often) - base, 0.0) if often else tried  # the first may open files
    return base + each / every, Rare(each, every, len(often))


def table(profile: Profile, setup: Setup) -> list[str]:
    """Where the time of a step goes."""
    width = max(map(len, PARTS))
    lines = [f"  {'part':<{width}}  {'ms a step':>9}  {'share':>6}"]
    for part in PARTS:
        seconds = profile.parts.get(part, 0.0)
        if part == CALLBACKS and not seconds:
            continue
        line = f"  {part:<{width}}  {seconds * 1e3:>9.2f}  {profile.share(part):>6.1%}"
        if part in profile.rare:
            each, every, seen = profile.rare[part]
            how = f"{seen} in these steps" if seen else "none in these steps: tried out after them"
            line += f"  {each * 1e3:,.1f} ms every {every:,} steps ({how})"
        lines.append(line)
    lines.append(f"  {'step':<{width}}  {profile.step * 1e3:>9.2f}  {1:>6.1%}")
    walls = [1e3 * s for s in profile.walls]
    lines.append(
        f"  without what is rare, a step took {min(walls):,.1f} to {max(walls):,.1f} ms, "
        f"half of them up to {median(walls):,.1f} ms"
    )
    rate = setup.pairs / max(profile.step, 1e-12)
    lines.append(f"  training {rate:,.0f} pairs/s; the loader alone {profile.loader:,.0f} pairs/s")
    return lines


def csv(profile: Profile) -> str:
    """The same for programs."""
    rows = ["part,seconds_per_step,share,seconds_each,every,seen"]
    for part in PARTS:
        rare = ",".join(f"{x!r}" for x in profile.rare.get(part, ())) or ",,"
        rows.append(f"{part},{profile.parts.get(part, 0.0)!r},{profile.share(part)!r},{rare}")
    return "\n".join(rows) + "\n"


def advise(profile: Profile, setup: Setup) -> list[str]:
    """What would make the run faster, the most promising first; where nothing would, that."""
    found = [
        *_about_data(profile, setup),
        *_about_intervals(profile),
        *_about_computation(profile, setup),
        *_about_the_machine(profile),
    ]
    if found:
        return found
    own = profile.share(FORWARD, BACKWARD)
    return [f"nothing to advise: {own:.0%} of a step is the network's own computation"]


def _about_data(profile: Profile, setup: Setup) -> list[str]:
    """Waiting for data."""
    wait = profile.share(DATA)
    if wait <= 0.1:
        return []
    without = setup.pairs / max(profile.step - profile.parts[DATA], 1e-12)
    if setup.workers and profile.loader > 1.5 * without:
        return [
            f"{wait:.0%} of a step is waiting for data, though the loader alone gives {profile.loader:,.0f} pairs/s "
            f"and the rest of a step takes {without:,.0f}: they share the same cores; "
            "fewer threads (OMP_NUM_THREADS) may be faster"
        ]
    lines = [f"{wait:.0%} of a step is waiting for data:"]
    if setup.reduced:
        lines.append(
            "- LR is made from HR for every patch: prepare it (sr-prepare images=DIR store=FILE.lmdb scales=[...])"
        )
    if setup.decoded:
        lines.append(
            "- files are decoded for every patch: put them into a store (sr-prepare), or data.cache=true if they fit"
        )
    if not setup.workers:
        lines.append("- data.workers=1 or more loads while the network computes; now nothing does")
    elif setup.workers < setup.cores:
        lines.append(
            f"- more loader processes: data.workers is {setup.workers}, the process may use {setup.cores} cores"
        )
    elif len(lines) == 1:
        lines.append(
            f"- data.workers={setup.workers} is all that {setup.cores} cores carry; a faster disk or more cores"
        )
    return ["\n".join(lines)]


def _about_intervals(profile: Profile) -> list[str]:
    """Things that are done too often."""
    found = []
    for part, key, most in ((VALIDATION, "validate", 0.1), (CHECKPOINT, "checkpoint", 0.02), (LOGGING, "record", 0.02)):
        share, rare = profile.share(part), profile.rare.get(part)
        if share > most and rare is not None:
            rest = profile.step - rare.seconds / rare.every
            enough = round(rare.seconds / max(rest * most, 1e-12) + 0.5)
            if enough > rare.every:
                found.append(f"{part} takes {share:.0%}: {key}.every={_rounded(enough)} instead of {rare.every}")
    return found


def _rounded(steps: int) -> int:
    """Up, to one significant digit: 4,321 -> 5,000."""
    unit = 10 ** (len(str(steps)) - 1)
    return -(-steps // unit) * unit


def _about_the_machine(profile: Profile) -> list[str]:
    """Steps that differ though they do the same. The median: any machine has a slow moment."""
    if median(profile.walls) <= 1.5 * min(profile.walls):
        return []
    return [
        "equal steps take unequal time: other programs use this machine too; measure again when it is idle, or with fewer "
        "threads than it has cores (OMP_NUM_THREADS)"
    ]


def _about_computation(profile: Profile, setup: Setup) -> list[str]:
    """Optimizer, precision, batch."""
    found = []
    share = profile.share(OPTIMIZER, GUARD)
    if share > 0.15:
        scaled = (
            setup.precision == "16-mixed"
        )  # fused ones undo the scale inside: neither clipping nor the check could see
        fused = "" if setup.fused or scaled else "task.optimizer.fused=true, or "
        found.append(
            f"the optimizer, its EMA and the check of its gradients take {share:.0%}: {fused}a larger data.batch"
        )
    if profile.share(OTHER, CALLBACKS) > 0.15:
        found.append(
            f"{profile.share(OTHER, CALLBACKS):.0%} of a step is neither data nor network: a larger data.batch spreads it"
        )
    if setup.native_bf16 and setup.precision == "32-true":
        found.append("the hardware computes in bf16 itself: trainer.precision=bf16-mixed")
    if setup.memory is not None and setup.memory[0] < 0.5 * setup.memory[1]:
        free = 1 - setup.memory[0] / setup.memory[1]
        more = "a larger data.batch" if setup.compiled else "a larger data.batch, or task.compile=true"
        found.append(f"{free:.0%} of the GPU's memory is free: {more}")
    return found
