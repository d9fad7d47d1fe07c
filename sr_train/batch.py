"""Notation for shapes and value ranges, used in the whole package.

Letters: ``B`` batch, ``T`` frames, ``C`` channels (3 for RGB, 1 for gray), ``h, w`` low resolution, ``H, W`` = ``scale * h,
scale * w``.
"""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

import torch
from numpy.typing import NDArray

Image = NDArray[Any]  #: pixels outside of networks: [h, w, C] uint8, uint16 or float32, C = 1, 3 (RGB) or 4


class _MayHave(TypedDict, total=False):
    target: torch.Tensor  #: sharpened ``hr``, the target of all losses but the adversarial one; only with ``data.usm``
    suspects: list[str]  #: the names in ``key`` whose patches contain NaN or infinite values; found by the loader
    skipped: list[
        tuple[str, str]
    ]  #: (name, reason) of images that were drawn and cannot be read; others were drawn instead


class Batch(_MayHave):
    """One batch, from a data loader to a task.

    The loader yields pixels as uint8 in [0, 255], in channels-last memory. On the device, :func:`to_float` converts
    them to float32 in [0, 1].
    """

    lr: torch.Tensor  #: [B, C, h, w], or [B, T, C, h, w] for video
    hr: torch.Tensor  #: [B, C, H, W]; the center frame for video
    key: list[str]  #: B names: the image that each sample was cropped from
    scale: int  #: H // h, one for the whole batch


class Extractor(Protocol):
    """Protocol of a frozen network that computes features for losses and metrics.

    ``sr_train.models.features.FeatureExtractor`` implements it.
    """

    channels: dict[str, int]  #: layer -> number of channels, in the order of the output
    minimum: int  #: smallest allowed side of an image, in pixels

    def __call__(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute features of images [B, 1 or 3, H, W] in [0, 1].

        Return {name of the layer: features [B, c, H', W']}. Each layer has its own number of channels c and its own
        size H', W'. The extractor normalizes the images with ImageNet's mean and standard deviation.
        """
        ...


def to_float(image: torch.Tensor) -> torch.Tensor:
    """Convert pixels for networks and losses: [..., H, W] uint8 in [0, 255] or float in [0, 1] -> float32 in [0, 1]."""
    return image if image.is_floating_point() else image.float().div_(255.0)
