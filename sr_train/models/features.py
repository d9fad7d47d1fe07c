"""Features of ImageNet networks (VGG19, VGG16, AlexNet) for the perceptual loss and LPIPS.

These are frozen and not saved.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from sr_train.models.frozen_features import FeatureError, FrozenFeatures, Layers
from sr_train.torch_files import TorchFileError, read_tensors

# LPIPS's scaling of [-1, 1] (shift -.030, -.088, -.188; scale .458, .448, .450) equals this one of [0, 1].
_MEAN = (0.485, 0.456, 0.406)

_STD = (0.229, 0.224, 0.225)

_SITE = "https://download.pytorch.org/models/"

FILES = {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth", "alexnet": "alexnet-owt-7be5be79.pth"}

_BLOCKS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}  # convolutions in each block; a pool ends each block


class _Layer(NamedTuple):
    """One layer of the module ``features`` of torchvision's network.

    The index of the layer in this module is the same as in the list of :func:`_layers_of`.
    """

    name: str
    kind: Literal["conv", "relu", "pool"]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    inputs: int = 0
    outputs: int = 0


def _layers_of(network: str) -> list[_Layer]:
    if network == "alexnet":
        pool = partial(_Layer, kind="pool", kernel=3, stride=2)
        return [
            _Layer("conv1", "conv", 11, 4, 2, 3, 64), _Layer("relu1", "relu"), pool("pool1"),
            _Layer("conv2", "conv", 5, 1, 2, 64, 192), _Layer("relu2", "relu"), pool("pool2"),
            _Layer("conv3", "conv", 3, 1, 1, 192, 384), _Layer("relu3", "relu"),
            _Layer("conv4", "conv", 3, 1, 1, 384, 256), _Layer("relu4", "relu"),
            _Layer("conv5", "conv", 3, 1, 1, 256, 256), _Layer("relu5", "relu"), pool("pool5"),
        ]  # fmt: skip
    if network not in _BLOCKS:
        raise ValueError(f"network={network!r} is unknown; choose from {', '.join(FILES)}")
    layers: list[_Layer] = []
    before = 3
    for block, convolutions in enumerate(_BLOCKS[network], start=1):
        for i in range(1, convolutions + 1):
            after = min(64 * 2 ** (block - 1), 512)
            layers += [_Layer(f"conv{block}_{i}", "conv", 3, 1, 1, before, after), _Layer(f"relu{block}_{i}", "relu")]
            before = after
        layers.append(_Layer(f"pool{block}", "pool", 2, 2))
    return layers


def _needed(network: str, layers: Sequence[str]) -> list[_Layer]:
    """Return the network's layers up to the deepest layer in ``layers``. Raise ValueError for an unknown layer."""
    known = _layers_of(network)
    names = [layer.name for layer in known]
    for name in layers:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            hint = f"; did you mean {', '.join(near)}" if near else ""
            raise ValueError(f"layer {name!r}: {network} has no such layer{hint}; layers are {', '.join(names)}")
    if not layers:
        raise ValueError(f"layers=[]: give at least one of {network}'s layers {', '.join(names)}")
    return known[: max(map(names.index, layers)) + 1]


def _file(network: str, weights: str | None) -> Path:
    """Return the path of the given file, or of torchvision's file of weights.

    torchvision's file is downloaded if it is not in torch's cache.
    """
    if weights is not None:
        return Path(weights)
    name = FILES[network]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = Path(name).stem.rpartition("-")[2]  # of the file's SHA-256
            torch.hub.download_url_to_file(f"{_SITE}{name}", str(path), hash_prefix=prefix)
        except (OSError, RuntimeError) as error:
            raise FeatureError(
                f"{network}: the ImageNet weights are not in torch's cache and cannot be downloaded ({error}). Download "
                f"{_SITE}{name} on another machine and copy it to {path}"
            ) from None
    return path


def _read(network: str, needed: Sequence[_Layer], weights: str | None) -> dict[str, torch.Tensor]:
    """Read weights and biases of the needed convolutions. Return {``LAYER_weight`` or ``LAYER_bias``: tensor}."""
    path = _file(network, weights)
    try:
        state = read_tensors(path)
    except TorchFileError as error:
        raise FeatureError(f"{network}: {error}. Expected {FILES[network]} (from {_SITE})") from None
    prefix = "features." if any(name.startswith("features.") for name in state) else ""
    found: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(needed):
        if layer.kind != "conv":
            continue
        shapes = {"weight": (layer.outputs, layer.inputs, layer.kernel, layer.kernel), "bias": (layer.outputs,)}
        for part, shape in shapes.items():
            key = f"{prefix}{index}.{part}"
            if key not in state or tuple(state[key].shape) != shape:
                has = f"is {list(state[key].shape)}" if key in state else "is missing"
                raise FeatureError(
                    f"{path}: not the weights of {network}: {key} ({layer.name}) {has}, expected {list(shape)}. "
                    f"Give {FILES[network]} (from {_SITE}), or a safetensors file with the same names of tensors"
                )
            # A copy, because a view would keep the whole file in memory.
            copied = found[f"{layer.name}_{part}"] = state[key].to(torch.float32, copy=True)
            if not bool(torch.isfinite(copied).all()):
                raise FeatureError(
                    f"{path}: {key} ({layer.name}) contains NaN or infinity; download {FILES[network]} again"
                )
    return found


def _shaped(needed: Sequence[_Layer]) -> dict[str, torch.Tensor]:
    """Return tensors with the shapes of the weights and biases, on the default device."""
    found: dict[str, torch.Tensor] = {}
    for layer in needed:
        if layer.kind == "conv":
            found[f"{layer.name}_weight"] = torch.empty(layer.outputs, layer.inputs, layer.kernel, layer.kernel)
            found[f"{layer.name}_bias"] = torch.empty(layer.outputs)
    return found


class FeatureExtractor(FrozenFeatures):
    """Named features of an ImageNet network: [B, 3, H, W] RGB or [B, 1, H, W] gray in [0, 1] -> {layer: [B, c, H', W']}.

    The features are in the order of ``layers``. Gray is repeated to RGB.

    The image is normalized with ImageNet's mean and deviation. Layers after the deepest requested layer are neither
    loaded nor computed.

    Args:
        network: ``vgg19``, ``vgg16`` or ``alexnet``.
        layers: names of layers, or {name: weight} as in the perceptual loss; layers with the weight ``None`` are left
            out. Names for VGG are ``conv5_4`` (before the activation), ``relu5_4`` (after the activation), ``pool5``,
            ...; names for AlexNet are ``conv1``, ``relu1``, ``pool1``, ..., ``relu5``.
        weights: ``.pth`` or ``.safetensors`` file in which tensors have torchvision's names (``features.N.weight``,
            with or without ``features.``). ``None``: torchvision's file, from torch's cache or downloaded.
        precision: ``bf16`` keeps the weights and computes the features in bfloat16, which halves their memory also in a
            run in fp32; ``auto``: weights in float32, and convolutions as autocast says.
    """

    def __init__(
        self,
        *,
        network: Literal["vgg19", "vgg16", "alexnet"],
        layers: Layers,
        weights: str | None = None,
        precision: Literal["auto", "bf16"] = "auto",
    ) -> None:
        super().__init__(network, layers, precision)
        self._needed = _needed(network, self.layers)
        self._add(
            _shaped(self._needed) if self.on_meta() else _read(network, self._needed, weights), mean=_MEAN, std=_STD
        )
        self.channels = {name: self._channels(name) for name in self.layers}
        self.deepest = self._needed[-1].name
        for layer in reversed(self._needed):
            self.minimum = max(1, (self.minimum - 1) * layer.stride + layer.kernel - 2 * layer.padding)
        self.eval()

    def _channels(self, name: str) -> int:
        upto = [layer.name for layer in self._needed].index(name)
        return [layer.outputs for layer in self._needed[: upto + 1] if layer.kind == "conv"][-1]

    def _features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features: dict[str, torch.Tensor] = {}
        for layer in self._needed:
            if layer.kind == "conv":
                weight, bias = self.get_parameter(f"{layer.name}_weight"), self.get_parameter(f"{layer.name}_bias")
                x = F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding)
            elif layer.kind == "relu":  # in place, unless the input is a requested feature
                x = F.relu(x, inplace=not any(x is kept for kept in features.values()))
            else:
                x = F.max_pool2d(x, layer.kernel, layer.stride)
            if layer.name in self.channels:
                features[layer.name] = x
        return {name: features[name] for name in self.layers}
