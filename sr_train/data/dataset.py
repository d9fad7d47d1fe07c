"""Datasets: training patches by position, whole images for evaluation."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from sr_train.batch import Batch, Image
from sr_train.data.draws import Draws, StepScales, below
from sr_train.data.images import BadFilesError, to_real, to_rgb
from sr_train.data.transforms import TURNS, turn

_PIXEL = {
    np.dtype(np.uint8): np.dtype("V3"),
    np.dtype(np.uint16): np.dtype("V6"),
    np.dtype(np.float32): np.dtype("V12"),
}


def _pixels(image: Any) -> Image:
    """[n, n, 3] as [n, n] elements of three samples."""
    return image.view(_PIXEL[image.dtype])[..., 0]


def _place(canvas: Image, patch: Image, k: int) -> None:
    """Write a patch [n, n, 3], turned, into canvas [n, n, 3] of the same type.

    A pixel is moved as one element: three to seven times as fast as three samples when the turn is not the identity.
    """
    if patch.strides[2] != patch.itemsize:
        patch = np.ascontiguousarray(patch)
    np.copyto(_pixels(canvas), turn(_pixels(patch), k))


class TrainSource(Protocol):
    """Images or windows of video to train on, by number."""

    unit: str  #: what is counted, in messages: ``images``, ``windows``
    sized: str  #: what :meth:`sizes` lists, in messages: ``images``, ``clips``
    name: str  #: the source in messages
    scale: int  #: HR pixels per LR pixel

    def __len__(self) -> int: ...

    def sizes(self) -> Iterable[tuple[str, tuple[int, int]]]:
        """Return (name, LR (h, w)) of every image or clip."""
        ...

    def cut(self, index: int, words: Sequence[int], size: int) -> tuple[Image | list[Image], Image, str]:
        """Cut a training patch.

        Args:
            index: number of the image or window.
            words: uniform 64-bit words that choose the place (0, 1) and, for video, the window (3, 4, 5).
            size: side of the LR patch in pixels.

        Returns:
            LR patch [size, size, 3], or a list of them in time for video; HR patch; key of the image or center frame.
        """
        ...


class TrainPatches(Dataset[Batch]):
    """Training pairs: position -> crop and turn, one for all frames of a window, as :class:`.draws.Draws` states.

    Args:
        sources: pairs of images, or windows of video, to mix.
        draws: what each position draws; its sizes are those of the sources.
        lr_patch: side of the LR patch in pixels; the HR patch is ``scale`` times as large.
        augment: turn each patch by one of the eight turns.

    Indexed with a list of positions it yields a :class:`~sr_train.batch.Batch` in channels-last memory: ``lr`` is
    [B, 3, h, w], or [B, T, 3, h, w] for video, where ``hr`` and ``key`` are the center frames'.
    """

    def __init__(self, sources: Sequence[TrainSource], draws: Draws, *, lr_patch: int, augment: bool = True) -> None:
        if lr_patch < 1:
            raise ValueError(f"lr_patch={lr_patch} must be at least 1")
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
                f"{len(small)} {self.sources[0].sized} are smaller than the patch of {lr_patch}x{lr_patch} LR pixels; "
                "leave them out or set a smaller data.lr_patch",
                small,
            )

    def sample(self, position: int) -> tuple[Image | list[Image], Image, int, str]:
        """(LR patch or those of a window, HR patch, turn, key) at a position, not yet turned."""
        source, index, words = self.draws(position)
        lr, hr, key = self.sources[source].cut(index, words, self.lr_patch)
        return lr, hr, below(words[2], TURNS) if self.augment else 0, key

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Batch of the samples at ``positions``."""
        n = len(positions)
        lr_out = hr_out = np.empty(0)
        keys: list[str] = []
        for slot, position in enumerate(positions):
            lr, hr, k, key = self.sample(position)
            frames, time = (lr, (len(lr),)) if isinstance(lr, list) else ([lr], ())
            if slot == 0:
                lr_out = np.empty((n, *time, *frames[0].shape), frames[0].dtype)
                hr_out = np.empty((n, *hr.shape), hr.dtype)
            if any(f.dtype != lr_out.dtype for f in frames) or hr.dtype != hr_out.dtype:  # depths are mixed
                frames, hr, lr_out, hr_out = [to_real(f) for f in frames], to_real(hr), to_real(lr_out), to_real(hr_out)
            for canvas, frame in zip(lr_out[slot] if time else lr_out[slot : slot + 1], frames, strict=True):
                _place(canvas, frame, k)
            _place(hr_out[slot], hr, k)
            keys.append(key)
        return {"lr": _tensor(lr_out), "hr": _tensor(hr_out), "key": keys, "scale": self.scale}


class MultiScalePatches(Dataset[Batch]):
    """Training pairs of several scales: all of a global step's are of that step's scale, wherever they are loaded.

    Args:
        patches: by scale, all with the same draws: which image and which turn a position has does not depend on the scale.
        scales: which scale each global step has.
        batch: positions of a global step, over all devices and micro-batches.
    """

    def __init__(self, patches: Mapping[int, TrainPatches], scales: StepScales, *, batch: int) -> None:
        self.patches = dict(patches)
        self.scales = scales
        self.batch = batch

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Batch of the samples at ``positions``, which belong to one step."""
        step = positions[0] // self.batch
        assert positions[-1] // self.batch == step
        return self.patches[self.scales(step)].__getitems__(positions)


def _tensor(pixels: Image) -> torch.Tensor:
    """[..., H, W, C] -> [..., C, H, W] in channels-last memory; uint8 as it is, 16 bit as float32 in [0, 1]."""
    if pixels.dtype != np.uint8:
        pixels = to_real(pixels)
    return torch.as_tensor(pixels).movedim(-1, -3)


def passthrough(batch: Batch) -> Batch:
    """The collate function of :class:`TrainPatches`, which makes whole batches itself."""
    return batch


def one_thread(_: int) -> None:
    """What a loader worker does first: compute on its own core only. Here, so that a spawned one imports no Lightning."""
    torch.set_num_threads(1)
    # A signal to the whole process group (timeout, systemd, scancel) is the training process's to answer, with a checkpoint.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


class EvalImage(NamedTuple):
    """One image, or the centre frame of a window, to be scored."""

    set: str  #: name of the set
    key: str  #: name of the image
    lr: torch.Tensor  #: [C, h, w], or [T, C, h, w] for video; uint8, or float32 in [0, 1] for 16 bit
    hr: torch.Tensor  #: [C, H, W] likewise
    scale: int
    clip: str = ""  #: the clip whose scores are averaged first; none for an image
    window: Sequence[
        tuple[str, int]
    ] = ()  #: what tells the frames of ``lr`` from all others of the sets; none for an image
    centred: bool = True  #: whether it is an image, or the centre frame of its clip

    @property
    def centre(self) -> torch.Tensor:
        """The LR image that is to be restored, [C, h, w]."""
        return self.lr if self.lr.ndim == 3 else self.lr[len(self.lr) // 2]


class EvalSet(Protocol):
    """Pairs of images, or of windows and their centre frames, by number."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        ...

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        ...

    def __len__(self) -> int: ...

    def hr_size(self, index: int) -> tuple[int, int]:
        """(H, W) without decoding."""
        ...

    def whole(self, index: int) -> tuple[Image, Image]:
        """(LR [h, w, C] or [T, h, w, C], HR [H, W, C])."""
        ...


class ClipFrame(NamedTuple):
    """Place of a frame that is scored in its clip."""

    clip: str  #: the clip whose scores are averaged first
    window: Sequence[int]  #: numbers of the frames of its window, by which windows share them
    centred: bool  #: whether it is the center frame of its clip


@runtime_checkable
class EvalClips(EvalSet, Protocol):
    """An :class:`EvalSet` of windows of video."""

    def frame(self, index: int) -> ClipFrame:
        """Return the place of the frame that is scored."""
        ...


class EvalImages(Dataset[EvalImage]):
    """Whole images of named sets, in RGB. ``sets`` maps a set's name to its pairs or windows."""

    def __init__(self, sets: Mapping[str, EvalSet]) -> None:
        self.sets = dict(sets)
        self._clips = {name: pairs for name, pairs in self.sets.items() if isinstance(pairs, EvalClips)}
        self._where = [(name, i) for name, pairs in self.sets.items() for i in range(len(pairs))]

    def __len__(self) -> int:
        return len(self._where)

    def _frame(self, name: str, index: int) -> ClipFrame | None:
        return self._clips[name].frame(index) if name in self._clips else None

    def clips(self) -> list[str]:
        """The clip of every image, in order; empty for those that are of none."""
        return [frame.clip if frame else "" for frame in (self._frame(*where) for where in self._where)]

    def centred(self) -> list[bool]:
        """Of every image, in order, whether it is an image or the centre frame of its clip."""
        return [frame.centred if frame else True for frame in (self._frame(*where) for where in self._where)]

    def shown(self, count: int) -> list[int]:
        """The first ``count`` images of each scale to look at; of a clip only its middle frame, as neighbours look alike."""
        groups: dict[int, dict[tuple[str, str], list[int]]] = {}
        for number, (clip, (name, i)) in enumerate(zip(self.clips(), self._where, strict=True)):
            of_scale = groups.setdefault(self.sets[name].scale, {})
            of_scale.setdefault((name, clip or f"image {i}"), []).append(number)
        return [n[len(n) // 2] for of_scale in groups.values() for n in list(of_scale.values())[:count]]

    def names(self) -> list[tuple[str, str]]:
        """(set, key) of every image, in order."""
        return [(name, self.sets[name].keys[i]) for name, i in self._where]

    def scale(self, index: int) -> int:
        """HR pixels per LR pixel of an image."""
        return self.sets[self._where[index][0]].scale

    def pixels(self, index: int) -> int:
        """HR pixels of an image, without decoding it."""
        name, i = self._where[index]
        height, width = self.sets[name].hr_size(i)
        return height * width

    def __getitem__(self, index: int) -> EvalImage:
        name, i = self._where[index]
        pairs = self.sets[name]
        lr, hr = (_tensor(np.array(to_rgb(image))) for image in pairs.whole(i))
        image = EvalImage(name, pairs.keys[i], lr, hr, pairs.scale)
        if frame := self._frame(name, i):
            window = [(name, number) for number in frame.window]
            return image._replace(clip=frame.clip, window=window, centred=frame.centred)
        return image
