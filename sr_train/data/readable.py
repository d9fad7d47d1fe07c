"""Check before a run starts that the images of the validation sets can be read.

Without this check, an unreadable image would end the run at the first validation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sr_train.console import counted
from sr_train.data.dataset import EvalSet
from sr_train.data.images import BadFilesError, ImageError, missing_end, read_image
from sr_train.data.lone import LoneImages
from sr_train.data.pairs import Pairs
from sr_train.data.sources import FileSource, Source, StoreSource
from sr_train.data.video.dataset import EvalWindows

#: Pixels that are read at every start: about 2 s of one core. All of Set5, Set14 and B100, and half of Urban100.
FILES, STORES = 60_000_000, 500_000_000


class _Image(NamedTuple):
    pixels: int
    source: Source
    number: int  #: index of the image in its source


def check_readable(sets: Mapping[str, EvalSet], files: int = FILES, stores: int = STORES) -> None:
    """Read the validation images, the smallest first. Raise BadFilesError that lists all images that cannot be read.

    Image files are decoded. Images in stores (LMDBs of sr-prepare) are compared with their checksums. Files beyond the
    limit of pixels are not decoded: their headers were read when the source was opened, and a PNG file must have its
    end (IEND chunk).

    Args:
        sets: validation sets by name.
        files: largest number of pixels to decode from image files.
        stores: largest number of pixels to read from stores.
    """
    found = {(image.source.name, image.number): image for pairs in sets.values() for image in _images(pairs)}
    limits = {FileSource: files, StoreSource: stores}
    work: list[tuple[_Image, bool]] = []
    for kind, limit in limits.items():
        used = 0
        for image in sorted((i for i in found.values() if type(i.source) is kind), key=lambda i: i.pixels):
            used += image.pixels
            work.append((image, used <= limit))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        problems = list(dict.fromkeys(p for p in pool.map(_problem, work) if p is not None))
    if problems:
        raise BadFilesError(f"data.val: {counted(len(problems), 'validation image')} cannot be read", sorted(problems))


def _images(pairs: EvalSet) -> Iterator[_Image]:
    """Yield the HR and LR images of a validation set.

    Toy photographs are left out, because they belong to a package.
    """
    inner = pairs.pairs if isinstance(pairs, EvalWindows) else pairs
    used: Iterable[tuple[Source, list[int]]] = inner.used() if isinstance(inner, Pairs | LoneImages) else ()
    for source, indices in used:
        if isinstance(source, (FileSource, StoreSource)) and not source.name.startswith("toy"):
            for index in indices:
                height, width, _ = source.shape(index)
                yield _Image(height * width, source, index)


def _problem(work: tuple[_Image, bool]) -> str | None:
    (_, source, index), whole = work
    if isinstance(source, StoreSource):
        return source.store.verify(source.scale, source.keys[index]) if whole else None
    assert isinstance(source, FileSource)
    path = source.path(index)
    if not whole:
        return missing_end(path)
    try:
        status = path.stat()
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    return _decoding_problem(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _decoding_problem(path: Path, size: int, time: int) -> str | None:
    """Decode an image file; return an error message or None.

    A file that has not changed (same size and modification time) is decoded once for all stages of a run.
    """
    try:
        read_image(path)
    except ImageError as error:
        return str(error)
    return None
