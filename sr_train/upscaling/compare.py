"""``compare=true``: bicubic enlargement on the left, the network's on the right, with a line between."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sr_train.batch import Image
from sr_train.data.images import SUFFIXES, write_image
from sr_train.resampling import imresize, imresize_torch
from sr_train.upscaling.encoder import CONTAINERS

LINE = 2  # pixels, white


def names_file(target: Path) -> bool:
    """Whether it is an image's or a film's name; what follows a dot is part of a folder's."""
    return target.suffix.lower() in (*SUFFIXES, *CONTAINERS)


def compare_name(target: Path, what: str, suffix: str) -> Path:
    """``large/walk.mp4`` -> ``large/walk_compare.mp4``; of a folder of frames ``a.b`` -> ``a.b_compare``."""
    target = target if target.name not in ("", "..") else target.resolve()
    return target.with_name(f"{target.stem if names_file(target) else target.name}_{what}{suffix}")


def beside_bicubic(image: Image, large: Image, scale: int) -> Image:
    """[h, w, C] and its enlargement [H, W, C] of the same type -> [H, 2 W + a line, C]."""
    line = np.full((large.shape[0], LINE, large.shape[2]), np.iinfo(large.dtype).max, large.dtype)
    return np.concatenate([imresize(image, scale), line, large], axis=1)


class Comparison:
    """Frames beside bicubic ones, and the two that agree least and best with what they were made from.

    There is no HR to compare with: a result that is reduced again, by bicubic, should be the frame that was given.

    Args:
        target: of the film or folder that is compared; ``NAME_worst.png`` and ``NAME_best.png`` are written beside it.
        scale: of the network.
        depth: bits of the stills, 8 or 16.
        show: is given the number of a frame, its pair [3, H, 2 W + a line] in [0, 1], and its time and duration.
    """

    def __init__(
        self, target: Path, scale: int, depth: int, show: Callable[[int, torch.Tensor, tuple[int, ...]], object]
    ) -> None:
        self.target, self.scale, self.depth, self.show = target, scale, depth, show
        self._kept: dict[str, tuple[float, int, Image]] = {}

    def add(self, number: int, lr: torch.Tensor, sr: torch.Tensor, when: tuple[int, ...]) -> None:
        """One frame, [3, h, w] and [3, H, W] in [0, 1]."""
        bicubic = imresize_torch(lr, self.scale).clamp_(0, 1)
        pair = torch.cat([bicubic, torch.ones(3, sr.shape[1], LINE), sr], dim=2)
        self.show(number, pair, when)
        error = float((imresize_torch(sr, 1 / self.scale) - lr).square().mean())
        psnr = -10 * math.log10(error) if error else math.inf
        for name, better in (("worst", lambda a, b: a < b), ("best", lambda a, b: a > b)):
            if name not in self._kept or better(psnr, self._kept[name][0]):
                self._kept[name] = psnr, number, to_pixels(pair, self.depth)

    def finish(self) -> str:
        """Write the stills; says which they are."""
        told = []
        for name, (psnr, number, pixels) in self._kept.items():
            path = compare_name(self.target, name, ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels)
            told.append(f"{name} frame {number} ({psnr:.2f} dB)")
        return f"reduced again, against the input: {', '.join(told)}"


def to_pixels(image: torch.Tensor, depth: int) -> Image:
    """[3, H, W] in [0, 1] -> [H, W, 3] uint8 or uint16, rounded half up."""
    top, kind = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    return torch.floor(image.permute(1, 2, 0).double() * top + 0.5).numpy().astype(kind)
