"""LPIPS v0.1 (Zhang et al., CVPR 2018): how far apart two images look, as a distance of ImageNet features; lower is better.

The features come from an extractor that is an argument, as in the perceptual loss: metrics know no models.
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

_EPS = 1e-10  # in the norm, as the authors have it

#: digest of the lin layers (:func:`digest`) -> version, of the lpips package. The files of both have the same names and shapes.
VERSIONS = {
    "95eac0ddb51712d5": "0.1",  # alex.pth
    "96b1dfc8de7c889a": "0.1",  # vgg.pth
    "802a0d39d1003f9c": "0.0",
    "23355511dde22323": "0.0",
}


def digest(vectors: Sequence[torch.Tensor]) -> str:
    """Digest of lin layers in half precision: a copy in float16 has the digest of its float32 original."""
    found = hashlib.blake2b(digest_size=8)
    for vector in vectors:
        found.update(vector.flatten().half().cpu().numpy().tobytes())
    return found.hexdigest()


def _read_weights(weights: str, channels: dict[str, int]) -> list[torch.Tensor]:
    """One vector of non-negative weights a layer."""
    where = weights
    try:
        state = read_tensors(weights)
    except TorchFileError as error:
        raise ValueError(
            f"{error}. It should hold LPIPS v0.1's lin layers: alex.pth or vgg.pth of the lpips package"
        ) from None
    names = [name for name in state if name.startswith("lin") and name.endswith(".model.1.weight")]
    expected = [f"lin{i}.model.1.weight" for i in range(len(channels))]
    if sorted(names) != sorted(expected):
        raise ValueError(f"{where}: has {names or 'no lin layers'}; for {len(channels)} layers expected {expected}")
    vectors = [state[name].flatten().to(torch.float32, copy=True) for name in expected]  # not mapped to the file
    for vector, (layer, count) in zip(vectors, channels.items(), strict=True):
        if len(vector) != count:
            raise ValueError(
                f"{where}: {len(vector)} weights for {layer}, which has {count} channels; another network's?"
            )
        if not bool((vector >= 0).all()):
            raise ValueError(
                f"{where}: the weights of {layer} are not all numbers from 0 on; a distance could be negative"
            )
    return vectors


def released_version(weights: str, vectors: Sequence[torch.Tensor]) -> str | None:
    """Return the released version of lin layers, None for a user's own. Raises ValueError naming the file for v0.0."""
    version = VERSIONS.get(digest(vectors))
    if version == "0.0":
        raise ValueError(
            f"{weights}: holds the lin layers of LPIPS v0.0, which are for images without ImageNet's normalization; "
            "scores that are published today are of v0.1: its file has the same name, in the folder weights/v0.1"
        )
    return version


class LPIPS(nn.Module):
    """LPIPS v0.1: the distance of unit-length features, weighted by channel, averaged over pixels, summed over layers.

    Of whole RGB images as 8-bit files would hold them, in float32. The authors' scaling of [-1, 1] is the extractor's
    ImageNet normalization of [0, 1], number for number.

    Args:
        extractor: gives AlexNet's ``relu1`` to ``relu5``, or VGG16's ``relu1_2, relu2_2, relu3_3, relu4_3, relu5_3``,
            in this order.
        weights: file with ``lin0.model.1.weight`` to ``lin4...``: ``alex.pth`` or ``vgg.pth`` from the ``lpips`` package's
            ``weights/v0.1``, or a safetensors file with these names (and possibly the extractor's weights as well).
            Layers that are in no release are taken for v0.1's; those of v0.0 are refused.
    """

    def __init__(self, *, extractor: Extractor, weights: str) -> None:
        super().__init__()
        self.extractor = extractor
        self._lins: list[str] = []
        vectors = _read_weights(weights, extractor.channels)
        self.version = released_version(weights, vectors)  #: "0.1", or None for layers that are in no release
        for i, vector in enumerate(vectors):
            self.register_buffer(f"lin{i}", vector.view(1, -1, 1, 1), persistent=False)
            self._lins.append(f"lin{i}")

    @torch.no_grad()
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances: [B, 3, H, W] twice, uint8 or float in [0, 1] -> [B] float32; 0 for equal images."""
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
            raise ValueError(
                f"LPIPS compares RGB images of one size, [B, 3, H, W], not {list(a.shape)} and {list(b.shape)}"
            )
        side = self.extractor.minimum
        if min(a.shape[-2:]) < side:
            raise ValueError(f"LPIPS needs at least {side}x{side} pixels with this network, got {list(a.shape)}")
        with torch.autocast(a.device.type, enabled=False):
            features = [self.extractor((quantize(x) / 255).float()) for x in (a, b)]
            total = torch.zeros(len(a), device=a.device)
            for lin, x, y in zip(self._lins, *(f.values() for f in features), strict=True):
                difference = (_unit(x) - _unit(y)) ** 2
                total += (self.get_buffer(lin) * difference).sum(1).mean((1, 2))
        return total

    def score(self, a: torch.Tensor, b: torch.Tensor) -> float:
        """One pair, [3, H, W] each, as PSNR and SSIM take it."""
        return float(self(a[None], b[None]))


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Each pixel's feature vector at length one."""
    length = cast("torch.Tensor", torch.linalg.vector_norm(x, dim=1, keepdim=True))  # pyright: ignore[reportUnknownMemberType]
    return x / (length + _EPS)
