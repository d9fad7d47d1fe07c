"""Sources of training images: image files, a store (LMDB made by sr-prepare), or an LMDB of BasicSR."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from sr_train.batch import Image
from sr_train.data.archives import InputFile, holds_archives, list_archived, split_archive
from sr_train.data.images import ImageError, list_images, read_header, read_image
from sr_train.data.known.hints import known_command
from sr_train.data.lists import listed_images
from sr_train.data.store.basicsr import PngLmdb, is_basicsr, list_entries
from sr_train.data.store.format import MissingStoreError, StoreError, is_store
from sr_train.data.store.reader import Store
from sr_train.data.toy import toy_files
from sr_train.data.video.toy_clips import ToyClips


class Source(Protocol):
    """Images by index."""

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        ...

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return (height, width, channels) without decoding."""
        ...

    def crop(self, index: int, top: int, left: int, height: int, width: int) -> Image:
        """Return a window [height, width, C] of an image, uint8 or uint16."""
        ...

    def read(self, index: int) -> Image:
        """Return a whole image [H, W, C], uint8 or uint16."""
        ...


class FileSource:
    """Images in files. If ``cache`` is true, each image is decoded once and kept in memory."""

    def __init__(self, files: Mapping[str, Path], *, name: str, cache: bool = False) -> None:
        self.name = name
        self.keys = list(files)
        self.cache = cache
        self._paths = list(files.values())
        self._shapes: dict[int, tuple[int, int, int]] = {}
        self._images: dict[int, Image] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": {}}

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self._paths[index]

    def shape(self, index: int) -> tuple[int, int, int]:  # noqa: D102 - see Source
        if index not in self._shapes:
            header = read_header(self._paths[index])
            self._shapes[index] = (header.height, header.width, header.channels)
        return self._shapes[index]

    def read(self, index: int) -> Image:  # noqa: D102
        if index in self._images:
            return self._images[index]
        image = read_image(self._paths[index])
        if self.cache:
            image.flags.writeable = False
            self._images[index] = image
        return image

    def crop(self, index: int, top: int, left: int, height: int, width: int) -> Image:  # noqa: D102
        image, known = self.read(index), self._shapes.get(index)
        if known is not None and known[:2] != image.shape[:2]:
            (h, w), (old_h, old_w) = image.shape[:2], known[:2]
            raise ImageError(
                f"{self._paths[index]}: has {w}x{h} pixels now, but had {old_w}x{old_h} when it was opened"
            )
        return image[top : top + height, left : left + width]


class PngSource:
    """Images in an LMDB of BasicSR. If ``cache`` is true, each image is decoded once and kept in memory."""

    def __init__(self, lmdb: PngLmdb, *, cache: bool = False) -> None:
        self.lmdb = lmdb
        self.name = str(lmdb.path)
        self.keys = list(lmdb.shapes)
        self.cache = cache
        self._images: dict[int, Image] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": {}}

    def shape(self, index: int) -> tuple[int, int, int]:  # noqa: D102 - see Source
        return self.lmdb.shapes[self.keys[index]]

    def read(self, index: int) -> Image:  # noqa: D102
        if index in self._images:
            return self._images[index]
        image = self.lmdb.read(self.keys[index])
        if self.cache:
            image.flags.writeable = False
            self._images[index] = image
        return image

    def crop(self, index: int, top: int, left: int, height: int, width: int) -> Image:  # noqa: D102
        return self.read(index)[top : top + height, left : left + width]


class StoreSource:
    """Images of one scale in a store (LMDB of sr-train).

    Scale 1 contains the original images; other scales contain their bicubic LR images.
    """

    def __init__(self, store: Store, scale: int = 1) -> None:
        self.store = store
        self.scale = scale
        self.name = str(store.path) if scale == 1 else f"{store.path} (x{scale})"
        self.keys = store.keys(scale)

    def shape(self, index: int) -> tuple[int, int, int]:  # noqa: D102
        return self.store.records[self.scale][self.keys[index]].shape

    def read(self, index: int) -> Image:  # noqa: D102
        return self.store.read(self.scale, self.keys[index])

    def crop(self, index: int, top: int, left: int, height: int, width: int) -> Image:  # noqa: D102
        return self.store.crop(self.scale, self.keys[index], top, left, height, width)


def open_source(where: str | os.PathLike[str], *, cache: bool = False) -> Source:
    """Open a source by its name: a folder, a store or an LMDB of BasicSR (``*.lmdb``), ``toy:NAMES`` or ``toy_clips:NAMES``."""
    text = os.fspath(where)
    if text == "toy" or text.startswith("toy:"):
        names = text.partition(":")[2]
        return FileSource(toy_files(names) if names else toy_files(), name=text, cache=True)
    if text == "toy_clips" or text.startswith("toy_clips:"):
        return ToyClips(text.partition(":")[2])
    if is_basicsr(text):
        return PngSource(PngLmdb(text), cache=cache)
    if is_store(text):
        return StoreSource(Store(text))
    if split_archive(text) is not None:
        raise MissingStoreError(Path(text))
    return FileSource(list_images(text), name=text, cache=cache)


def lacking_scale(where: str | os.PathLike[str], scale: int, held: Sequence[int]) -> StoreError:
    """Return the error for a store that has LR of the scales ``held``, but not of ``scale``."""
    has = f"LR of scales {list(held)}, not of {scale}" if held else f"no LR, and LR of scale {scale} is needed"
    every = f"scales=[{','.join(map(str, sorted([*held, scale])))}]"
    command = known_command(where, [scale]) or f"the sr-prepare command that made it again with {every}"
    return StoreError(f"{where}: contains {has}; run {command} to add it, or leave lr out to have LR made from HR")


def open_lr_source(where: str, scale: int, *, cache: bool) -> Source:
    """Open a source of LR images. From a store with HR and LR images, the LR images of ``scale`` are used."""
    if is_store(where) and not is_basicsr(where):
        store = Store(where)
        held = [s for s in store.scales if s != 1]
        if held and scale not in held:
            raise lacking_scale(where, scale, held)
        return StoreSource(store, scale if scale in store.scales else 1)
    return open_source(where, cache=cache)


def input_files(
    where: str | os.PathLike[str],
    listed: str | None = None,
    *,
    clips: bool = False,
    copies: str | os.PathLike[str] | None = None,
) -> dict[str, InputFile]:
    """Return {key: file} for every image of a folder with its archives, of an archive, or of an LMDB of BasicSR.

    Args:
        where: path of the folder, the archive or the LMDB.
        listed: text file with the names of the images to keep; None keeps all.
        clips: true if the images are frames of clips, see :func:`.archives.list_archived`.
        copies: folder of the decompressed copies of tar.gz archives.
    """
    files: dict[str, InputFile]
    if is_basicsr(where):
        files = dict(list_entries(where))
    elif split_archive(where) is not None or holds_archives(where):
        files = list_archived(where, clips=clips, copies=copies)
    else:
        files = dict(list_images(where))
    return files if listed is None else {key: files[key] for key in listed_images(listed, files, os.fspath(where))}


def at_scale(where: str, scale: int) -> str:
    """Replace ``{scale}`` in the path of a source by the scale: ``LR_bicubic/X{scale}`` becomes ``LR_bicubic/X2``.

    A path that exists as given is not changed.
    """
    return where if Path(where).exists() else where.replace("{scale}", str(scale))


def check_source(
    where: str,
    spec: object,
    keys: set[str],
    *,
    what: str = "a source",
    places: str = "folders, stores, LMDBs of BasicSR or toy:NAMES",
) -> dict[str, Any]:
    """Check a source as given in YAML, ``{hr: ..., lr: ..., weight: ...}``, and return it; raise ValueError if it is wrong.

    Args:
        where: config key of the source, for messages.
        spec: value of this config key.
        keys: allowed keys of ``spec``.
        what: words for a source in messages, e.g. "a source".
        places: words for the allowed values of ``hr`` and ``lr`` in messages.
    """
    given = dict(cast("Mapping[str, Any]", spec)) if isinstance(spec, Mapping) else {}
    if set(given) - keys or "hr" not in given:
        shown = ", ".join(f"{key}: ..." for key in ("hr", "lr", *sorted(keys - {"hr", "lr"})))
        raise ValueError(f"{where}: expected {what}, {{{shown}}}; got {given or spec!r}")
    if not isinstance(given["hr"], str) or not isinstance(given.get("lr"), str | Mapping | None):
        raise ValueError(f"{where}: hr and lr must be {places} (lr: null makes LR from HR); got {given}")
    if not isinstance(given.get("list"), str | None):
        raise ValueError(f"{where}.list={given['list']!r}: expected a text file with the names of the images to use")
    weight = given.get("weight")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0):
        raise ValueError(f"{where}: weight={weight!r}: expected a positive number")
    return given
