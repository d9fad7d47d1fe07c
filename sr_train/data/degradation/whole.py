"""LR of whole images, made by a degradation: for validation sets and prepared training pairs."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import torch

from sr_train.batch import Image
from sr_train.data.degradation.base import Degradation, Words
from sr_train.data.degradation.maker import degrade, quantize
from sr_train.data.degrade import modcrop
from sr_train.data.images import Header, ImageError, to_channels, to_real
from sr_train.devices import free_memory

_BYTES = 100  # largest memory per sample of HR while it is degraded by blind, measured


class WholeMaker:
    """Maker of the LR of whole images. The LR of an image depends on its number, the seed and the degradation.

    Args:
        degradation: maker of LR.
        config: its config, which identifies it.
        seed: seed of the draws.
    """

    def __init__(self, degradation: Degradation, config: Mapping[str, Any], *, seed: int) -> None:
        self.degradation = degradation
        self.config = dict(config)
        self.seed = seed
        text = json.dumps(self.config, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        self.name = f"degrade {type(degradation).__name__} {digest} seed={seed}"  #: equal for makers of equal LR

    def words(self, number: int) -> Words:
        """Return the random numbers of the image with this number, from 0."""
        key = hashlib.blake2b(f"{self.seed}/sr-prepare".encode(), digest_size=32).digest()
        message = struct.pack("<2q", number, 0)
        return Words(hashlib.blake2b(message, key=key, person=b"degrade", digest_size=16).digest())

    def make(self, image: Image, scale: int, number: int) -> tuple[Image, Mapping[str, float | str]]:
        """Return the LR of an image, [H // scale, W // scale, C] of the image's type, and what was drawn.

        Transparency is dropped.
        """
        opaque = to_channels(image, 3) if image.shape[2] == 4 else image
        made = degrade(self.degradation, to_real(modcrop(opaque, scale)), scale, self.words(number))
        return quantize(made.lr, image.dtype), made.drawn


def workers_for(headers: Mapping[str, Header], workers: int) -> int:
    """Return how many of ``workers`` threads may degrade images of these sizes at once. Raise ImageError for too large ones."""
    free = free_memory(torch.device("cpu"))
    needs = {key: header.height * header.width * min(3, header.channels) * _BYTES for key, header in headers.items()}
    largest = max(needs, key=lambda key: needs[key], default="")
    needed = needs.get(largest, 0)
    if needed > free:
        height, width = headers[largest][:2]
        raise ImageError(
            f"{largest}: {width}x{height} pixels need about {needed / 1e9:.1f} GB of memory to be degraded, "
            f"{free / 1e9:.1f} GB are free; cut it into parts, or leave it out with list=FILE"
        )
    return max(1, min(workers, free // max(needed, 1)))
