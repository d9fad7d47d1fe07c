"""Report of ``profile=true``: a table with the time of each part of a step, and advice for a faster run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

DATA, COPY, FORWARD, BACKWARD = "data wait", "copy", "forward", "backward"

COMMUNICATION = "communication"  # the part of the exchange of gradients that the backward pass does not hide

GUARD, OPTIMIZER, CALLBACKS, OTHER = "gradient check", "optimizer", "callbacks", "other"

LOGGING, VALIDATION, CHECKPOINT = "logging", "validation", "checkpoint"

#: Parts in the order of a step. ``optimizer`` includes the EMA, ``callbacks`` are the user's, ``other`` is the remaining loop.
PARTS: tuple[str, ...] = (
    DATA,
    COPY,
    FORWARD,
    BACKWARD,
    COMMUNICATION,
    GUARD,
    OPTIMIZER,
    LOGGING,
    VALIDATION,
    CHECKPOINT,
    CALLBACKS,
    OTHER,
)


class Rare(NamedTuple):
    """Time of a rare part of a run, e.g. a validation, which occurs every N steps."""

    seconds: float  #: seconds of one occurrence, in addition to the part's seconds in every step
    every: int  #: interval in steps
    seen: int  #: number of occurrences in the measured steps; 0 if the part was run once after them


class Setup(NamedTuple):
    """Properties of a run that the advice depends on."""

    pairs: int  #: pairs per step
    workers: int
    cores: int  #: number of cores that the process may use
    decoded: int = 0  #: number of training sources whose files are decoded for every sample
    reduced: int = 0  #: number of training sources whose LR is computed from HR for every sample
    precision: str = "32-true"
    native_bf16: bool = False  #: true if the hardware has bf16 instructions
    compiled: bool = False  #: true if the network is compiled
    fused: bool = False  #: true if the optimizer is fused
    exchange: tuple[int, float] | None = None  #: (processes, seconds per step from the first to the last gradient sent)
    memory: tuple[int, int] | None = None  #: memory of the GPU in bytes: (maximum that was reserved, total)


class Profile(NamedTuple):
    """Measured times of a run."""

    first: int  #: first measured step
    last: int  #: last measured step
    parts: Mapping[str, float]  #: seconds per step; the cost of rare parts is spread over their interval
    rare: Mapping[str, Rare]
    loader: float  #: pairs/s of the loader alone
    walls: Sequence[float]  #: seconds of each measured step without rare parts

    @property
    def step(self) -> float:
        """Average seconds per step, with the average of the rare parts."""
        return sum(self.parts.values())

    def share(self, *parts: str) -> float:
        """Return the share of a step's time that the given parts need together, from 0 to 1."""
        return sum(self.parts.get(p, 0.0) for p in parts) / max(self.step, 1e-12)


def spread(seconds: Sequence[float], due: Sequence[bool], every: int, tried: float) -> tuple[float, Rare]:
    """Return (average seconds per step, :class:`Rare`) of a part that occurs every ``every`` steps, e.g. a validation.

    Args:
        seconds: seconds of the part in each measured step.
        due: for each measured step, true if the part occurred in it.
        every: interval in steps.
        tried: seconds of one occurrence, which are used if the part did not occur in the measured steps.
    """
    usual = [s for s, d in zip(seconds, due, strict=True) if not d]
    extra = [s for s, d in zip(seconds, due, strict=True) if d]
    base = sum(usual) / len(usual) if usual else 0.0
    each = max(median(extra) - base, 0.0) if extra else tried  # the median, because the first may open files
    return base + each / every, Rare(each, every, len(extra))


def table(profile: Profile, setup: Setup) -> list[str]:
    """Return the lines of a table with the time of each part of a step."""
    width = max(map(len, PARTS))
    lines = [f"  {'part':<{width}}  {'ms a step':>9}  {'share':>6}"]
    for part in PARTS:
        seconds = profile.parts.get(part, 0.0)
        if (part == CALLBACKS and not seconds) or (part == COMMUNICATION and setup.exchange is None):
            continue
        line = f"  {part:<{width}}  {seconds * 1e3:>9.2f}  {profile.share(part):>6.1%}"
        if part in profile.rare:
            each, every, seen = profile.rare[part]
            how = f"{seen} in these steps" if seen else "none in these steps: timed after them"
            line += f"  {each * 1e3:,.1f} ms every {every:,} steps ({how})"
        if part == COMMUNICATION and setup.exchange is not None:
            count, whole = setup.exchange
            line += f"  {count} processes exchange gradients for {whole * 1e3:,.1f} ms, partly during backward"
        lines.append(line)
    lines.append(f"  {'step':<{width}}  {profile.step * 1e3:>9.2f}  {1:>6.1%}")
    walls = [1e3 * s for s in profile.walls]
    lines.append(
        f"  without the rare parts, a step took {min(walls):,.1f} to {max(walls):,.1f} ms, "
        f"median {median(walls):,.1f} ms"
    )
    rate = setup.pairs / max(profile.step, 1e-12)
    lines.append(f"  training {rate:,.0f} pairs/s; the loader alone {profile.loader:,.0f} pairs/s")
    return lines


def csv(profile: Profile) -> str:
    """Return the numbers of the profile's table (see :func:`table`) as CSV."""
    rows = ["part,seconds_per_step,share,seconds_each,every,seen"]
    for part in PARTS:
        rare = ",".join(f"{x!r}" for x in profile.rare.get(part, ())) or ",,"
        rows.append(f"{part},{profile.parts.get(part, 0.0)!r},{profile.share(part)!r},{rare}")
    return "\n".join(rows) + "\n"


def advise(profile: Profile, setup: Setup) -> list[str]:
    """Return advice for a faster run. The advice that is likely to help most comes first."""
    found = [
        *_about_data(profile, setup),
        *_about_communication(profile),
        *_about_intervals(profile),
        *_about_computation(profile, setup),
        *_about_the_machine(profile),
    ]
    if found:
        return found
    own = profile.share(FORWARD, BACKWARD)
    return [f"no advice: {own:.0%} of a step is the network's own computation"]


def _about_data(profile: Profile, setup: Setup) -> list[str]:
    """Return advice for a faster run if training waits for data."""
    wait = profile.share(DATA)
    if wait <= 0.1:
        return []
    without = setup.pairs / max(profile.step - profile.parts[DATA], 1e-12)
    if setup.workers and profile.loader > 1.5 * without:
        return [
            f"{wait:.0%} of a step is waiting for data, but the loader alone gives {profile.loader:,.0f} pairs/s "
            f"and the other parts of a step need only {without:,.0f} pairs/s: loader and training compete for the same cores; "
            "fewer threads (OMP_NUM_THREADS) may be faster"
        ]
    lines = [f"{wait:.0%} of a step is waiting for data:"]
    if setup.reduced:
        lines.append(
            "- LR is computed from HR for every patch: prepare LR images (sr-prepare images=DIR store=FILE.lmdb scales=[...])"
        )
    if setup.decoded:
        lines.append(
            "- files are decoded for every patch: give data.cache=true if they fit into memory, or make a store (sr-prepare)"
        )
    if not setup.workers:
        lines.append("- no worker loads data while the network computes: give data.workers=1 or more")
    elif setup.workers < setup.cores:
        lines.append(
            f"- use more loader processes: data.workers is {setup.workers}, the process may use {setup.cores} cores"
        )
    elif len(lines) == 1:
        lines.append(
            f"- data.workers={setup.workers} already uses all {setup.cores} cores: use a faster disk or more cores"
        )
    return ["\n".join(lines)]


def _about_communication(profile: Profile) -> list[str]:
    """Return advice for a faster run if this process waits for gradients of the other processes."""
    share = profile.share(COMMUNICATION)
    if share <= 0.15:
        return []
    return [
        f"{share:.0%} of a step is waiting for the gradients of the other processes: give a larger data.batch, or fewer nodes; "
        "if one node is slower or loads data more slowly, all processes wait for this node"
    ]


def _about_intervals(profile: Profile) -> list[str]:
    """Return advice for a faster run if validation, checkpoints or log entries need a large share of the time."""
    found = []
    for part, key, most in ((VALIDATION, "validate", 0.1), (CHECKPOINT, "checkpoint", 0.02), (LOGGING, "record", 0.02)):
        share, rare = profile.share(part), profile.rare.get(part)
        if share > most and rare is not None:
            rest = profile.step - rare.seconds / rare.every
            enough = round(rare.seconds / max(rest * most, 1e-12) + 0.5)
            if enough > rare.every:
                found.append(
                    f"{part} takes {share:.0%} of the time: give {key}.every={_rounded(enough)} instead of {rare.every}"
                )
    return found


def _rounded(steps: int) -> int:
    """Round up to one significant digit: 4,321 -> 5,000."""
    unit = 10 ** (len(str(steps)) - 1)
    return -(-steps // unit) * unit


def _about_the_machine(profile: Profile) -> list[str]:
    """Return advice if steps with the same work take different times.

    The median of the steps is compared with the fastest step, so single slow steps have no influence.
    """
    if median(profile.walls) <= 1.5 * min(profile.walls):
        return []
    return [
        "equal steps take different times, perhaps because other programs use this machine: measure again when it is idle, "
        "or with fewer threads than cores (OMP_NUM_THREADS)"
    ]


def _about_computation(profile: Profile, setup: Setup) -> list[str]:
    """Return advice for a faster run about the optimizer, the precision, the batch and free memory of the GPU."""
    found = []
    share = profile.share(OPTIMIZER, GUARD)
    if share > 0.15:
        scaled = (
            setup.precision == "16-mixed"
        )  # a fused optimizer undoes the scale inside, after clipping and the check
        fused = "" if setup.fused or scaled else "task.optimizer.fused=true, or "
        found.append(
            f"the optimizer, its EMA and the check of its gradients take {share:.0%} of the time: "
            f"give {fused}a larger data.batch"
        )
    if profile.share(OTHER, CALLBACKS) > 0.15:
        found.append(
            f"{profile.share(OTHER, CALLBACKS):.0%} of a step is neither data nor network: give a larger data.batch"
        )
    if setup.native_bf16 and setup.precision == "32-true":
        found.append("the hardware computes in bf16: give trainer.precision=bf16-mixed")
    if setup.memory is not None and setup.memory[0] < 0.5 * setup.memory[1]:
        free = 1 - setup.memory[0] / setup.memory[1]
        more = "a larger data.batch" if setup.compiled else "a larger data.batch, or task.compile=true"
        found.append(f"{free:.0%} of the GPU's memory is free: give {more}")
    return found
