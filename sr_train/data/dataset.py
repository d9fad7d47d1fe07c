"""Datasets: training patches, and whole images for evaluation.

The index of a training patch is its position: the number of the sample in the stage, from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from sr_train.batch import Batch, Image
from sr_train.console import counted, message_of
from sr_train.data.draws import Draws, StepScales, below
from sr_train.data.eval_set import ClipFrame, EvalClips, EvalSet
from sr_train.data.images import BadFilesError, ImageError, to_channels, to_real
from sr_train.data.loading import LoaderError
from sr_train.data.lone import LoneImages
from sr_train.data.stacking import Stacks
from sr_train.data.store.format import StoreError
from sr_train.data.train_source import Cut, Sample, TrainSource
from sr_train.data.transforms import FLIP_ROTATIONS

PATIENCE = 10  #: default of ``data.patience``, as that of ``task.patience``


class TrainPatches(Dataset[Batch]):
    """Training pairs (LR patch, HR patch). The index of a pair is its position: the number of the sample in the stage.

    :class:`.draws.Draws` chooses image, crop and augmentation; all frames of a video window have the same crop and
    augmentation.

    Args:
        sources: pairs of images, or windows of video, to mix.
        draws: function that returns the random choices for a position; it must know the size of each source.
        lr_patch: side of the LR patch in pixels; the HR patch is ``scale`` times as large.
        augment: true to apply one of the eight flips and rotations to each patch.
        patience: an error is raised after this number of successive unreadable images for one position.

    A list of positions as index returns a :class:`~sr_train.batch.Batch` in channels-last memory. ``lr`` is [B, C, h,
    w], or [B, T, C, h, w] for video. ``hr`` and ``key`` of a video belong to the center frames of the windows.
    """

    def __init__(
        self,
        sources: Sequence[TrainSource],
        draws: Draws,
        *,
        lr_patch: int,
        augment: bool = True,
        patience: int = PATIENCE,
    ) -> None:
        for name, value in (("lr_patch", lr_patch), ("patience", patience)):
            if value < 1:
                raise ValueError(f"data.{name}={value} must be at least 1")
        self.patience = patience
        self.sources = list(sources)
        self.draws = draws
        self.lr_patch = lr_patch
        self.augment = augment
        self.scale = self.sources[0].scale
        small = [
            f"{source.name}: {name}: LR is {width}x{height}"
            for source in self.sources
            for name, (height, width) in source.sizes()
            if min(height, width) < lr_patch
        ]
        if small:
            raise BadFilesError(
                f"{counted(len(small), self.sources[0].sized)} smaller than the patch of {lr_patch}x{lr_patch} LR pixels; "
                f"leave out the listed {self.sources[0].sized}s, or set a smaller data.lr_patch",
                small,
            )

    def sample(self, position: int) -> Sample:
        """Return the sample at a position (number of the sample in the stage).

        An image that cannot be read is skipped, and another image is drawn. The images drawn for a position depend only
        on the seed, the stage's name and the position, so workers, devices and restarts do not change them.
        """
        skipped: list[tuple[str, str]] = []
        while len(skipped) < self.patience:
            source, index, words = self.draws(position, len(skipped))
            try:
                cut = self._cut(self.sources[source], index, words)
            except ImageError as error:
                skipped.append((self.sources[source].item(index), str(error)))
                continue
            k = below(words[2], FLIP_ROTATIONS) if self.augment else 0
            return Sample(cut.lr, cut.hr, k, cut.key, skipped, cut.target, cut.drawn)
        raise BadFilesError(
            f"{counted(self.patience, 'training image')} drawn in a row cannot be read (data.patience={self.patience}); check "
            "that their disk is mounted, and repair or remove the files",
            list(dict.fromkeys(reason for _, reason in skipped)),
        )

    def _cut(self, source: TrainSource, index: int, words: Sequence[int]) -> Cut:
        """Return one sample, cut from an image. Add the image's name to errors that do not contain a file's name."""
        try:
            return source.cut(index, words, self.lr_patch)
        except (ImageError, StoreError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename:
                raise
            text = " ".join(message_of(error).split())
            raise LoaderError(f"{source.name}: {source.item(index)}: {type(error).__name__}: {text}") from error

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Return the batch of the samples at ``positions`` (numbers of samples in the stage)."""
        stacks = Stacks(len(positions))
        keys, suspects, skipped = list[str](), list[str](), list[tuple[str, str]]()
        for slot, position in enumerate(positions):
            sample = self.sample(position)
            keys.append(sample.key)
            suspects += [] if stacks.add(slot, sample) else [sample.key]
            skipped += sample.skipped
        arrays = stacks.arrays
        found: Batch = {
            "lr": _tensor(arrays["lr"]),
            "hr": _tensor(arrays["hr"]),
            "key": keys,
            "suspects": suspects,
            "scale": self.scale,
        }
        if "target" in arrays:
            found["target"] = _tensor(arrays["target"])
        return {**found, "skipped": skipped} if skipped else found


class MultiScalePatches(Dataset[Batch]):
    """Training pairs of several scales. All pairs of one step have the same scale, on every device and in every worker.

    Args:
        patches: {scale: dataset}. All datasets use the same draws, so image and augmentation do not depend on the
            scale.
        scales: function that returns the scale of a step.
        batch: number of samples in one step, over all devices and micro-batches.
    """

    def __init__(self, patches: Mapping[int, TrainPatches], scales: StepScales, *, batch: int) -> None:
        self.patches = dict(patches)
        self.scales = scales
        self.batch = batch

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Return the batch of the samples at ``positions`` (numbers of samples in the stage), which belong to one step."""
        step = positions[0] // self.batch
        assert positions[-1] // self.batch == step
        return self.patches[self.scales(step)].__getitems__(positions)


def _tensor(pixels: Image) -> torch.Tensor:
    """Convert [..., H, W, C] to [..., C, H, W] in channels-last memory. uint8 stays uint8; uint16 becomes float32 in [0, 1]."""
    if pixels.dtype != np.uint8:
        pixels = to_real(pixels)
    return torch.as_tensor(pixels).movedim(-1, -3)


class EvalImage(NamedTuple):
    """One image, or a window of video whose center frame is scored."""

    set: str  #: name of the set
    key: str  #: name of the image
    lr: torch.Tensor  #: [C, h, w], or [T, C, h, w] for video; uint8, or float32 in [0, 1] for 16 bit
    hr: torch.Tensor | None  #: [C, H, W], same types; None for an image without HR
    scale: int
    clip: str = ""  #: name of its clip, whose scores are averaged first; empty for an image
    window: Sequence[
        tuple[str, int]
    ] = ()  #: (set, frame number) of each frame of ``lr``, to recognize shared frames; empty for an image
    centered: bool = True  #: it is an image, or the center frame of its clip
    from_gray: bool = False  #: the HR file has one channel; some protocols score it differently

    @property
    def target(self) -> torch.Tensor:
        """HR image [C, H, W]. Raises ValueError for an image without HR."""
        if self.hr is None:
            raise ValueError(f"{self.set}: {self.key}: has no HR image")
        return self.hr

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the HR image, or of the result for an image without HR."""
        height, width = (n * self.scale for n in self.lr.shape[-2:]) if self.hr is None else self.hr.shape[-2:]
        return height, width

    @property
    def center(self) -> torch.Tensor:
        """LR image to be restored, [C, h, w]."""
        return self.lr if self.lr.ndim == 3 else self.lr[len(self.lr) // 2]


class EvalImages(Dataset[EvalImage]):
    """Whole images of named sets; ``sets`` maps the name of a set to its pairs or windows."""

    def __init__(self, sets: Mapping[str, EvalSet]) -> None:
        self.sets = dict(sets)
        self._clips = {name: pairs for name, pairs in self.sets.items() if isinstance(pairs, EvalClips)}
        self._where = [(name, i) for name, pairs in self.sets.items() for i in range(len(pairs))]

    def __len__(self) -> int:
        return len(self._where)

    def _frame(self, name: str, index: int) -> ClipFrame | None:
        return self._clips[name].frame(index) if name in self._clips else None

    def clips(self) -> list[str]:
        """Return the name of the clip of every image, in order; an empty string for an image that belongs to no clip."""
        return [frame.clip if frame else "" for frame in (self._frame(*where) for where in self._where)]

    def centered(self) -> list[bool]:
        """Return one boolean for every image, in order: False for a frame of a clip that is not its center frame, else True."""
        return [frame.centered if frame else True for frame in (self._frame(*where) for where in self._where)]

    def shown(self, count: int) -> list[int]:
        """Return the indices of the images to display: the first ``count`` of each scale, with HR and without HR.

        A clip counts as its middle frame.
        """
        groups: dict[tuple[int, bool], dict[tuple[str, str], list[int]]] = {}
        for number, (clip, (name, i)) in enumerate(zip(self.clips(), self._where, strict=True)):
            of_scale = groups.setdefault((self.sets[name].scale, isinstance(self.sets[name], LoneImages)), {})
            of_scale.setdefault((name, clip or f"image {i}"), []).append(number)
        return [n[len(n) // 2] for of_scale in groups.values() for n in list(of_scale.values())[:count]]

    def names(self) -> list[tuple[str, str]]:
        """Return (name of the set, name of the image) for every image, in order."""
        return [(name, self.sets[name].keys[i]) for name, i in self._where]

    def scale(self, index: int) -> int:
        """Return the scale of an image: HR pixels per LR pixel."""
        return self.sets[self._where[index][0]].scale

    def pixels(self, index: int) -> int:
        """Return the number of HR pixels of an image, without decoding it."""
        name, i = self._where[index]
        height, width = self.sets[name].hr_size(i)
        return height * width

    def __getitem__(self, index: int) -> EvalImage:
        name, i = self._where[index]
        pairs = self.sets[name]
        lr, hr = pairs.whole(i)
        gray = hr is not None and hr.shape[-1] == 1
        low, high = (None if x is None else _tensor(np.array(to_channels(x, pairs.channels))) for x in (lr, hr))
        assert low is not None
        image = EvalImage(name, pairs.keys[i], low, high, pairs.scale, from_gray=gray)
        if frame := self._frame(name, i):
            window = [(name, number) for number in frame.window]
            return image._replace(clip=frame.clip, window=window, centered=frame.centered)
        return image
