"""Pairs of HR and LR images from folders, stores or the toy photographs.

A source is given as one string: a folder, a ``NAME.lmdb`` store, an LMDB of BasicSR, ``toy:NAME,NAME`` (photographs of
scikit-image) or ``toy_clips:NAME,NAME`` (clips made from them).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from sr_train.batch import Image
from sr_train.console import counted, warn
from sr_train.data.degradation.maker import LRMaker, Place
from sr_train.data.degrade import reduce_window
from sr_train.data.draws import below
from sr_train.data.images import BadFilesError, ImageError, to_channels
from sr_train.data.lists import listed_images
from sr_train.data.pairing import Matched, hr_names, match_lr, shown_names, split_template
from sr_train.data.sources import Source, StoreSource, at_scale, lacking_scale, open_lr_source, open_source
from sr_train.data.store.format import MissingStoreError, StoreError
from sr_train.data.train_source import Cut
from sr_train.resampling import check_arithmetic


class Pairs:
    """Pairs of HR and LR images. LR images are read from a source, or made from HR images by bicubic reduction.

    Args:
        hr: source of HR images; ``{scale}`` in the text is replaced by the scale.
        scale: HR pixels per LR pixel.
        lr: source of LR images, or {scale: source}; ``{scale}`` in the text is replaced by the scale. ``None`` makes LR
            from HR. A pattern such as ``DIR/{stem}_LRBI_x{scale}`` gives the name of the LR image for each HR name
            (``{stem}``).
        listed: text file with the names of the HR images to use; default: all HR images.
        arithmetic: name of the rounding rules of the bicubic reduction, see :mod:`sr_train.resampling`.
        cache: true to keep decoded files in memory.
        choose: function of (name of the HR source, names of the HR images, matched LR names) that returns the names of
            the HR images to use, in order; default: all HR images.
        opened: the source of ``hr`` if it is open already. Several scales then share the source and its cache.
        channels: number of channels C of patches; see :func:`.images.to_channels`. HR images are converted before LR
            images are made from them.
        maker: maker of the patches that :meth:`cut` returns, instead of those of LR files or of bicubic reduction.

    Raises:
        BadFilesError: lists all images whose LR is missing or has the wrong size.
    """

    unit, sized = "images", "image"  #: see :class:`.train_source.TrainSource`

    def __init__(
        self,
        hr: str | os.PathLike[str],
        *,
        scale: int,
        lr: str | Mapping[int, str] | None = None,
        arithmetic: str = "float",
        cache: bool = False,
        listed: str | None = None,
        choose: Callable[[str, Sequence[str], Matched | None], Sequence[str]] | None = None,
        opened: Source | None = None,
        channels: int = 3,
        maker: LRMaker | None = None,
    ) -> None:
        if scale < 1:
            raise ValueError(f"scale={scale}: expected an integer of at least 1")
        check_arithmetic(arithmetic)
        self.scale, self.channels = scale, channels
        self.arithmetic = arithmetic
        self.maker = maker
        try:
            self.hr = open_source(at_scale(os.fspath(hr), scale), cache=cache) if opened is None else opened
        except MissingStoreError as error:
            raise error.needing([scale] if lr == hr and scale > 1 else [], arithmetic) from None
        self.name = self.hr.name
        names = hr_names(self.hr.keys)
        if not names:
            raise ValueError(f"{self.hr.name}: contains LR files (*_SRF_{scale}_LR) but no HR files")
        self.lr, low = (None, None) if lr is None else self._open_lr(lr, names, cache=cache)
        if listed is not None:
            names = {name: names[name] for name in listed_images(listed, names, self.hr.name)}
        if choose is not None:
            names = {name: names[name] for name in choose(self.name, list(names), low)}
        self.keys = list(names)
        self._hr_index = list(names.values())
        self._lr_index: list[int] = []
        if low is not None:
            self._match(low)
        self._check_sizes()

    def _open_lr(self, lr: str | Mapping[int, str], names: Mapping[str, int], *, cache: bool) -> tuple[Source, Matched]:
        """Open the LR source and pair its images with the HR images."""
        if isinstance(lr, Mapping):
            if not all(str(k).isdigit() and isinstance(v, str) for k, v in cast("Mapping[object, object]", lr).items()):
                raise ValueError(f"lr={dict(lr)}: expected a folder or a store for each scale, e.g. {{2: DIR, 3: DIR}}")
            lr = {int(scale): where for scale, where in lr.items()}
            if self.scale not in lr:
                raise ValueError(f"lr= contains sources for scales {sorted(lr)}, not for {self.scale}")
            lr = lr[self.scale]
        where, pattern = split_template(lr)
        source = open_lr_source(at_scale(where, self.scale), self.scale, cache=cache)
        own = [self.hr.keys[i] for i in names.values()] if source.name == self.hr.name else []
        if own and self.scale > 1 and isinstance(source, StoreSource):
            raise lacking_scale(source.name, self.scale, [])
        options: dict[str, Any] = {"scale": self.scale, "where": source.name, "pattern": pattern, "own": own}
        return source, match_lr(names, source.keys, **options)

    def _match(self, low: Matched) -> None:
        """Use the LR images in ``low``.

        Raises BadFilesError that lists HR images without an LR image or with several.
        """
        assert self.lr is not None
        lone = [low.missing[key] for key in self.keys if key in low.missing]
        problems = [low.ambiguous[key] for key in self.keys if key in low.ambiguous] + lone
        if problems:
            what = (
                f"LR is missing for {len(lone)} of the {len(self.keys)} images"
                if lone
                else "LR is ambiguous for images"
            )
            raise BadFilesError(
                f"{low.where}: {what} of {self.hr.name}; if the names follow another pattern, give it, "
                "e.g. lr='DIR/{stem}_small_x{scale}'",
                problems,
            )
        if low.extra:
            warn(
                f"{low.where}: {counted(len(low.extra), 'LR image')} not used, because there is no HR image in {self.hr.name}: "
                f"{shown_names(low.extra)}"
            )
        index = {key: i for i, key in enumerate(self.lr.keys)}
        self._lr_index = [index[low.names[key]] for key in self.keys]

    def _check_sizes(self) -> None:
        problems: list[str] = []
        for index, key in enumerate(self.keys):
            try:
                height, width, _ = self.hr.shape(self._hr_index[index])
                low = (height // self.scale, width // self.scale)
                if self.lr is not None:
                    low = self.lr.shape(self._lr_index[index])[:2]
            except (ImageError, StoreError) as error:
                problems.append(str(error))
                continue
            if min(low) < 1:
                problems.append(f"{key}: {width}x{height} pixels are too few for scale {self.scale}")
                continue
            surplus = (height - low[0] * self.scale, width - low[1] * self.scale)
            if min(surplus) < 0 or max(surplus) >= self.scale:
                hint = "are HR and LR swapped?" if low[0] > height else f"is scale={self.scale} right?"
                if low == (height, width):
                    hint = "LR is as large as HR; leave lr out to make LR from HR"
                problems.append(
                    f"{key}: HR {width}x{height} does not fit LR {low[1]}x{low[0]} at scale {self.scale}; {hint}"
                )
        if problems:
            raise BadFilesError(
                f"{self.hr.name}: {len(problems)} of {counted(len(self.keys), 'image')} cannot be used", problems
            )

    def __len__(self) -> int:
        return len(self.keys)

    def lr_size(self, index: int) -> tuple[int, int]:
        """Return (h, w) of an LR image."""
        if self.lr is not None:
            height, width, _ = self.lr.shape(self._lr_index[index])
            return height, width
        height, width = self.hr_size(index)
        return height // self.scale, width // self.scale

    def hr_size(self, index: int) -> tuple[int, int]:
        """Return (H, W) of an HR image as it is in its source, not cropped to a multiple of the scale."""
        height, width, _ = self.hr.shape(self._hr_index[index])
        return height, width

    def sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield (name, LR (h, w)) of every image."""
        return ((key, self.lr_size(i)) for i, key in enumerate(self.keys))

    def used(self) -> Iterator[tuple[Source, list[int]]]:
        """Yield (source, indices of the images that are used) for the HR source and the LR source."""
        yield self.hr, self._hr_index
        if self.lr is not None:
            yield self.lr, self._lr_index

    def item(self, index: int) -> str:
        """Return the name of an image."""
        return self.keys[index]

    def place(self, index: int, words: Sequence[int], size: int) -> tuple[int, int]:
        """Return (top, left) in LR pixels of a random patch of ``size`` x ``size`` LR pixels.

        ``words`` are uniform random 64-bit integers; the first two determine the result.
        """
        height, width = self.lr_size(index)
        return below(words[0], height - size + 1), below(words[1], width - size + 1)

    def cut(self, index: int, words: Sequence[int], size: int) -> Cut:
        """Return the patches at a random place.

        The random integers ``words`` determine the place; see :class:`.train_source.TrainSource`.
        """
        place, key = self.place(index, words, size), self.keys[index]
        if self.maker is None:
            return Cut(*self.patch(index, *place, size), key)
        at = Place(partial(self._hr_crop, index), self.hr_size(index), self.scale, *place, size, key)
        if self.lr is not None:
            return self.maker.sharpen(at, self.lr_crop(index, *place, size))
        return self.maker.make(at, words)

    def _hr_crop(self, index: int, top: int, left: int, height: int, width: int) -> Image:
        return to_channels(self.hr.crop(self._hr_index[index], top, left, height, width), self.channels)

    def patch(self, index: int, top: int, left: int, size: int) -> tuple[Image, Image]:
        """Return windows of the LR image, [size, size, C], and of the HR image, [scale * size, scale * size, C].

        All arguments are in LR pixels.
        """
        scale = self.scale
        if self.lr is not None:
            lr = self.lr.crop(self._lr_index[index], top, left, size, size)
            hr = self.hr.crop(self._hr_index[index], top * scale, left * scale, size * scale, size * scale)
            return to_channels(lr, self.channels), to_channels(hr, self.channels)
        # The HR patch is part of the window that its LR is made from, so it is fetched only once.
        held: dict[str, Any] = {}

        def fetch(y: int, x: int, h: int, w: int) -> Image:
            window = self._hr_crop(index, y, x, h, w)
            held["window"], held["y"], held["x"] = window, y, x
            return window

        lr = reduce_window(fetch, self.hr_size(index), scale, top, left, size, size, self.arithmetic)
        y, x = top * scale - held["y"], left * scale - held["x"]
        return lr, held["window"][y : y + size * scale, x : x + size * scale]

    def lr_crop(self, index: int, top: int, left: int, size: int) -> Image:
        """Return only the LR window of :meth:`patch`. The HR image is not read if there is a source of LR images."""
        if self.lr is not None:
            return to_channels(self.lr.crop(self._lr_index[index], top, left, size, size), self.channels)
        return self.patch(index, top, left, size)[0]

    def lr_whole(self, index: int) -> Image:
        """Return only the LR image of :meth:`whole`."""
        return self.whole(index)[0] if self.lr is None else self._whole(self.lr, self._lr_index[index])

    def hr_whole(self, index: int) -> Image:
        """Return only the HR image of :meth:`whole`."""
        height, width = self.lr_size(index)
        return self._whole(self.hr, self._hr_index[index])[: height * self.scale, : width * self.scale]

    def _whole(self, source: Source, number: int) -> Image:
        """Read a whole image: with 3 channels as it is in its file, so that its scores depend on that; else converted."""
        image = source.read(number)
        return image if self.channels == 3 else to_channels(image, self.channels)

    def whole(self, index: int) -> tuple[Image, Image]:
        """Return the whole LR image [h, w, C] and HR image [scale * h, scale * w, C].

        The HR image is cropped to this size at the bottom and at the right. With ``channels=3``, the images have all
        channels of the files.
        """
        hr = self.hr_whole(index)
        height, width = self.lr_size(index)
        if self.lr is not None:
            return self._whole(self.lr, self._lr_index[index]), hr
        window = reduce_window(
            lambda y, x, h, w: hr[y : y + h, x : x + w], hr.shape[:2], self.scale, 0, 0, height, width, self.arithmetic
        )
        return window, hr


def converted(sets: Iterable[Any]) -> list[str]:
    """Return a sentence for each source of which images are converted to gray, or become opaque RGBA images.

    ``sets`` are :class:`Pairs`, or have them as ``pairs``, as sets of clips do.
    """
    found: dict[str, str] = {}
    for pairs in (getattr(given, "pairs", given) for given in sets):
        source, numbers = next(pairs.used())
        other = [i for i in numbers if pairs.channels != 3 and source.shape(i)[2] != pairs.channels]
        if other:
            what = "in color: converted to gray (luma)" if pairs.channels == 1 else "without alpha: opaque"
            found[source.name] = f"{source.name}: {len(other)} of {counted(len(numbers), 'image')} {what}"
    return list(found.values())


def check_shared(where: str, pairs: Mapping[int, Pairs]) -> None:
    """Raise ValueError unless the pairs of all scales have the same images in the same order."""
    (first, one), *others = pairs.items()
    for scale, other in others:
        if other.keys != one.keys:
            different = sorted(set(one.keys) ^ set(other.keys))[:5]
            raise ValueError(
                f"{where}: {one.hr.name} at x{first} and {other.hr.name} at x{scale} contain different images "
                f"({len(one.keys)} and {len(other.keys)}; {', '.join(different)}); every scale needs the same images"
            )
