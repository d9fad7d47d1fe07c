"""``sr_train.load``: a network from a file, for use in Python on images of NumPy, Pillow and torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from sr_train.console import UsageError
from sr_train.data.images import to_channels, to_real, to_uint8
from sr_train.data.video.windows import check_padding
from sr_train.inference.image_kinds import Kind, kind_of
from sr_train.inference.network import Network, open_network
from sr_train.inference.output_size import OutputSize, output_size
from sr_train.inference.pixels import upscale_image
from sr_train.metrics.protocol import get_protocols, score
from sr_train.resampling import Arithmetic, imresize_torch

ImageT = TypeVar("ImageT")  #: an image of NumPy, Pillow or torch; results are of the same type


class Upscaler:
    """Network that upscales images of NumPy, Pillow and torch, returned by :func:`load`.

    An image is one of these, and the result is of the same kind:

    - a NumPy array [H, W, C] or [H, W], C = 1, 3 (RGB) or 4 (RGBA), uint8, uint16 or floating point in [0, 1];
    - an image of Pillow. Palettes become RGB, the EXIF orientation is applied, and a color profile is kept;
    - a tensor [C, H, W] or [B, C, H, W], uint8, or floating point in [0, 1], on any device.

    Gray images and alpha are kept. Files give the same pixels with ``sr-upscale``.

    Attributes:
        network: the opened network, with its tiles and precision.
    """

    def __init__(self, network: Network) -> None:
        self.network = network

    @property
    def scale(self) -> int:
        """Pixels of the result per pixel of the image along a side."""
        return self.network.scale

    @property
    def frames(self) -> int | None:
        """Frames of the window that a video network takes; None for a network for images."""
        return self.network.frames

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.network.description}>"

    def __call__(
        self,
        image: ImageT,
        *,
        size: str | tuple[int, int] | None = None,
        longest: int | None = None,
        outscale: float | None = None,
    ) -> ImageT:
        """Return the upscaled image, of the same kind and type as ``image`` (see the class).

        Args:
            image: the image.
            size: (width, height) of the result, or a string such as ``"1920x1080"``.
            longest: longer side of the result in pixels.
            outscale: pixels of the result per pixel of the image; may be fractional.

        The last three resample the network's output by MATLAB's bicubic ``imresize``; at most one may be given.

        Raises:
            TypeError: ``image`` is none of the kinds above.
            ValueError: its shape, type or values are not supported, or the network takes clips.
        """
        if self.frames is not None:
            raise ValueError(
                f"this network takes windows of {self.frames} frames, not single images: give a list of frames to clip()"
            )
        wanted = output_size(size, longest, outscale)
        kind = kind_of(image)
        return kind.restore([self._one(pixels, wanted) for pixels in kind.images])

    def _one(self, pixels: np.ndarray[Any, Any], wanted: OutputSize) -> np.ndarray[Any, Any]:
        size = wanted.of(pixels.shape[0], pixels.shape[1], self.scale)
        return upscale_image(pixels, self.network, size=size)

    def clip(
        self,
        frames: Iterable[ImageT],
        *,
        padding: str = "reflection_circle",
        size: str | tuple[int, int] | None = None,
        longest: int | None = None,
        outscale: float | None = None,
    ) -> Iterator[ImageT]:
        """Yield the upscaled frames of a clip one by one; memory does not grow with its length.

        Args:
            frames: images of one size, as for a single image. Alpha is dropped, and gray becomes RGB for a network for RGB.
            padding: how frames beyond the ends are replaced: ``reflection_circle``, ``replicate``, ``reflection`` or
                ``circle``; see ``docs/data.md``.
            size: as for a single image; so are ``longest`` and ``outscale``.
            longest: longer side of the results.
            outscale: pixels of the results per pixel of the frames.

        Raises:
            ValueError: sizes differ, or the clip is shorter than the network's window.
        """
        check_padding(padding)
        wanted, waiting = output_size(size, longest, outscale), list[Kind[ImageT]]()
        iterator = (kind_of(frame, colors=True) for frame in frames)
        first = next(iterator, None)
        if first is None:
            return
        height, width = first.images[0].shape[:2]

        def feed() -> Iterator[torch.Tensor]:
            for number, kind in enumerate(_after(first, iterator)):
                if len(kind.images) != 1 or kind.images[0].shape[:2] != (height, width):
                    shapes = " and ".join(str(list(image.shape)) for image in kind.images)
                    raise ValueError(
                        f"frame {number} has the shape {shapes}; the first one has {height}x{width} pixels"
                    )
                waiting.append(kind)
                yield torch.from_numpy(to_real(to_channels(kind.images[0], self.network.channels))).permute(2, 0, 1)

        target = wanted.of(height, width, self.scale)
        for sr in self.network.clip(feed(), height=height, width=width, padding=padding):
            large = sr if target is None else imresize_torch(sr, size=target).clamp_(0, 1)
            kind = waiting.pop(0)
            yield kind.restore([kind.stored(large.float().permute(1, 2, 0).cpu().numpy())])

    def score(self, sr: object, hr: object, protocol: str = "y") -> dict[str, float]:
        """Return ``{"psnr": dB, "ssim": ...}`` of a result against its HR image, as ``sr-eval`` computes it.

        Args:
            sr: the result, or any image of the kinds that the class names.
            hr: the HR image. Up to ``scale`` - 1 pixels at its right and bottom are cropped, as the sets are.
            protocol: name of a protocol, see ``docs/scores.md``.

        Raises:
            ValueError: the protocol is unknown, or the sizes differ.
        """
        (known,) = get_protocols([protocol])
        result, truth = (_single(image, name) for image, name in ((sr, "sr"), (hr, "hr")))
        extra = [t - r for t, r in zip(truth.shape, result.shape, strict=True)][:2]
        if all(0 <= n < self.scale for n in extra):
            truth = truth[: result.shape[0], : result.shape[1]]
        if result.shape[:2] != truth.shape[:2]:
            shown = [f"{image.shape[1]}x{image.shape[0]}" for image in (result, truth)]
            raise ValueError(f"sr has {shown[0]} pixels, hr {shown[1]}; for x{self.scale} they must agree")
        channels = self.network.channels
        pair = [
            torch.from_numpy(np.array(to_channels(to_uint8_of(i), channels))).permute(2, 0, 1) for i in (result, truth)
        ]
        return score(pair[0], pair[1], known, self.scale, from_gray=truth.shape[2] == 1)


def to_uint8_of(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Quantize [H, W, C] of any type that :func:`~sr_train.inference.image_kinds.kind_of` returns to uint8."""
    if image.dtype == np.float32:
        return np.floor(image.astype(np.float64).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return to_uint8(image)


def _single(image: object, name: str) -> np.ndarray[Any, Any]:
    images = kind_of(image).images
    if len(images) != 1:
        raise ValueError(f"{name} is a batch of {len(images)} images; give one image")
    return images[0]


def _after(first: ImageT, rest: Iterable[ImageT]) -> Iterator[ImageT]:
    yield first
    yield from rest


def load(
    source: str | os.PathLike[str],
    *,
    scale: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "32",
    tile: int | str | None = "auto",
    overlap: int | str = "auto",
    ensemble: bool = False,
    arithmetic: Arithmetic = "float",
    allow: Sequence[str] = (),
) -> Upscaler:
    """Open a network for use in Python: ``net = sr_train.load("weights.safetensors"); sr = net(image)``.

    Args:
        source: weights file of sr-train or of another program, a stage's folder ``runs/NAME/STAGE``, or ``"bicubic"``.
        scale: one scale of an MDSR; required for ``"bicubic"``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``32``, ``bf16`` or ``auto``.
        tile: side of a tile in LR pixels; ``auto``: what a quarter of the free memory holds; None: no tiles.
        overlap: LR pixels around a tile that are also given to the network; ``auto``: its receptive field.
        ensemble: average over eight flipped and rotated copies.
        arithmetic: arithmetic of ``"bicubic"``.
        allow: packages other than ``sr_train.models`` whose networks may be built.

    Raises:
        ValueError: the file is no network, or an option is wrong (:class:`sr_train.console.UsageError`).
    """
    if isinstance(allow, str):
        raise UsageError(f"allow={allow!r}: expected a list of packages, e.g. allow=[{allow!r}]")
    config = {
        "scale": scale, "device": str(device), "precision": str(precision), "tile": tile, "overlap": overlap,
        "ensemble": ensemble, "arithmetic": arithmetic, "allow": list(allow),
    }  # fmt: skip
    return Upscaler(open_network(config, os.fspath(source)))
