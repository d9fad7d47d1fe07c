"""Interface of training sources, and the samples that are cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sr_train.batch import Image


class Cut(NamedTuple):
    """A training pair, cut from an image or from a window of video."""

    lr: Image | list[Image]  #: [size, size, C]; for video the LR patch of each frame in order of time
    hr: Image
    key: str  #: name of the image, or of the center frame
    target: Image | None = (
        None  #: sharpened HR patch, the target of losses other than the adversarial one (``data.usm``)
    )
    drawn: Mapping[str, float | str] = {}  #: choices of the degradation by name


class TrainSource(Protocol):
    """Source of training data: images or windows of video, each with an index from 0."""

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

    def cut(self, index: int, words: Sequence[int], size: int) -> Cut:
        """Cut a training patch.

        Args:
            index: index of the image or window.
            words: eight uniform random 64-bit integers. Numbers 0 and 1 determine the place of the patch. Number 2 is
                used by the caller, for the augmentation. Numbers 3 to 5 determine the window of a video. Numbers 6 and
                7 determine the degradation.
            size: side of the LR patch in pixels.
        """
        ...


class Sample(NamedTuple):
    """A training pair before augmentation."""

    lr: Image | list[Image]  #: LR patch, or the LR patches of a window's frames
    hr: Image
    k: int  #: flip and rotation, see :func:`.transforms.flip_rotate`
    key: str
    skipped: Sequence[tuple[str, str]] = ()  #: (name, reason) of images that were drawn before and cannot be read
    target: Image | None = None  #: see :class:`Cut`
    drawn: Mapping[str, float | str] = {}  #: see :class:`Cut`
