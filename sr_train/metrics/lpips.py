"""LPIPS v0.1 (Zhang et al., CVPR 2018): the perceived difference of two images, as a distance of ImageNet features.

Lower is better. The feature extractor is an argument, as in the perceptual loss, so that metrics do not import models.
The lin layers are LPIPS's learned weights, one for each channel of the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from sr_train.batch import Extractor
from sr_train.metrics.functional import quantize
from sr_train.torch_files import TorchFileError, read_tensors

_EPS = 1e-10  # added to the norm, as in the authors' code

#: feature layers of each network, in the order of the lin layers
LAYERS = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}

#: digest of the lin layers (:func:`digest`) -> version in the lpips package. Files of both versions have the same names.
VERSIONS = {
    "95eac0ddb51712d5": "0.1",  # alex.pth
    "96b1dfc8de7c889a": "0.1",  # vgg.pth
    "802a0d39d1003f9c": "0.0",
    "23355511dde22323": "0.0",
}


def digest(vectors: Sequence[torch.Tensor]) -> str:
    """Return a digest of LPIPS's lin layers (learned weights), computed in half precision.

    Therefore a float16 copy of the layers has the same digest as the float32 original.
    """
    found = hashlib.blake2b(digest_size=8)
    for vector in vectors:
        found.update(vector.flatten().half().cpu().numpy().tobytes())
    return found.hexdigest()


def _read_weights(weights: str, channels: dict[str, int]) -> list[torch.Tensor]:
    """Read LPIPS's lin layers from a file.

    Return a vector of weights for each feature layer; all weights are 0 or more.
    """
    where = weights
    try:
        state = read_tensors(weights)
    except TorchFileError as error:
        raise ValueError(
            f"{error}. Expected LPIPS v0.1's lin layers: alex.pth or vgg.pth of the lpips package"
        ) from None
    names = [name for name in state if name.startswith("lin") and name.endswith(".model.1.weight")]
    expected = [f"lin{i}.model.1.weight" for i in range(len(channels))]
    if sorted(names) != sorted(expected):
        raise ValueError(f"{where}: has {names or 'no lin layers'}; for {len(channels)} layers expected {expected}")
    vectors = [
        state[name].flatten().to(torch.float32, copy=True) for name in expected
    ]  # copies, not views of the mapped file
    for vector, (layer, count) in zip(vectors, channels.items(), strict=True):
        if len(vector) != count:
            raise ValueError(
                f"{where}: {len(vector)} weights for {layer}, which has {count} channels; the file is made for another network"
            )
        if not bool((vector >= 0).all()):
            raise ValueError(f"{where}: weights of {layer} are negative or NaN; all must be 0 or more")
    return vectors


def released_version(weights: str, vectors: Sequence[torch.Tensor]) -> str | None:
    """Return the released version of LPIPS's lin layers (learned weights); None for layers that were not released.

    Raises ValueError for v0.0.
    """
    version = VERSIONS.get(digest(vectors))
    if version == "0.0":
        raise ValueError(
            f"{weights}: contains the lin layers of LPIPS v0.0, which are for images without ImageNet's normalization; "
            "published scores use v0.1: give the file with the same name from the folder weights/v0.1"
        )
    return version


class LPIPS(nn.Module):
    """LPIPS v0.1: the squared distance of features, weighted by channel, averaged over pixels, summed over layers.

    The feature vector of each pixel is first normalized to length one. Inputs are complete images; they are rounded to
    8 bits. Gray is repeated to RGB. The computation is in float32. The extractor normalizes images in [0, 1] with
    ImageNet's mean and deviation, which equals the authors' scaling of images in [-1, 1].

    Args:
        extractor: module that computes AlexNet's features ``relu1`` to ``relu5``, or VGG16's features ``relu1_2,
            relu2_2, relu3_3, relu4_3, relu5_3``, in this order.
        weights: file with the lin layers ``lin0.model.1.weight`` to ``lin4.model.1.weight``: ``alex.pth`` or
            ``vgg.pth`` from the folder ``weights/v0.1`` of the ``lpips`` package, or a safetensors file with these
            names. The file may also contain the extractor's weights. Layers that were not released are used as in v0.1.
            Layers of v0.0 raise ValueError.
    """

    def __init__(self, *, extractor: Extractor, weights: str) -> None:
        super().__init__()
        self.extractor = extractor
        self._lins: list[str] = []
        vectors = _read_weights(weights, extractor.channels)
        self.version = released_version(weights, vectors)  #: "0.1", or None for unreleased layers
        for i, vector in enumerate(vectors):
            self.register_buffer(f"lin{i}", vector.view(1, -1, 1, 1), persistent=False)
            self._lins.append(f"lin{i}")

    @torch.no_grad()
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the distance of each pair: a and b, [B, 1 or 3, H, W] each, uint8 or float in [0, 1] -> [B] float32.

        The distance of equal images is 0.
        """
        return self.distance(*((quantize(x) / 255).float() for x in (a, b)))

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the distance of each pair without rounding: a and b, [B, 1 or 3, H, W] each in [0, 1] -> [B] float32.

        Both images get gradients. They are finite, also where all features of a pixel are 0.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] not in (1, 3):
            raise ValueError(
                "LPIPS compares gray or RGB images of one size, [B, 1 or 3, H, W], but got "
                f"{list(a.shape)} and {list(b.shape)}"
            )
        side = self.extractor.minimum
        if min(a.shape[-2:]) < side:
            raise ValueError(f"LPIPS needs at least {side}x{side} pixels with this network, got {list(a.shape)}")
        with torch.autocast(a.device.type, enabled=False):
            features = [self.extractor(x.float()) for x in (a, b)]
            total = torch.zeros(len(a), device=a.device)
            for lin, x, y in zip(self._lins, *(f.values() for f in features), strict=True):
                difference = (_unit(x) - _unit(y)) ** 2
                total = total + (self.get_buffer(lin) * difference).sum(1).mean((1, 2))
        return total

    def digest(self) -> str:
        """Return a digest of the lin layers. It does not depend on the file's path."""
        return f"lpips {digest([self.get_buffer(name) for name in self._lins])}"

    def score(self, a: torch.Tensor, b: torch.Tensor) -> float:
        """Return the distance of one pair of images, [1 or 3, H, W] each, as a float, as the functions for PSNR and SSIM."""
        return float(self(a[None], b[None]))


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Normalize each pixel's feature vector to length one."""
    length = cast("torch.Tensor", torch.linalg.vector_norm(x, dim=1, keepdim=True))  # pyright: ignore[reportUnknownMemberType]
    return x / (length + _EPS)
