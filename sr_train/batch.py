"""The legend of shapes and ranges that every floor above speaks.

Letters: ``B`` batch, ``T`` frames, ``C`` channels (3, RGB), ``h, w`` low resolution, ``H, W`` = ``scale * h, scale * w``.
"""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

import torch
from numpy.typing import NDArray

Image = NDArray[Any]  #: pixels outside of networks: [h, w, C] uint8, uint16 or float32, C = 1, 3 (RGB) or 4


class Batch(TypedDict):
    """What a loader yields and a task consumes.

    Pixels leave the loader as uint8 in [0, 255], in channels-last memory, and are RGB float32 in [0, 1] from
    the device on (:func:`to_float`).
    """

    lr: torch.Tensor  #: [B, C, h, w], or [B, T, C, h, w] for video
    hr: torch.Tensor  #: [B, C, H, W]; the centre frame for video
    key: list[str]  #: B names: which image each sample was cut from
    scale: int  #: H // h, one for the whole batch


class Extractor(Protocol):
    """A fixed network that gives features of images to losses and metrics: ``sr_train.models.features.FeatureExtractor``."""

    channels: dict[str, int]  #: channels of each layer that it gives, in order
    minimum: int  #: shortest side of an image

    def __call__(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 3, H, W] in [0, 1], normalized inside with ImageNet's mean and deviation -> {layer: [B, c, H', W']}."""
        ...


def to_float(image: torch.Tensor) -> torch.Tensor:
    """Pixels as the networks and losses want them: [..., H, W] uint8 in [0, 255] or float in [0, 1] -> float32 in [0, 1]."""
    return image if image.is_floating_point() else image.float().div_(255.0)
