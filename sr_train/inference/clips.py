"""Inference on clips of any length.

Windows are made while frames are read, and features of a frame are computed once.
"""

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
    """Error for a clip that has fewer frames than one window of the network."""


def windows(
    frames: Iterable[torch.Tensor], count: int, *, padding: str = "reflection_circle"
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield the window around every frame of a clip: (numbers of the window's frames, frames [T, C, h, w]).

    A window is yielded as soon as its last frame has been read. At most ``count`` frames are kept in memory.
    ``padding`` is the rule that replaces frames before the start and after the end of the clip, see
    :mod:`sr_train.data.video.windows`.

    Raises:
        FewFramesError: the clip has fewer frames than ``count``.
        ValueError: a frame differs in size from the first one.
    """
    check_padding(padding)
    held: dict[int, torch.Tensor] = {}
    read = center = 0

    def window() -> tuple[list[int], torch.Tensor]:
        numbers = padded_window(center, frames=count, length=read, padding=padding)
        return numbers, torch.stack([held[n] for n in numbers])

    for frame in frames:
        if held and frame.shape != held[read - 1].shape:
            (h, w), (a, b) = frame.shape[-2:], held[read - 1].shape[-2:]
            raise ValueError(f"frame {read} is {w}x{h}, but the frames before it are {b}x{a}")
        held[read] = frame
        read += 1
        held.pop(read - 1 - count, None)
        while read >= count and center + count // 2 < read:
            yield window()
            center += 1
    if read < count:
        raise FewFramesError(f"the clip has {read} frames, but a window of the network needs {count} frames")
    while center < read:
        yield window()
        center += 1


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
    choice: str = "exact",
) -> Iterator[torch.Tensor]:
    """Upscale the frames of a clip, [C, h, w] uint8 or float in [0, 1].

    Yield each as [C, scale * h, scale * w] in [0, 1]. Frames are read only when they are needed, so a clip may have any
    length. A network for images gets one frame at a time. A video network gets the windows of :func:`windows`, and
    :class:`FrameFeatures` reuses the features of a frame.

    Args:
        model: network in eval mode, with attributes ``scale`` and ``multiple_of``, and ``frames`` for a video network.
        frames: frames in order.
        padding: rule that replaces frames before the start and after the end of the clip.
        tiling, ensemble, precision, done, choice: same as for :func:`sr_train.inference.images.super_resolve`.

    Raises:
        ValueError: the clip is too short, or its frames have different sizes; see :func:`windows`.
    """
    options: dict[str, Any] = {"tiling": tiling, "ensemble": ensemble, "precision": precision, "done": done}
    options["choice"] = choice
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
