"""Sets of LR images without HR: ``{lr: SOURCE, list: FILE}``. Their results are shown, and scored without HR (NIQE)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch

from sr_train.batch import Image
from sr_train.data.images import BadFilesError, ImageError, to_channels
from sr_train.data.lists import listed_images
from sr_train.data.sources import Source, at_scale, open_lr_source
from sr_train.data.store.format import StoreError
from sr_train.devices import free_memory

_BYTES = 6  # of a value of the result: float32, and half as much for the band that is computed


class LoneImages:
    """LR images without HR, as an :class:`.dataset.EvalSet`.

    Args:
        lr: source of the images, or {scale: source}; ``{scale}`` in the text is replaced by the scale.
        scale: factor by which the images are upscaled.
        channels: number of channels C of the images; see :func:`.images.to_channels`.
        listed: text file with the names of the images to use; default: all.
        cache: true to keep decoded files in memory.

    Raises:
        BadFilesError: lists the images that cannot be read.
    """

    def __init__(
        self,
        lr: str | Mapping[int, str],
        *,
        scale: int,
        channels: int = 3,
        listed: str | None = None,
        cache: bool = False,
    ) -> None:
        where = lr if isinstance(lr, str) else {int(s): place for s, place in lr.items()}.get(scale)
        if where is None:
            raise ValueError(f"lr={dict(cast('Mapping[int, str]', lr))}: contains no source for scale {scale}")
        self.scale, self.channels = scale, channels
        self.lr: Source = open_lr_source(at_scale(where, scale), scale, cache=cache)
        self.name = self.lr.name
        names = {key: i for i, key in enumerate(self.lr.keys)}
        if listed is not None:
            names = {key: names[key] for key in listed_images(listed, names, self.name)}
        self.keys = list(names)
        self._index = list(names.values())
        problems: list[str] = []
        for index in self._index:
            try:
                self.lr.shape(index)
            except (ImageError, StoreError) as error:
                problems.append(str(error))
        if problems:
            raise BadFilesError(f"{self.name}: {len(problems)} of {len(self.keys)} images cannot be used", problems)

    def __len__(self) -> int:
        return len(self.keys)

    def lr_size(self, index: int) -> tuple[int, int]:
        """Return (h, w) of an image."""
        height, width, _ = self.lr.shape(self._index[index])
        return height, width

    def hr_size(self, index: int) -> tuple[int, int]:
        """Return (H, W) of an image's result."""
        height, width = self.lr_size(index)
        return height * self.scale, width * self.scale

    def used(self) -> Iterator[tuple[Source, list[int]]]:
        """Yield (source, indices of the images that are used)."""
        yield self.lr, self._index

    def whole(self, index: int) -> tuple[Image, None]:
        """Return (the image [h, w, C], None). With ``channels=3``, the image has all channels of its file."""
        image = self.lr.read(self._index[index])
        return (image if self.channels == 3 else to_channels(image, self.channels)), None


def is_lone(spec: object) -> bool:
    """Return true for the description of a set that has LR images, but no HR images: ``{lr: SOURCE}``."""
    if not isinstance(spec, Mapping):
        return False
    given = cast("Mapping[str, Any]", spec)
    return given.get("lr") is not None and given.get("hr") is None


def open_lone(where: str, spec: Mapping[str, Any], options: Mapping[str, Any]) -> LoneImages:
    """Open a set of LR images without HR.

    Args:
        where: config key of the set, for messages.
        spec: description of the set, ``{lr: SOURCE, list: FILE}``.
        options: scale, channels and cache; other options, which concern HR images, are not used.

    Raises:
        ValueError: the description is wrong, or a result would not fit into memory.
    """
    given: dict[str, Any] = {key: value for key, value in spec.items() if key != "hr"}
    if set(given) - {"lr", "list"} or not isinstance(given["lr"], str | Mapping):
        raise ValueError(
            f"{where}: expected a set of LR images without HR, {{lr: DIR, list: FILE}}, or {{hr: DIR, lr: DIR}}; got {given}. "
            "Sets of clips need hr"
        )
    if not isinstance(given.get("list"), str | None):
        raise ValueError(f"{where}.list={given['list']!r}: expected a text file with the names of the images to use")
    if isinstance(given["lr"], str) and "{stem}" in given["lr"]:
        raise ValueError(
            f"{where}.lr={given['lr']}: {{stem}} is replaced by the names of HR images, and there is no hr"
        )
    own = {key: options[key] for key in ("scale", "channels", "cache") if key in options}
    images = LoneImages(cast("str | Mapping[int, str]", given["lr"]), listed=given.get("list"), **own)
    check_memory(where, images)
    return images


def check_memory(where: str, images: LoneImages) -> None:
    """Raise BadFilesError that lists the images whose results do not fit into the free memory of this machine."""
    free = free_memory(torch.device("cpu"))
    problems: list[str] = []
    for i, key in enumerate(images.keys):
        height, width = images.hr_size(i)
        needed = height * width * images.channels * _BYTES
        if needed > free:
            problems.append(
                f"{key}: x{images.scale} is {width}x{height} pixels, which need {needed / 2**30:.1f} GiB; "
                f"{free / 2**30:.1f} GiB are free"
            )
    if problems:
        raise BadFilesError(
            f"{where}: {images.name}: results do not fit into memory; remove the images from the set or split them",
            problems,
        )
