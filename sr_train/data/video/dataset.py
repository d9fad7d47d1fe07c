"""Datasets of clips: training windows by position, the windows that a validation scores."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sr_train.batch import Batch
from sr_train.data.dataset import _place, _real, _tensor
from sr_train.data.draws import Draws, below
from sr_train.data.images import BadFilesError, to_rgb
from sr_train.data.transforms import TURNS
from sr_train.data.video.clips import Clips
from sr_train.data.video.windows import check_frames, check_padding, padded_window

Image = NDArray[Any]


class TrainWindows:
    """Windows of frames that lie inside their clips, numbered by their centre frames.

    Args:
        clips: to take them from; ``least`` of these covers the longest window.
        frames: of a window, odd.
        intervals: between its frames; of several each is drawn equally often.
        reverse: whether half of the windows run backwards.
    """

    unit = "windows"

    def __init__(self, clips: Clips, *, frames: int, intervals: Sequence[int] = (1,), reverse: bool = False) -> None:
        self.pairs = clips.pairs
        self.frames = frames
        self.intervals = check_intervals(intervals)
        self.reverse = reverse
        margin = frames // 2 * min(self.intervals)
        self._spans = clips.spans
        self._centres = [
            (clip, t) for clip, (_, length) in enumerate(clips.spans) for t in range(margin, length - margin)
        ]
        self.keys, self.scale, self.hr, self.lr = self.pairs.keys, self.pairs.scale, self.pairs.hr, self.pairs.lr
        self.hr_size, self.lr_size = self.pairs.hr_size, self.pairs.lr_size

    def __len__(self) -> int:
        return len(self._centres)

    def draw(self, index: int, words: Sequence[int]) -> list[int]:
        """The pairs of a window around the ``index``-th centre, by three uniform 64-bit words.

        Where the clip has no such window of the interval drawn, another centre of the same clip is.
        """
        clip, centre = self._centres[index]
        first, length = self._spans[clip]
        interval = self.intervals[below(words[0], len(self.intervals))]
        half = self.frames // 2 * interval
        if not half <= centre < length - half:
            centre = half + below(words[2], length - 2 * half)
        window = [first + t for t in range(centre - half, centre + half + 1, interval)]
        return window[::-1] if self.reverse and below(words[1], 2) else window


def check_intervals(intervals: Sequence[int]) -> list[int]:
    """Frame intervals as they are, or ValueError."""
    if not intervals or any(i < 1 for i in intervals):
        raise ValueError(f"intervals={list(intervals)}: expected whole numbers from 1 on, e.g. [1] or [1,2]")
    return list(intervals)


class TrainClips(Dataset[Batch]):
    """Training clips: position -> window, one crop and one turn for all its frames, as :class:`Draws` says.

    Args:
        sources: windows to mix.
        draws: what each position draws; its sizes are those of the sources.
        lr_patch: side of the LR patch in pixels.
        augment: turn each window by one of the eight turns.

    Indexed with a list of positions it yields a :class:`~sr_train.batch.Batch` whose ``lr`` is [B, T, 3, h, w] and whose
    ``hr`` and ``key`` are the centre frames'.
    """

    def __init__(self, sources: Sequence[TrainWindows], draws: Draws, *, lr_patch: int, augment: bool = True) -> None:
        if lr_patch < 1:
            raise ValueError(f"lr_patch={lr_patch} must be at least 1")
        self.sources = list(sources)
        self.draws = draws
        self.lr_patch = lr_patch
        self.augment = augment
        self.scale = self.sources[0].scale
        small = {
            f"{source.hr.name}: {key.rpartition('/')[0]}: LR is {size[1]}x{size[0]}": None
            for source in self.sources
            for key, size in ((k, source.lr_size(i)) for i, k in enumerate(source.keys))
            if min(size) < lr_patch
        }
        if small:
            raise BadFilesError(
                f"{len(small)} clips are smaller than the patch of {lr_patch}x{lr_patch} LR pixels; "
                "leave them out or set a smaller data.lr_patch",
                list(small),
            )

    def sample(self, position: int) -> tuple[list[Image], Image, int, str]:
        """(LR patches in time, HR patch of the centre, turn, key) at a position, not yet turned."""
        number, index, words = self.draws(position)
        source, size = self.sources[number], self.lr_patch
        window = source.draw(index, words[3:6])
        centre = window[len(window) // 2]
        height, width = source.lr_size(centre)
        top, left = below(words[0], height - size + 1), below(words[1], width - size + 1)
        lr, hr = source.pairs.patch(centre, top, left, size)
        frames = [lr if i == centre else source.pairs.lr_crop(i, top, left, size) for i in window]
        return frames, hr, below(words[2], TURNS) if self.augment else 0, source.keys[centre]

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Batch of the samples at ``positions``."""
        lr_out = hr_out = np.empty(0)
        keys: list[str] = []
        for slot, position in enumerate(positions):
            frames, hr, k, key = self.sample(position)
            if slot == 0:
                size = self.lr_patch
                lr_out = np.empty((len(positions), len(frames), size, size, 3), frames[0].dtype)
                hr_out = np.empty((len(positions), size * self.scale, size * self.scale, 3), hr.dtype)
            if any(f.dtype != lr_out.dtype for f in frames) or hr.dtype != hr_out.dtype:  # depths are mixed
                frames, hr, lr_out, hr_out = [_real(f) for f in frames], _real(hr), _real(lr_out), _real(hr_out)
            for t, frame in enumerate(frames):
                _place(lr_out[slot, t], frame, k)
            _place(hr_out[slot], hr, k)
            keys.append(key)
        return {"lr": _tensor(lr_out), "hr": _tensor(hr_out), "key": keys, "scale": self.scale}


class EvalWindows:
    """Whole windows to be scored, one a frame: for :class:`~sr_train.data.dataset.EvalImages`, as pairs of images are.

    Args:
        clips: to take them from.
        frames: of a window; 1 for networks that take images.
        padding: what stands for frames beyond a clip's ends, see :mod:`sr_train.data.video.windows`.
        score: ``all`` frames, or the ``centre`` frame of each clip alone (Vimeo-90K).
    """

    def __init__(
        self,
        clips: Clips,
        *,
        frames: int = 1,
        padding: str = "reflection_circle",
        score: Literal["all", "centre"] = "all",
    ) -> None:
        check_frames(frames)
        check_padding(padding)
        if score not in ("all", "centre"):
            raise ValueError(f"score={score!r}: choose from all (frames), centre (the middle one of each clip)")
        self.pairs, self.hr, self.scale = clips.pairs, clips.pairs.hr, clips.pairs.scale
        self.frames, self.padding = frames, padding
        self._names, self._spans = clips.names, clips.spans
        self._where = [
            (clip, t)
            for clip, (_, length) in enumerate(clips.spans)
            for t in (range(length) if score == "all" else [length // 2])
        ]
        self.keys = [
            f"{self._names[c]}/{self.pairs.keys[self._number(c, t)].rpartition('/')[2]}" for c, t in self._where
        ]
        self._recent: OrderedDict[int, Image] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": OrderedDict()}

    def __len__(self) -> int:
        return len(self._where)

    def _number(self, clip: int, frame: int) -> int:
        return self._spans[clip][0] + frame

    def clip(self, index: int) -> str:
        """The clip whose scores are averaged first."""
        return self._names[self._where[index][0]]

    def window(self, index: int) -> list[int]:
        """The pairs that a window consists of."""
        clip, centre = self._where[index]
        first, length = self._spans[clip]
        numbers = padded_window(centre, frames=self.frames, length=length, padding=self.padding)
        return [first + t for t in numbers]

    def centred(self, index: int) -> bool:
        """Whether the frame to be scored is the middle one of its clip."""
        clip, centre = self._where[index]
        return centre == self._spans[clip][1] // 2

    def hr_size(self, index: int) -> tuple[int, int]:
        """(H, W) of the frame to be scored."""
        return self.pairs.hr_size(self._number(*self._where[index]))

    def _lr(self, number: int) -> Image:
        """An LR frame [h, w, 3]; neighbouring windows share most of theirs."""
        if number not in self._recent:
            self._recent[number] = to_rgb(self.pairs.lr_whole(number))
            if len(self._recent) > 2 * self.frames:
                self._recent.popitem(last=False)
        return self._recent[number]

    def whole(self, index: int) -> tuple[Image, Image]:
        """(LR window [T, h, w, 3], HR centre frame [H, W, C])."""
        clip, centre = self._where[index]
        frames = [self._lr(number) for number in self.window(index)]
        if len({f.dtype for f in frames}) > 1:
            frames = [_real(f) for f in frames]
        return np.stack(frames), self.pairs.hr_whole(self._number(clip, centre))
