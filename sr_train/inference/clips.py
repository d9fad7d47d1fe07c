"""Running a network on clips of any length: windows as frames come, features of a frame computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from sr_train.data.video.windows import check_padding, padded_window
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.images import super_resolve
from sr_train.inference.tiling import Tiling
from sr_train.models import contract


class FewFramesError(ValueError):
    """A clip has fewer frames than a window takes."""


def windows(
    frames: Iterable[torch.Tensor], count: int, *, padding: str = "reflection_circle"
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The window around every frame of a clip, as soon as its frames are there: (numbers of its frames, [T, C, h, w]).

    At most ``count`` frames are held. ``padding`` stands for frames beyond the ends, see :mod:`sr_train.data.video.windows`.

    Raises:
        FewFramesError: for fewer frames than ``count``.
        ValueError: for one of another size than the first.
    """
    check_padding(padding)
    held: dict[int, torch.Tensor] = {}
    read = centre = 0

    def window() -> tuple[list[int], torch.Tensor]:
        numbers = padded_window(centre, frames=count, length=read, padding=padding)
        return numbers, torch.stack([held[n] for n in numbers])

    for frame in frames:
        if held and frame.shape != held[read - 1].shape:
            (h, w), (a, b) = frame.shape[-2:], held[read - 1].shape[-2:]
            raise ValueError(f"frame {read} is {w}x{h}, those before it {b}x{a}")
        held[read] = frame
        read += 1
        held.pop(read - 1 - count, None)
        while read >= count and centre + count // 2 < read:
            yield window()
            centre += 1
    if read < count:
        raise FewFramesError(f"{read} frames are fewer than the {count} that a window takes")
    while centre < read:
        yield window()
        centre += 1


@torch.inference_mode()
def super_resolve_clip(
    model: nn.Module,
    frames: Iterable[torch.Tensor],
    *,
    padding: str = "reflection_circle",
    tiling: Tiling | None = None,
    ensemble: bool = False,
    precision: str = "32",
    done: Callable[[int], object] = lambda pixels: None,
) -> Iterator[torch.Tensor]:
    """Every frame of a clip through a network: [C, h, w] uint8, or float in [0, 1] -> [C, scale h, scale w] in [0, 1] each.

    Frames are taken as they are needed, so that a clip may be of any length. A network that takes images is given them one
    by one; of one that takes windows see :func:`windows`, and :class:`FrameFeatures` for what is computed once.

    Args:
        model: states ``scale`` and ``multiple_of``, and ``frames`` if it takes windows; in eval mode.
        frames: in order.
        padding: what stands for frames beyond the ends.
        tiling, ensemble, precision, done: as for :func:`sr_train.inference.images.super_resolve_bands`.

    Raises:
        ValueError: as :func:`windows` does.
    """
    options: dict[str, Any] = {"tiling": tiling, "ensemble": ensemble, "precision": precision, "done": done}
    count = contract.frames(model)
    if count is None:
        for frame in frames:
            yield super_resolve(model, frame, **options)
        return
    features = FrameFeatures(model) if FrameFeatures.serve(model) else None
    for numbers, window in windows(frames, count, padding=padding):
        if features is not None:
            features.begin(numbers)
        yield super_resolve(model, window, features=features, **options)
