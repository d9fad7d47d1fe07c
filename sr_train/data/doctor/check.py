"""Check of data sets: every image is decoded, and everything that is wrong is reported in one list."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

from sr_train.data.doctor.copies import candidates, duplicates, few_of_clips, leak
from sr_train.data.doctor.examine import Examined, Facts, Item, examine
from sr_train.data.doctor.findings import Finding, Report
from sr_train.data.doctor.jpeg_warnings import JpegWarnings
from sr_train.data.doctor.opened import Opened, open_spec
from sr_train.data.doctor.pair_looks import compared, look_findings
from sr_train.data.doctor.shapes import fits, shape_findings
from sr_train.data.doctor.specs import Spec
from sr_train.data.pair_check.check import PairLook, look_at
from sr_train.data.store.scan import parallel

T = TypeVar("T")

R = TypeVar("R")

_TIMED = 4  # images from which the time is estimated


@dataclass
class Unit:
    """An HR image and its LR images, which are read together; or an image without a partner."""

    item: Item
    lows: dict[tuple[str, int], Item] = field(default_factory=dict[tuple[str, int], Item])  #: (name of LR, scale) -> LR
    compared: set[int] = field(default_factory=set[int])  #: scales at which LR is compared with HR


class Read(NamedTuple):
    """Result for one unit."""

    facts: dict[str, Facts]
    findings: list[Finding]
    looks: dict[tuple[str, str, int], PairLook]  #: by the names of HR and LR, and the scale


class Estimate(NamedTuple):
    """Size of a check."""

    images: int
    bytes: int
    seconds: float


class Doctor:
    """Check of sources.

    Opening them finds what their names show: ``findings`` contains it before anything is decoded.

    Args:
        specs: sources to check.
        workers: threads that decode.
    """

    def __init__(self, specs: Iterable[Spec], *, workers: int = 1) -> None:
        self.workers = workers
        self.findings: list[Finding] = []
        self.sources: list[Opened] = [open_spec(spec, self.findings) for spec in dict.fromkeys(specs)]
        self.units = _units(self.sources)
        self._jpeg = JpegWarnings()
        self._read: dict[str, Read] = {}  # by the name of a unit
        self._facts: dict[str, Facts] = {}

    @property
    def images(self) -> int:
        """Number of images to read."""
        return sum(1 + len(unit.lows) for unit in self.units)

    def estimate(self) -> Estimate:
        """Read a few images, and return how long the check will take."""
        sizes = [unit.item.bytes() + sum(low.bytes() for low in unit.lows.values()) for unit in self.units]
        step = max(1, len(sizes) // _TIMED)
        timed = range(step // 2, len(sizes), step)
        start = time.perf_counter()
        for place, number in enumerate(timed):
            unit = self.units[number]
            self._read[unit.item.name] = self._examine(unit)
            if place == 0 and len(timed) > 1:  # the first one starts decoders and fills caches
                timed, start = timed[1:], time.perf_counter()
        share = sum(sizes[number] for number in timed) / max(1, sum(sizes))
        seconds = (time.perf_counter() - start) / share / self.workers if share else 0.0
        return Estimate(self.images, sum(sizes), seconds)

    def interrupted(self) -> Report:
        """Return the report of a check that was interrupted before it began to read."""
        report = Report(self.images, interrupted=True)
        report.add(self.findings)
        return report

    def run(self, progress: Callable[[int], object] = lambda _: None) -> Report:
        """Read everything and return the report. After Ctrl-C it contains what was found so far."""
        start, report, found = time.perf_counter(), Report(self.images), list(self.findings)
        try:
            with self._jpeg:
                for unit, read in self._all():
                    found += read.findings
                    self._facts |= read.facts
                    report.read += 1 + len(unit.lows)
                    progress(1 + len(unit.lows))
                found += self._leaks()
        except KeyboardInterrupt:
            report.interrupted = True
        report.add([*found, *self._compared(report)])
        report.seconds = time.perf_counter() - start
        return report

    def _all(self) -> Iterator[tuple[Unit, Read]]:
        """Yield every unit with its result, in order."""
        with _ordered(self._once, self.units, self.workers) as results:
            for unit, result in zip(self.units, results, strict=True):
                read = self._read[unit.item.name] = result.result()
                yield unit, read

    def _once(self, unit: Unit) -> Read:
        return self._read.get(unit.item.name) or self._examine(unit)

    def _examine(self, unit: Unit) -> Read:
        high = examine(unit.item, self._jpeg)
        facts = {} if high.facts is None else {unit.item.name: high.facts}
        findings, looks = list(high.findings), dict[tuple[str, str, int], PairLook]()
        for (_, scale), item in unit.lows.items():
            low = examine(item, self._jpeg, low=True)
            findings += low.findings
            if low.facts is not None:
                facts[item.name] = low.facts
            if scale in unit.compared and (look := _look(item, high, low, scale)) is not None:
                looks[unit.item.name, item.name, scale] = look
        return Read(facts, findings, looks)

    def _compared(self, report: Report) -> list[Finding]:
        """Return the findings that need several images."""
        looks = {key: look for read in self._read.values() for key, look in read.looks.items()}
        found: list[Finding] = list(duplicates(self.sources, self._facts))
        for opened in self.sources:
            found += shape_findings(opened, self._facts)
            problems, remarks = look_findings(opened, looks)
            found += problems
            report.remarks += [remark for remark in remarks if remark not in report.remarks]
        return found

    def _leaks(self) -> Iterator[Finding]:
        tried = few_of_clips(candidates(self.sources, self._facts))
        with _ordered(leak, tried, self.workers) as results:
            for result in results:
                found = result.result()
                if found is not None:
                    yield found


def _ordered(function: Callable[[T], R], items: Iterable[T], workers: int) -> closing[Generator[Future[R]]]:
    """Return results in order, which end at once when the block is left."""
    return closing(cast("Generator[Future[R]]", parallel(function, items, workers)))


def _look(item: Item, high: Examined, low: Examined, scale: int) -> PairLook | None:
    """Compare LR with HR; return None if one of them is damaged or their sizes do not fit."""
    if high.facts is None or low.facts is None or not fits(high.facts, low.facts, scale):
        return None
    assert high.pixels is not None
    assert low.pixels is not None
    return look_at(item.name, high.pixels, low.pixels, scale, orientation=high.facts.orientation)


def _units(sources: Sequence[Opened]) -> list[Unit]:
    """Return every image of all sources once: HR images with their LR images, then the other images."""
    units: dict[str, Unit] = {}
    lows: set[str] = set()
    for opened in sources:
        chosen = compared(opened)
        for name, item in opened.hr.items():
            unit = units.setdefault(item.name, Unit(item))
            for scale, own in opened.lows.items():
                if name in own and own[name].name not in lows:
                    unit.lows[own[name].name, scale] = own[name]
                    lows.add(own[name].name)
                    if (item.name, scale) in chosen:
                        unit.compared.add(scale)
    for item in (item for opened in sources for item in opened.loose):
        if item.name not in lows:
            units.setdefault(item.name, Unit(item))
    return list(units.values())
