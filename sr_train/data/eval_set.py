"""Sets of images to score, by index: what :class:`.dataset.EvalImages` needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from sr_train.batch import Image


class EvalSet(Protocol):
    """Pairs (LR image, HR image), or for video (LR window, HR center frame); each pair has an index from 0."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        ...

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        ...

    @property
    def channels(self) -> int:
        """Channels C that images are converted to."""
        ...

    def __len__(self) -> int: ...

    def hr_size(self, index: int) -> tuple[int, int]:
        """Return (H, W) of the HR image of a pair, or of the result without HR, without decoding it."""
        ...

    def whole(self, index: int) -> tuple[Image, Image | None]:
        """Return a whole pair without cropping: LR [h, w, C], or [T, h, w, C] for video, and HR [H, W, C].

        HR is None in a set without HR images.
        """
        ...


class ClipFrame(NamedTuple):
    """Position of a scored frame in its clip."""

    clip: str  #: name of the clip, whose scores are averaged first
    window: Sequence[int]  #: numbers of the frames of its window; windows with a number in common share that frame
    centered: bool  #: it is the center frame of its clip


@runtime_checkable
class EvalClips(EvalSet, Protocol):
    """An :class:`EvalSet` of windows of video."""

    def frame(self, index: int) -> ClipFrame:
        """Return the position of the scored frame."""
        ...
