"""Images for ``compare=true``: bicubic upscaling on the left, the network's result on the right, and a line between them."""

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

LINE = 2  # width of the white line in pixels


def names_file(target: Path) -> bool:
    """Return True if a path has the suffix of an image or a video. Another suffix is a part of a folder's name."""
    return target.suffix.lower() in (*SUFFIXES, *CONTAINERS)


def compare_name(target: Path, what: str, suffix: str) -> Path:
    """Return the path of a comparison, e.g. ``large/walk_compare.mp4`` for the output ``large/walk.mp4``.

    For a folder of frames ``a.b``, return the folder ``a.b_compare``.
    """
    target = target if target.name not in ("", "..") else target.resolve()
    return target.with_name(f"{target.stem if names_file(target) else target.name}_{what}{suffix}")


def beside_bicubic(image: Image, large: Image) -> Image:
    """Join two images side by side: ``image`` [h, w, C] upscaled bicubically, and ``large`` [H, W, C] of the same type.

    The result is [H, 2 * W + width of a line, C].
    """
    line = np.full((large.shape[0], LINE, large.shape[2]), np.iinfo(large.dtype).max, large.dtype)
    return np.concatenate([imresize(image, size=large.shape[:2]), line, large], axis=1)


class Comparison:
    """Comparison of all frames of a clip. Each frame is shown as a pair: bicubic upscaling and the network's result.

    The pairs of the worst and the best frame are also written as images. There is no HR frame, so a frame is scored
    against its input: an upscaled frame should be equal to the input frame after it has been reduced bicubically.

    Args:
        target: path of the upscaled video or folder. ``NAME_worst.png`` and ``NAME_best.png`` are written next to it.
        depth: bits per sample of these two images, 8 or 16.
        show: function that is called with three arguments: the number of a frame, its pair [C, H, 2 * W + width of a
            line] in [0, 1], and (time, duration).
    """

    def __init__(self, target: Path, depth: int, show: Callable[[int, torch.Tensor, tuple[int, ...]], object]) -> None:
        self.target, self.depth, self.show = target, depth, show
        self._kept: dict[str, tuple[float, int, Image]] = {}

    def add(self, number: int, lr: torch.Tensor, sr: torch.Tensor, when: tuple[int, ...]) -> None:
        """Compare one frame: ``lr`` [C, h, w] and ``sr`` [C, H, W] in [0, 1]."""
        bicubic = imresize_torch(lr, size=(sr.shape[1], sr.shape[2])).clamp_(0, 1)
        pair = torch.cat([bicubic, torch.ones(len(sr), sr.shape[1], LINE), sr], dim=2)
        self.show(number, pair, when)
        error = float((imresize_torch(sr, size=(lr.shape[1], lr.shape[2])) - lr).square().mean())
        psnr = -10 * math.log10(error) if error else math.inf
        for name, better in (("worst", lambda a, b: a < b), ("best", lambda a, b: a > b)):
            if name not in self._kept or better(psnr, self._kept[name][0]):
                self._kept[name] = psnr, number, to_pixels(pair, self.depth)

    def finish(self) -> str:
        """Write the images of the worst and the best frame. Return a line for the user with their scores."""
        found = []
        for name, (psnr, number, pixels) in self._kept.items():
            path = compare_name(self.target, name, ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels)
            found.append(f"{name} frame {number} ({psnr:.2f} dB)")
        return f"reduced again and compared with the input: {', '.join(found)}"


def to_pixels(image: torch.Tensor, depth: int) -> Image:
    """Convert [C, H, W] in [0, 1] to [H, W, C] uint8 or uint16, rounded half up."""
    top, kind = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    return torch.floor(image.permute(1, 2, 0).double() * top + 0.5).numpy().astype(kind)
