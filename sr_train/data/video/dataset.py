"""Datasets of clips: windows of frames for training, and windows whose center frame is scored in validation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sr_train.batch import Image
from sr_train.data.dataset import ClipFrame
from sr_train.data.draws import below
from sr_train.data.images import to_channels, to_real
from sr_train.data.train_source import Cut
from sr_train.data.video.clips import Clips
from sr_train.data.video.windows import check_frames, check_padding, padded_window


class TrainWindows:
    """Training windows of video frames.

    A window lies inside its clip; there is one window for each possible center frame.

    Args:
        clips: clips to take windows from. Every clip must have at least as many frames as the longest window covers
            (argument ``least`` of :class:`.clips.Clips`).
        frames: odd number of frames of a window.
        intervals: possible intervals between the frames of a window; each interval is drawn equally often.
        reverse: true to reverse the order of the frames in half of the windows.
    """

    unit, sized = "windows", "clip"

    def __init__(self, clips: Clips, *, frames: int, intervals: Sequence[int] = (1,), reverse: bool = False) -> None:
        self.pairs = clips.pairs
        self.frames = frames
        self.intervals = check_intervals(intervals)
        self.reverse = reverse
        margin = frames // 2 * min(self.intervals)
        self._names, self._spans = clips.names, clips.spans
        self._centers = [
            (clip, t) for clip, (_, length) in enumerate(clips.spans) for t in range(margin, length - margin)
        ]
        self.keys, self.scale, self.hr, self.lr = self.pairs.keys, self.pairs.scale, self.pairs.hr, self.pairs.lr
        self.name = self.pairs.name
        self.hr_size, self.lr_size = self.pairs.hr_size, self.pairs.lr_size

    def __len__(self) -> int:
        return len(self._centers)

    def draw(self, index: int, words: Sequence[int]) -> list[int]:
        """Return the indices (in ``self.pairs``) of the frames of a random window around center frame number ``index``.

        ``words`` are three uniform random 64-bit integers, which determine interval and order. If the window with this
        interval does not fit into the clip, another center frame of the same clip is drawn.
        """
        clip, center = self._centers[index]
        first, length = self._spans[clip]
        interval = self.intervals[below(words[0], len(self.intervals))]
        half = self.frames // 2 * interval
        if not half <= center < length - half:
            center = half + below(words[2], length - 2 * half)
        window = [first + t for t in range(center - half, center + half + 1, interval)]
        return window[::-1] if self.reverse and below(words[1], 2) else window

    def sizes(self) -> list[tuple[str, tuple[int, int]]]:
        """Return (name, LR (h, w)) of every clip."""
        return [(name, self.lr_size(first)) for name, (first, _) in zip(self._names, self._spans, strict=True)]

    def item(self, index: int) -> str:
        """Return the name of a window's clip."""
        return self._names[self._centers[index][0]]

    def cut(self, index: int, words: Sequence[int], size: int) -> Cut:
        """Cut a training patch; see :class:`.TrainSource`.

        Return LR patches of the frames in order of time, HR patch of the center frame, and name of the center frame.
        """
        window = self.draw(index, words[3:6])
        center = window[len(window) // 2]
        top, left = self.pairs.place(center, words, size)
        lr, hr = self.pairs.patch(center, top, left, size)
        frames = [lr if i == center else self.pairs.lr_crop(i, top, left, size) for i in window]
        return Cut(frames, hr, self.keys[center])


def check_intervals(intervals: Sequence[int]) -> list[int]:
    """Return the frame intervals as a list. Raises ValueError unless all are integers of at least 1."""
    if not intervals or any(i < 1 for i in intervals):
        raise ValueError(f"intervals={list(intervals)}: expected integers of at least 1, e.g. [1] or [1,2]")
    return list(intervals)


class EvalWindows:
    """Uncropped windows of frames for validation, one for each frame to be scored.

    The class :class:`~sr_train.data.dataset.EvalImages` uses these windows.

    Args:
        clips: clips to take windows from.
        frames: number of frames of a window; 1 for networks that take single images.
        padding: rule that replaces frames before the start and after the end of a clip, see
            :mod:`sr_train.data.video.windows`.
        score: ``all`` frames, or only the ``centre`` frame of each clip (Vimeo-90K).
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
            raise ValueError(f"score={score!r}: choose from all, `centre` (only the middle frame of each clip)")
        self.pairs, self.hr, self.scale = clips.pairs, clips.pairs.hr, clips.pairs.scale
        self.channels = self.pairs.channels
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

    def frame(self, index: int) -> ClipFrame:
        """Return the position of the frame to be scored.

        The result contains the name of the clip, the indices (in ``self.pairs``) of the window's frames, and True if
        the frame is the middle frame of its clip.
        """
        clip, center = self._where[index]
        first, length = self._spans[clip]
        numbers = padded_window(center, frames=self.frames, length=length, padding=self.padding)
        return ClipFrame(self._names[clip], [first + t for t in numbers], center == length // 2)

    def hr_size(self, index: int) -> tuple[int, int]:
        """Return (H, W) of the frame to be scored."""
        return self.pairs.hr_size(self._number(*self._where[index]))

    def _lr(self, number: int) -> Image:
        """Return an LR frame [h, w, C]. Recent frames are in a cache, because neighboring windows share most frames."""
        if number not in self._recent:
            self._recent[number] = to_channels(self.pairs.lr_whole(number), self.channels)
            if len(self._recent) > 2 * self.frames:
                self._recent.popitem(last=False)
        return self._recent[number]

    def whole(self, index: int) -> tuple[Image, Image]:
        """Return (LR window [T, h, w, C], HR center frame [H, W, C])."""
        clip, center = self._where[index]
        frames = [self._lr(number) for number in self.frame(index).window]
        if len({f.dtype for f in frames}) > 1:
            frames = [to_real(f) for f in frames]
        return np.stack(frames), self.pairs.hr_whole(self._number(clip, center))
