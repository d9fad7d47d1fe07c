"""Modulated deformable convolution (DCNv2, Zhu et al. 2019) as EDVR uses it: 3x3, stride 1, offsets from other features.

There are two ways to compute the convolution. They have the same outputs and gradients up to float rounding:

- ``torchvision``: the compiled operator of torchvision. It multiplies in float32, the type of the offsets, and needs
  the least memory.
- ``sampling``: ``grid_sample`` of all nine taps of a group at once, then one matrix product in autocast's type. On a
  CPU, ``sampling`` is several times as fast as ``torchvision``. It can be exported like ``grid_sample``.

``auto`` is ``sampling`` on a CPU, so that a resumed run continues with the same bits. On CUDA the first use measures
both ways.

The gradient of an offset jumps where a tap hits the center of a pixel. Before training all offsets are 0, so all taps
do this. Both ways use the gradient of the same side there. For this, feature maps are padded to sides of 2^k + 1, which
makes torch's coordinates in [-1, 1] exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torchvision.ops import deform_conv2d  # pyright: ignore[reportMissingTypeStubs]

from sr_train.models.fastest import fastest

Way = Literal["auto", "torchvision", "sampling"]

_TAPS = 9

_PIECE = 1024  # positions that a CPU samples at once; their nine taps with 64 channels, 2.4 MB, stay in its cache


def _side(size: int) -> int:
    """Return the smallest power of two that is at least ``size - 1``."""
    return 1 << max(int(size) - 2, 0).bit_length()  # a size that torch.compile does not know is no int


def _padded(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Pad with zeros at the bottom and at the right: [B, C, h, w] -> [B * groups, C / groups, 2^i + 1, 2^j + 1]."""
    batch, channels, height, width = x.shape
    tall, wide = _side(height) + 1, _side(width) + 1
    x = F.pad(x.contiguous(), (0, wide - width, 0, tall - height))
    return x.reshape(batch * groups, channels // groups, tall, wide)


def _grid(offset: torch.Tensor, groups: int, rows: slice) -> torch.Tensor:
    """Return the sampling positions of all nine taps for the image rows in the slice ``rows``.

    Offsets (y, x) in pixels, [B, groups * 9 * 2, h, w] -> positions (x, y) in [-1, 1], [B * groups, 9 * rows, w, 2].
    """
    batch, _, height, width = offset.shape
    tall, wide = 2 / _side(height), 2 / _side(width)
    own = offset.reshape(batch * groups, _TAPS, 2, height, width)[:, :, :, rows]
    y = torch.arange(height, dtype=offset.dtype, device=offset.device)[rows, None] - 1
    x = torch.arange(width, dtype=offset.dtype, device=offset.device)[None, :] - 1
    tap = torch.arange(_TAPS, device=offset.device)[:, None, None]
    across = torch.add((x + tap % 3) * wide - 1, own[:, :, 1], alpha=wide)
    down = torch.add((y + tap // 3) * tall - 1, own[:, :, 0], alpha=tall)
    return torch.stack((across, down), -1).flatten(1, 2)


def _sample(padded: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample maps [N, c, H, W] at positions [N, 9 * rows, w, 2] -> [N, c, 9, rows * w].

    Pixels outside the map are 0.
    """
    found = F.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return found.reshape(*found.shape[:2], _TAPS, -1)


def _by_sampling(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Compute the deformable convolution by sampling, with operations that autograd can differentiate.

    The matrix product is computed in the dtype of ``weight``.
    """
    batch, channels, height, width = x.shape
    groups = mask.shape[1] // _TAPS
    found = _sample(_padded(x, groups), _grid(offset, groups, slice(0, height)))
    columns = found * mask.reshape(batch * groups, 1, _TAPS, height * width)
    columns = columns.reshape(batch, channels * _TAPS, height * width).to(weight.dtype)
    out = torch.matmul(weight.flatten(1), columns) + bias[:, None]
    return out.reshape(batch, len(weight), height, width)


def _for_export(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Compute the convolution with operations whose sizes may all change after tracing, for ONNX and TorchScript.

    Maps are not padded: the power of two would become a constant of the traced size. Positions are rounded here, by up to
    1e-7 of a side; only gradients need them exact.
    """
    channels, (height, width) = int(x.shape[1]), x.shape[2:]
    groups = int(mask.shape[1]) // _TAPS
    own = offset.reshape(-1, _TAPS, 2, height, width)
    tap = torch.arange(_TAPS, device=offset.device)[:, None, None]
    y = torch.arange(height, device=offset.device)[:, None] + torch.div(tap, 3, rounding_mode="floor") - 1
    across = torch.arange(width, device=offset.device) + tap % 3 - 1
    grid = torch.stack(((across + own[:, :, 1]) * 2 + 1, (y + own[:, :, 0]) * 2 + 1), -1)
    grid = grid / torch.stack((torch.as_tensor(width), torch.as_tensor(height))).to(grid) - 1
    images = x.reshape(-1, channels // groups, height, width)
    places = grid.reshape(-1, _TAPS * height, width, 2)
    found = F.grid_sample(images, places, padding_mode="zeros", align_corners=False)
    columns = (found * mask.reshape(-1, 1, _TAPS * height, width)).to(weight.dtype)
    return F.conv2d(columns.reshape(-1, channels * _TAPS, height, width), weight.flatten(1)[:, :, None, None], bias)


def _pieces(mask: torch.Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Divide a batch into parts that are computed one after the other.

    Yield (slice of the images, slices of their rows). One thread computes one group of channels of one image. So in
    each part, the number of images times the number of groups is at least the number of threads. Parts of small maps
    contain more images, because each part costs 40 calls of torch functions, for every size.
    """
    batch, _, height, width = mask.shape
    together = max(math.ceil(torch.get_num_threads() * _TAPS / mask.shape[1]), 2 * _PIECE // (height * width))
    tall = max(1, _PIECE // width)
    rows = [slice(top, min(top + tall, height)) for top in range(0, height, tall)]
    for first in range(0, batch, together):
        yield slice(first, min(first + together, batch)), rows


class _Pieces(torch.autograd.Function):
    """Same computation as :func:`_by_sampling` on a CPU, in pieces that fit into the CPU's cache -> [B, h, w, C'].

    The backward pass repeats the sampling, so that the samples need not be kept in memory.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        (batch, channels, height, width), groups = x.shape, mask.shape[1] // _TAPS
        kernel = weight.flatten(1).t()
        out = weight.new_empty((batch, height, width, len(weight)))
        for some, blocks in _pieces(mask):
            padded = _padded(x[some], groups)
            for rows in blocks:
                columns = _sample(padded, _grid(offset[some], groups, rows))
                columns.mul_(mask[some, :, rows].reshape(len(columns), 1, _TAPS, -1))
                columns = columns.view(-1, channels * _TAPS, columns.shape[-1]).to(weight.dtype)
                for image, taps in zip(out[some], columns, strict=True):
                    torch.addmm(bias, taps.t(), kernel, out=image[rows].flatten(0, 1))
        return out  # channels last; a permuted view of a custom Function's result could not be changed in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: torch.Tensor) -> tuple[torch.Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, offset, mask, weight = ctx.saved_tensors
        (_, channels, height, width), groups = x.shape, mask.shape[1] // _TAPS
        of_x, of_offset, of_mask = (
            torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, offset, mask)
        )
        of_kernel = torch.zeros((channels * _TAPS, len(weight)), dtype=x.dtype)
        for some, blocks in _pieces(mask):
            padded = _padded(x[some], groups)
            of_padded = torch.zeros_like(padded)
            to_offset = of_offset[some].view(len(padded), _TAPS, 2, height, width)
            to_mask = of_mask[some].view(len(padded), _TAPS, height, width)
            for rows in blocks:
                after = of_out[some, rows].flatten(1, 2).transpose(1, 2).to(weight.dtype)
                of_taps = (
                    torch.matmul(weight.flatten(1).t(), after).to(x.dtype).view(len(padded), -1, _TAPS, after.shape[2])
                )
                mine = mask[some, :, rows].reshape(len(padded), _TAPS, -1)
                grid = _grid(offset[some], groups, rows)
                taps = _sample(padded, grid)
                to_mask[:, :, rows] = _sum_of_products(taps, of_taps).view(*mine.shape[:2], -1, width)
                columns = taps.mul_(mine[:, None]).view(-1, channels * _TAPS, taps.shape[-1]).to(weight.dtype)
                for one, other in zip(columns, after, strict=True):
                    of_kernel.add_(torch.mm(one, other.t()))
                share, of_grid = torch.ops.aten.grid_sampler_2d_backward(
                    of_taps.mul_(mine[:, None]).view(*taps.shape[:2], -1, width), padded, grid, 0, 0, True, [True, True]
                )
                of_padded.add_(share)
                of_grid = of_grid.view(len(padded), _TAPS, -1, width, 2)
                torch.mul(of_grid[..., 1], 2 / _side(height), out=to_offset[:, :, 0, rows])
                torch.mul(of_grid[..., 0], 2 / _side(width), out=to_offset[:, :, 1, rows])
            of_x[some] = of_padded[..., :height, :width].reshape(of_x[some].shape)
        of_weight = of_kernel.t().reshape(weight.shape).to(weight.dtype)
        return of_x, of_offset, of_mask, of_weight, of_out.sum((0, 1, 2), dtype=x.dtype).to(weight.dtype)


def _sum_of_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the sum over channels of a * b: a and b, [N, c, 9, n] each -> [N, 9, n].

    The full product is never in memory.
    """
    total = a[:, 0] * b[:, 0]
    for c in range(1, a.shape[1]):
        total.addcmul_(a[:, c], b[:, c])
    return total


def deformable_conv(
    x: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    way: Way = "auto",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Apply a modulated deformable 3x3 convolution: [B, C, h, w] -> [B, C', h, w]. Pixels outside the image are 0.

    Args:
        x: input of any floating dtype. The input is converted to the dtype of ``offset`` before sampling.
        offset: [B, groups * 9 * 2, h, w] in pixels: (y, x) for each tap, row by row, for each group of channels.
        mask: [B, groups * 9, h, w], the factor of each tap.
        weight: [C', C, 3, 3].
        bias: [C'].
        way: way of the computation, see the module: ``torchvision``, ``sampling``, or ``auto`` for the faster way on
            CUDA and ``sampling`` on other devices.
        dtype: dtype of the result and, for ``sampling``, of the matrix product; ``None`` for the dtype of ``offset``.
    """
    dtype = offset.dtype if dtype is None else dtype
    if way == "auto" and x.is_cuda:
        ways = {w: partial(deformable_conv, way=w, dtype=dtype) for w in ("torchvision", "sampling")}
        way = cast("Way", fastest("deformable_conv", ways, (x, offset, mask, weight, bias), dtype))
    if way == "torchvision":
        weight, bias = weight.to(offset.dtype), bias.to(offset.dtype)
        return deform_conv2d(x.to(offset.dtype), offset, weight, bias, padding=(1, 1), mask=mask).to(dtype)
    tensors = x.to(offset.dtype), offset, mask, weight.to(dtype), bias.to(dtype)
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return _for_export(*tensors)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return _by_sampling(*tensors)
    return _Pieces.apply(*tensors).permute(0, 3, 1, 2)


class DeformableConv(nn.Module):
    """Deformable 3x3 convolution whose offsets and masks come from other features.

    State-dict keys are BasicSR's DCNv2Pack. (x, features), [B, channels, h, w] each -> [B, channels, h, w]. Before
    training, offsets are 0 and masks 0.5, so outputs are half as large as in a plain convolution. Under autocast, the
    offsets, the convolution that computes them, and the sampling stay in float32, because in bf16 the error of a
    coordinate is up to 0.06 px at 64 px.

    Args:
        channels: input and output channels.
        groups: deformable groups; ``channels / groups`` channels share their offsets.
        way: see :func:`deformable_conv`.
    """

    checkpoint_unit = True

    def __init__(self, channels: int, *, groups: int = 8, way: Way = "auto") -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"channels={channels} must be a multiple of the {groups} deformable groups")
        if way not in ("auto", "torchvision", "sampling"):
            raise ValueError(f"deform={way!r}: expected auto, torchvision or sampling")
        self.groups = groups
        self.way: Way = way
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv_offset = nn.Conv2d(channels, groups * 3 * _TAPS, 3, padding=1)
        bound = 1 / math.sqrt(channels * _TAPS)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)
        self.mean_offset: torch.Tensor | None = None  #: mean |offset| in pixels of the newest training step
        self.side = 0  #: shorter side of the maps of this step

    def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return the convolution of ``x`` with offsets and masks from ``features``."""
        kind = x.device.type
        casts = torch.amp.is_autocast_available(kind)  # the meta device has no autocast
        dtype = torch.get_autocast_dtype(kind) if casts and torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False) if casts else nullcontext():
            found = self.conv_offset(features.to(self.weight.dtype))
            offset, mask = found.split((self.groups * 2 * _TAPS, self.groups * _TAPS), dim=1)
            if self.training:
                self.mean_offset, self.side = offset.detach().abs().mean(), min(x.shape[-2:])
            return deformable_conv(x, offset, mask.sigmoid(), self.weight, self.bias, way=self.way, dtype=dtype)
