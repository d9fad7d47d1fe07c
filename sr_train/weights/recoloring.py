"""Initialization of a network for gray images from one for RGB images, and vice versa.

From RGB to gray, weights of the first convolutions are summed over the image's channels, so the features are those of the
repeated gray image. Weights of the last convolutions are averaged with those of luma (0.299, 0.587, 0.114), by which color
images become gray. The gray network computes the luma of the RGB network's output for the repeated image.

From gray to RGB, weights of the first convolutions are multiplied by those of luma, weights of the last ones are repeated. The
features are those of the image's luma, and the output is gray, plus the upscaled colors in networks that add the input.

A network that subtracts a mean from the image (EDSR, MDSR) computes the same except within the receptive field of an edge, from
RGB to gray: there zeros stand for the mean color, which is not gray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from sr_train.models import contract
from sr_train.models.layers import GRAY
from sr_train.weights.foreign.base import WeightsError


def with_channels(
    network: nn.Module, source: Mapping[str, torch.Tensor], skip: Sequence[str], *, where: str
) -> dict[str, torch.Tensor]:
    """Return the source's tensors converted to the network's number of channels, if the source's is another one.

    ``skip`` has globs on names of tensors that are not copied. Tensors may be on meta. A network that does not state its
    convolutions gets the source unchanged. Raises WeightsError for numbers other than 1 and 3.
    """
    found = dict(source)
    convs = contract.image_convs(network)
    if convs is None:
        return found
    own, here = network.state_dict(), contract.channels(network)
    used = [
        (name, axis)
        for axis, names in ((1, convs[0]), (0, convs[1]))
        for name in names
        if {f"{name}.weight", f"{name}.bias"} <= found.keys()
        and not any(fnmatchcase(f"{name}.weight", g) for g in skip)
    ]
    counts = {_channels_of(found[f"{name}.weight"], own[f"{name}.weight"], axis, here) for name, axis in used}
    there = counts.pop() if len(counts) == 1 else None
    if there is None or there == here:
        return found  # other differences are reported when all tensors are compared
    if {here, there} != {1, 3}:
        raise WeightsError(
            f"{where}: the source takes images of {there} channels, this network {here}; only 3 and 1 are converted into each "
            f"other; re-initialize the convolutions of the image: init.skip=[{','.join(f'{name}.*' for name, _ in used)}]"
        )
    for name, axis in used:
        convert, weight, bias = _first if axis == 1 else _last, f"{name}.weight", f"{name}.bias"
        found[weight], found[bias] = convert(network, found[weight], found[bias], there, here)
    return found


def _channels_of(there: torch.Tensor, here: torch.Tensor, axis: int, channels: int) -> int | None:
    """Return the source's number of channels, from one weight of both; None if it does not follow from the shapes."""
    each, rest = divmod(here.shape[axis], channels)  # pixels folded into each channel
    if there.dim() != here.dim() or rest or there.shape[axis] % each:
        return None
    return there.shape[axis] // each


def _matrix(given: int, wanted: int, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix [wanted, given] that converts the channels of a pixel: luma of RGB, or gray repeated."""
    row = [list(GRAY)] if (given, wanted) == (3, 1) else [[1.0]] * 3
    return torch.tensor(row, dtype=like.dtype, device=like.device)


def _shift(network: nn.Module, channels: int, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(contract.image_shift(network, channels)), dtype=like.dtype, device=like.device)


def _first(
    network: nn.Module, weight: torch.Tensor, bias: torch.Tensor, there: int, here: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a convolution that takes images.

    For the network's image x, the source's is M x. It computes W (M x - s) + b with its shift s. The network computes
    W M (x - t) + b + W (M t - s) with its shift t.
    """
    folded = weight.reshape(weight.shape[0], there, -1, *weight.shape[2:])  # [outputs, channels, folded pixels, k, k]
    matrix = _matrix(here, there, weight)
    apart = matrix @ _shift(network, here, weight) - _shift(network, there, weight)
    mixed = torch.einsum("ocpij,cd->odpij", folded, matrix)
    return mixed.reshape(weight.shape[0], -1, *weight.shape[2:]), bias + torch.einsum("ocpij,c->o", folded, apart)


def _last(
    network: nn.Module, weight: torch.Tensor, bias: torch.Tensor, there: int, here: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a convolution that gives images: M (W x + b + s) - t, with the source's shift s and the network's shift t."""
    matrix = _matrix(there, here, weight)
    mixed = torch.einsum("dc,cpkij->dpkij", matrix, weight.reshape(there, -1, *weight.shape[1:]))
    offset = matrix @ (bias.reshape(there, -1) + _shift(network, there, bias)[:, None])
    return mixed.reshape(-1, *weight.shape[1:]), (offset - _shift(network, here, bias)[:, None]).flatten()
