"""Base class of fixed networks that compute features for the perceptual loss and LPIPS."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

Layers = Sequence[str] | Mapping[str, float | None]


class FeatureError(ValueError):
    """Error for weights of a feature network that are missing or do not match. The message contains the remedy."""


class FrozenFeatures(nn.Module, ABC):
    """Named features of a fixed network: [B, 3, H, W] RGB or [B, 1, H, W] gray in [0, 1] -> {layer: [B, c, H', W']}.

    The features are in the order of ``layers``. Gray is repeated to RGB. Images are normalized in float32; convolutions
    follow autocast. The image gets gradients, the weights do not. The weights are not in the state dict, so checkpoints
    do not contain them. On the meta device (``torch.device("meta")``) no file is read.

    Args:
        network: name of the network in messages and digests.
        layers: names of layers, or {name: weight} as in the perceptual loss. Layers with the weight ``None`` are left out: on
            a command line, null removes a recipe's layer.
        precision: ``bf16`` keeps the weights and computes the features in bfloat16, which halves their memory also in a
            run in fp32; ``auto``: weights in float32, and convolutions as autocast says.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: str, layers: Layers, precision: Literal["auto", "bf16"]) -> None:
        super().__init__()
        if precision not in ("auto", "bf16"):
            raise ValueError(f"precision={precision}: expected auto or bf16")
        self.precision, self.network = precision, network
        weighted = layers.items() if isinstance(layers, Mapping) else ((name, 1.0) for name in layers)
        self.layers = [name for name, weight in weighted if weight is not None]
        self.channels: dict[str, int] = {}  #: channels of each requested layer
        self.minimum = 1  #: smallest side of an image that leaves a pixel at the deepest layer
        self.deepest = ""  #: name of the deepest layer that is computed

    @staticmethod
    def on_meta() -> bool:
        """Return true if new tensors have no values, because the default device is ``meta``."""
        return torch.get_default_device().type == "meta"

    def _add(self, tensors: Mapping[str, torch.Tensor], *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Add fixed weights, and the mean and deviation by which images are normalized."""
        for name, tensor in tensors.items():
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            if self.precision == "bf16":
                tensor = tensor.bfloat16()
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def _features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features of normalized images."""

    def digest(self) -> str:
        """Return a digest of the network, its layers and its weights. It does not depend on the file's path."""
        found = hashlib.blake2b(f"{self.network} {self.layers}".encode(), digest_size=8)
        for name, parameter in self.named_parameters():
            found.update(f"{name} {list(parameter.shape)}".encode())
            found.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        return f"{self.network} {found.hexdigest()}"

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in eval mode for every value of ``mode``, because the features must not change."""
        return super().train(False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save nothing, because the weights are read from the file of weights again."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load nothing and report no missing keys."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features; see the class for shapes and ranges."""
        if image.ndim != 4 or image.shape[1] not in (1, 3) or min(image.shape[-2:]) < self.minimum:
            raise ValueError(
                f"{self.network} features at {self.deepest} need RGB images [B, 3, H, W] (or gray ones, "
                f"[B, 1, H, W]) of at least {self.minimum}x{self.minimum} pixels, but got {list(image.shape)}"
            )
        x = (image.float() - self.mean) / self.std
        kind = x.device.type
        if self.precision == "auto" or not torch.amp.is_autocast_available(kind):  # the meta device has no autocast
            return self._features(x.to(next(self.parameters()).dtype))
        with torch.autocast(kind, enabled=False):
            return self._features(x.bfloat16())
