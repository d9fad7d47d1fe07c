"""Findings of a check of data sets: their kinds, their order, and a report of them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sr_train.console import UsageError, counted
from sr_train.files import write_bytes

ERROR, NOTE = "error", "note"

KINDS: dict[str, tuple[str, str]] = {  # in the order of the report: kind -> severity, description
    "source": (ERROR, "sources that cannot be used"),
    "mixed": (ERROR, "folders that contain HR and LR images"),
    "name": (ERROR, "names that cannot be used"),
    "unreadable": (ERROR, "files that are not read"),
    "damaged": (ERROR, "damaged or truncated files"),
    "clip": (ERROR, "clips with missing or unequal frames"),
    "small": (ERROR, "images smaller than a training patch"),
    "unpaired": (ERROR, "HR images without LR, or with several"),
    "pair size": (ERROR, "HR and LR whose sizes do not fit"),
    "pair": (ERROR, "LR images that do not show their HR image"),
    "leak": (ERROR, "training images that are also scored"),
    "leak by name": (NOTE, "training images that are test images by their names"),
    "duplicate": (NOTE, "images with equal pixels"),
    "constant": (NOTE, "images of one color"),
    "band": (NOTE, "images of one color at the top or bottom"),
    "decoder": (NOTE, "warnings of the decoder"),
    "odd size": (NOTE, "sizes unlike the rest"),
    "depth": (NOTE, "depths unlike the rest"),
    "channels": (NOTE, "numbers of channels unlike the rest"),
    "orientation": (NOTE, "EXIF orientations, which training and scores ignore"),
    "kernel": (NOTE, "LR images made in an unexpected way"),
    "extra": (NOTE, "LR images without HR, which are not used"),
    "other files": (NOTE, "files that are no images"),
}

_SHOWN = 10  # findings of a kind that are printed


class Finding(NamedTuple):
    """Something about a file that its user should know."""

    severity: str  #: ``error`` or ``note``
    kind: str  #: a key of :data:`KINDS`
    file: str  #: file, or image in a store
    message: str


def finding(kind: str, file: object, message: str) -> Finding:
    """Return a finding with the severity of its kind. The name of the file at the start of ``message`` is removed."""
    name = _printable(str(file))
    text = _printable(message)
    return Finding(KINDS[kind][0], kind, name, text.removeprefix(f"{name}: "))


def _printable(text: str) -> str:
    """Return text without line breaks and without bytes that are not UTF-8."""
    return " ".join(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").splitlines())


@dataclass
class Report:
    """Result of a check."""

    images: int  #: number of images to read
    read: int = 0  #: number of images that were read
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list[Finding])  #: sorted
    remarks: list[str] = field(default_factory=list[str])  #: facts that are no problem, e.g. the kernel of LR
    interrupted: bool = False

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(f.severity == ERROR for f in self.findings)

    @property
    def code(self) -> int:
        """Exit code of the command: 130 if interrupted, 1 with errors, else 0."""
        return 130 if self.interrupted else 1 if self.errors else 0

    def add(self, found: Iterable[Finding]) -> None:
        """Add findings, each once, and sort all."""
        order = {kind: number for number, kind in enumerate(KINDS)}
        unique = dict.fromkeys([*self.findings, *found])
        self.findings = sorted(unique, key=lambda f: (order[f.kind], f.file, f.message))

    def text(self, out: str | None = None) -> str:
        """Return the report for a terminal; long lists are shortened. ``out`` is the file that contains all findings."""
        lines: list[str] = []
        for kind, count in Counter(f.kind for f in self.findings).items():
            severity, meaning = KINDS[kind]
            own = [f for f in self.findings if f.kind == kind]
            lines += [f"{severity}: {meaning} ({count:,})", *(f"  {f.file}: {f.message}" for f in own[:_SHOWN])]
            if count > _SHOWN:
                lines.append(f"  ... and {count - _SHOWN:,} more: {f'see {out}' if out else 'out=FILE.json lists all'}")
        return "\n".join([*lines, *self.remarks, self.summary()])

    def summary(self) -> str:
        """Return one line: number of images and findings."""
        notes = len(self.findings) - self.errors
        found = f"{counted(self.errors, 'error')}, {counted(notes, 'note')}" if self.findings else "no findings"
        if self.interrupted:
            return f"interrupted after {self.read:,} of {counted(self.images, 'image')}: {found} so far"
        return f"{counted(self.images, 'image')} read in {self.seconds:,.1f} s: {found}"

    def write(self, path: str) -> None:
        """Write all findings to a ``.json`` or ``.csv`` file."""
        write_bytes(path, (self._csv() if Path(path).suffix.lower() == ".csv" else self._json()).encode())

    def _json(self) -> str:
        found: Sequence[dict[str, str]] = [f._asdict() for f in self.findings]
        return json.dumps(
            {"images": self.images, "read": self.read, "complete": not self.interrupted, "errors": self.errors,
             "notes": len(self.findings) - self.errors, "remarks": self.remarks, "findings": found},
            ensure_ascii=False, indent=1,
        )  # fmt: skip

    def _csv(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(Finding._fields)
        rows.writerows(self.findings)
        return text.getvalue()


def check_out(path: str | None) -> None:
    """Raise UsageError unless ``out=`` is null or a ``.json`` or ``.csv`` file in a folder that exists."""
    if path is None:
        return
    if Path(path).suffix.lower() not in (".json", ".csv"):
        raise UsageError(f"out={path}: expected FILE.json or FILE.csv")
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"out={path}: there is no folder {Path(path).absolute().parent}")
