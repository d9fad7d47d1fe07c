"""Comparison of an exported file with its network: both run on the same images of several sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sr_train.models import contract
from sr_train.models.layers import as_images, as_windows
from sr_train.weights.foreign.base import WeightsError

BOUNDS = {"fp32": 1e-4, "fp16": 2e-2}  #: largest difference that is accepted, by precision; pixels are in [0, 1]

_BASE = (16, 24)  # height and width of the smallest image, for networks that take any size

Run = Callable[[torch.Tensor], torch.Tensor]


class _Affine(nn.Module):
    """Batch normalization with fixed statistics, as one factor and one summand for each channel.

    onnxruntime 1.32 fuses BatchNormalization with float32 statistics into a float16 convolution, and the output is wrong.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        factor = factor if norm.weight is None else factor * norm.weight.double()  # pyright: ignore[reportUnnecessaryComparison]
        bias = 0.0 if norm.bias is None else norm.bias.double()  # pyright: ignore[reportUnnecessaryComparison]
        self.register_buffer("factor", factor.float()[None, :, None, None])
        self.register_buffer("summand", (bias - norm.running_mean.double() * factor).float()[None, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.get_buffer("factor").to(x.dtype) + self.get_buffer("summand").to(x.dtype)


def without_batchnorm(network: nn.Module) -> nn.Module:
    """Return a copy of a network in eval mode whose batch normalizations are factors and summands."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
                setattr(module, name, _Affine(child))
    return network


def traced_shape(network: nn.Module) -> tuple[int, ...]:
    """Return the shape of the input that a network is traced with: two images, or two windows of a video network."""
    whole = max(1, contract.multiple_of(network) // 4)
    _, *rest = contract.input_shape(network, _BASE[0] * whole, _BASE[1] * whole)
    return (2, *rest)


def shapes(network: nn.Module, *, batches: bool, any_size: bool) -> list[tuple[int, ...]]:
    """Return the shapes to compare: the traced one, 1.5 and 3 times its sides, and sides with remainders.

    Args:
        network: the network.
        batches: the file accepts several images at once.
        any_size: the file accepts sides that are not multiples of ``network.multiple_of``.
    """
    _, *axes, height, width = traced_shape(network)
    sides = [(height, width), (height * 3 // 2, width * 3 // 2), (height * 3, width * 3)]
    multiple = contract.multiple_of(network)
    if not any_size:
        sides = [(h + -h % multiple, w + -w % multiple) for h, w in sides]
    else:
        sides.append((height + 1, width - 3))
    return [(1 + (i % 2 if batches else 0), *axes, h, w) for i, (h, w) in enumerate(sides)]


def padded(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Mirror [B, C, h, w] or [B, T, C, h, w] at the right and bottom, up to sides that are multiples of ``multiple``."""
    if multiple == 1:
        return x
    space = (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple)
    if x.dim() == 4:
        return F.pad(x, space, mode="reflect")
    return as_windows(F.pad(as_images(x), space, mode="reflect"), x.shape[0])


class AnySize(nn.Module):
    """Network that accepts every size: [B, C, h, w] or [B, T, C, h, w] in [0, 1] -> [B, C, scale h, scale w] float32.

    Args:
        network: the network, with one scale.
        float16: compute as autocast does in float16. What the network keeps in float32, such as positions, stays there.
    """

    def __init__(self, network: nn.Module, *, float16: bool = False) -> None:
        super().__init__()
        self.network, self.float16 = network, float16
        self.scale, self.multiple = contract.scale(network), contract.multiple_of(network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscale; see the class for shapes."""
        with torch.autocast(x.device.type, dtype=torch.float16, enabled=self.float16, cache_enabled=False):
            y = self.network(padded(x, self.multiple)).float()
        if self.multiple == 1:
            return y
        return y[..., : x.shape[-2] * self.scale, : x.shape[-1] * self.scale]


@torch.no_grad()
def largest_value(network: nn.Module, size: tuple[int, ...]) -> float:
    """Return the largest absolute value that a layer of a network computes for a random image.

    onnxruntime computes float16 files in float32 on most CPUs, where values beyond float16 are not seen.
    """
    found = [0.0]

    def see(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            found.append(float(output.abs().max()))

    hooks = [m.register_forward_hook(see) for m in network.modules() if not list(m.children())]
    AnySize(network)(torch.rand(size, generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return max(found)


@torch.no_grad()
def largest_difference(network: nn.Module, run: Run, sizes: Sequence[tuple[int, ...]]) -> float:
    """Return the largest absolute difference between a network's outputs and those of ``run``.

    The inputs are random images with all details, and their means over 4x4 pixels.
    """
    made, largest = torch.Generator().manual_seed(0), 0.0
    expected = AnySize(network)
    for i, size in enumerate(sizes):
        x = torch.rand(size, generator=made)
        if i % 2:
            small = F.avg_pool2d(x.flatten(0, -4), 4)
            x = F.interpolate(small, size=size[-2:], mode="nearest").reshape(size)
        y, found = expected(x), run(x)
        if y.shape != found.shape:
            raise WeightsError(
                f"the output of {list(size)} has the shape {list(found.shape)}, expected {list(y.shape)}"
            )
        difference = float((y - found).abs().max())
        largest = max(largest, difference if difference == difference else float("inf"))
    return largest
