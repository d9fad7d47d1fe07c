"""LPIPS (Zhang et al., CVPR 2018) as a loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from sr_train.metrics.lpips import LAYERS, LPIPS
from sr_train.models.features import FeatureExtractor
from sr_train.torch_files import TorchFileError, read_tensors

_FILES = "give alex.pth or vgg.pth of the lpips package's weights/v0.1"

_NETWORKS = ("alex", "vgg")


class LPIPSLoss(nn.Module):
    """Mean LPIPS v0.1 of the images of a batch: sr and hr, [B, 1 or 3, H, W] each in [0, 1] -> scalar.

    The value is that of the metric (:class:`sr_train.metrics.lpips.LPIPS`), which also rounds images to 8 bits. Networks that
    are trained with a loss of one network should be scored by the other one.

    Args:
        weights: file with the lin layers of LPIPS v0.1, ``alex.pth`` or ``vgg.pth``.
        network: ``alex`` or ``vgg``; the network of the file.
        features: file of torchvision with the weights of AlexNet or VGG16. ``None``: ``weights``, if it contains them, else
            torch's cache, or a download.
    """

    def __init__(self, *, weights: str, network: Literal["alex", "vgg"] = "alex", features: str | None = None) -> None:
        super().__init__()
        if network not in _NETWORKS:
            raise ValueError(f"network={network!r}: choose from {', '.join(_NETWORKS)}")
        try:  # before a network is downloaded
            state = read_tensors(weights)
        except TorchFileError as error:
            raise ValueError(f"LPIPSLoss: weights={error}; {_FILES}") from None
        name: Literal["alexnet", "vgg16"] = "alexnet" if network == "alex" else "vgg16"
        whole = any(key.startswith("features.") for key in state)
        lins = [state[key].flatten() for i in range(5) if (key := f"lin{i}.model.1.weight") in state]
        if len(lins) != len(LAYERS[name]):
            raise ValueError(f"LPIPSLoss: weights={weights}: contains {len(lins)} of 5 lin layers; {_FILES}")
        extractor = FeatureExtractor(
            network=name, layers=LAYERS[name], weights=weights if whole and features is None else features
        )
        self.lpips = LPIPS(extractor=extractor, weights=weights)

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        return self.lpips.distance(sr, hr).mean()
