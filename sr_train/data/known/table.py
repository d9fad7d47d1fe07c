"""Types of the table of known data sets: archives, layouts, stores and sets.

A layout is a regular expression for the end of a file's path, so it does not matter in which folder or archive the user has the
files. Its named groups are the facts that a path contains:

- ``key``: name of an image; or ``clip`` and ``frame``, which give the name ``CLIP/FRAME``.
- ``scale``: scale of an LR file. An HR layout with it has one cropped HR image per scale (SelfExSR, RCAN, HAT).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from sr_train.resampling import Arithmetic

_ENDING = r"\.(?:png|bmp|jpe?g|tiff?|webp)"


class Archive(NamedTuple):
    """File that contains a part of a set, as its authors offer it."""

    name: str
    source: str  #: address from which to get it
    size: int | None = None  #: exact size in bytes
    about: str = ""  #: size as text where no exact one is known
    md5: str = ""
    sha256: str = ""
    holds: frozenset[str] = frozenset()  #: names of the images or clips in it, if it does not contain all

    def __str__(self) -> str:
        size = self.about if self.size is None else shown_bytes(self.size)
        checksum = (
            f"MD5 {self.md5}" if self.md5 else f"SHA-256 {self.sha256}" if self.sha256 else "no checksum published"
        )
        return f"{self.name} ({', '.join(filter(None, (size, checksum)))}) from {self.source}"


def shown_bytes(count: float) -> str:
    """Format a number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class Layout(NamedTuple):
    """Form of the paths of a part of a set."""

    family: str  #: name of the packing, for messages; HR and LR of one store are of one family
    pattern: str  #: regular expression for the end of the path without its suffix
    scale: int = 1  #: scale of the files if the pattern has no group ``scale``
    offset: int = 0  #: number that is added to the names of clips
    arithmetic: Arithmetic | None = None  #: arithmetic of this packing's LR, if it is not that of the set
    note: str = ""  #: sentence about the HR images of this packing, printed if they are used


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern of a layout, for whole paths and any case."""
    return re.compile(rf"(?:.*/)?{pattern}{_ENDING}", re.IGNORECASE)


class Expected(NamedTuple):
    """Contents of a complete set."""

    number: int  #: number of images or clips
    names: frozenset[str] = frozenset()  #: their names, if they are known; files with other names are not used
    frames: Mapping[str, int] | int | None = None  #: number of frames of each clip, if it is known
    sizes: frozenset[tuple[int, int]] = frozenset()  #: allowed (width, height) of HR images, if they are known
    listed: str = ""  #: name of the text file with the names of the clips


class StorePlan(NamedTuple):
    """Store that is made of a part of a set."""

    name: str  #: name without ``.lmdb``; ``{scale}`` in it makes one store per scale, whose images are LR images
    title: str
    hr: tuple[
        Layout, ...
    ]  #: layouts of its images; of LR images if the name contains ``{scale}`` or ``lr_only`` is set
    expected: Expected
    archives: tuple[Archive, ...]
    lr: tuple[Layout, ...] = ()  #: layouts of LR images that are stored with HR
    lr_archives: Mapping[int, tuple[Archive, ...]] = {}  #: archives of these by scale
    arithmetic: Arithmetic = "float"  #: arithmetic of bicubic for LR that is not given
    clips: bool = False
    scales: tuple[int, ...] = ()  #: scales of the LR images by default
    lr_only: bool = False  #: the images are LR images of another kind than bicubic
    optional: bool = False  #: nothing is reported if it is not found

    def all_archives(self, scales: Iterable[int] | None = None) -> list[Archive]:
        """Return the archives of HR images and of LR images of ``scales``, by default of all."""
        chosen = self.lr_archives if scales is None else [s for s in scales if s in self.lr_archives]
        return list(dict.fromkeys([*self.archives, *(a for s in chosen for a in self.lr_archives[s])]))


class KnownSet(NamedTuple):
    """Data set that ``sr-prepare dataset=NAME`` makes."""

    title: str
    terms: str
    stores: tuple[StorePlan, ...]  #: HR images, and bicubic LR
    kinds: Mapping[str, tuple[StorePlan, ...]] = {}  #: stores of LR images of other kinds
    kind: str = "bicubic"  #: kind by default
    then: tuple[tuple[str, str], ...] = ()  #: (store, command that uses it)


def with_names(archives: Iterable[Archive], names: Iterable[str]) -> list[Archive]:
    """Return the archives that contain at least one of the images or clips, each once."""
    names = set(names)
    return list(dict.fromkeys(a for a in archives if not a.holds or a.holds & names))


def numbered(first: int, last: int, digits: int) -> frozenset[str]:
    """Return the names ``first`` to ``last`` with leading zeros."""
    return frozenset(f"{n:0{digits}d}" for n in range(first, last + 1))
