"""Interface of training sources, and the samples that are cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sr_train.batch import Image


class TrainSource(Protocol):
    """Training images or windows of video, by index."""

    unit: str  #: plural noun for the items, for messages: ``images``, ``windows``
    sized: str  #: noun for what :meth:`sizes` lists, for messages: ``image``, ``clip``
    name: str  #: name of the source, for messages
    scale: int  #: HR pixels per LR pixel

    def __len__(self) -> int: ...

    def sizes(self) -> Iterable[tuple[str, tuple[int, int]]]:
        """Return (name, LR (h, w)) of every image or clip."""
        ...

    def item(self, index: int) -> str:
        """Return the name of an image, or of a window's clip, for messages."""
        ...

    def cut(self, index: int, words: Sequence[int], size: int) -> tuple[Image | list[Image], Image, str]:
        """Cut a training patch.

        Args:
            index: index of the image or window.
            words: uniform 64-bit words; 0 and 1 choose the place, 3 to 5 choose the window of a video.
            size: side of the LR patch in pixels.

        Returns:
            LR patch [size, size, 3], or for video a list of them in order of time; HR patch; key of the image or center frame.
        """
        ...


class Sample(NamedTuple):
    """A training pair before augmentation."""

    lr: Image | list[Image]  #: LR patch, or those of a window
    hr: Image
    k: int  #: flip and rotation, see :func:`.transforms.flip_rotate`
    key: str
    skipped: Sequence[tuple[str, str]] = ()  #: (name, reason) of images that were drawn before and cannot be read
