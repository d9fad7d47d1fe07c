"""A video network on a clip of any length: frames come in one by one, as few as possible are held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from sr_train.data.windows import check_padding, padded_window
from sr_train.inference import Tiling, super_resolve


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
    """Every frame of a clip through a network: [3, h, w] uint8, or float in [0, 1] -> [3, scale h, scale w] in [0, 1].

    Args:
        model: takes windows of ``model.frames``, or images, which are taken one by one.
        frames: of one size, pulled when they are needed; at most a window's number of them is held.
        padding: how frames beyond the ends are made up; see ``data/windows.py``.
        tiling: see ``super_resolve``, as for ``ensemble`` and ``precision``.
        ensemble: of each window.
        precision: "32" or "bf16".
        done: told the LR pixels of every frame that is finished.

    Raises:
        ValueError: the clip has fewer frames than the window.
    """
    check_padding(padding)
    window: int = getattr(model, "frames", None) or 1

    def restored(chosen: list[torch.Tensor]) -> torch.Tensor:
        lr = chosen[0] if getattr(model, "frames", None) is None else torch.stack(chosen)
        out = super_resolve(model, lr, tiling=tiling, ensemble=ensemble, precision=precision)
        done(lr.shape[-1] * lr.shape[-2])
        return out

    held: dict[int, torch.Tensor] = {}
    count = 0
    half = window // 2
    for frame in frames:
        held[count] = frame
        count += 1
        held.pop(count - 1 - window, None)
        if count == window:  # the first windows may reach this far
            for centre in range(half + 1):
                yield restored([held[i] for i in padded_window(centre, frames=window, length=count, padding=padding)])
        elif count > window:
            yield restored([held[i] for i in range(count - window, count)])
    if count < window:
        raise ValueError(f"a clip of {count} frames: fewer than the {window} that the network takes at once")
    for centre in range(count - half, count):
        yield restored([held[i] for i in padded_window(centre, frames=window, length=count, padding=padding)])
