"""Named protocols. A protocol defines color channel, border and rounding for PSNR and SSIM.

Scores that were computed under different protocols cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sr_train.metrics.color import gray, luma
from sr_train.metrics.functional import WINDOW, psnr, psnr_of, quantize, ssim, ssim_map

_BAND = 4_000_000  # pixels of an image that are scored at once


@dataclass(frozen=True)
class Protocol:
    """Definition of the values that PSNR and SSIM compare.

    Args:
        name: name in ``protocols=[...]``.
        color: ``rgb``; or ``y`` for luma as real numbers; or ``y_matlab`` for luma rounded to 8 bits.
        border: number of pixels to ignore at each edge.
        cut_scale: true to ignore ``scale`` more pixels at each edge.
        used_by: authors and programs whose tables use the protocol.
    """

    name: str
    color: Literal["rgb", "y", "y_matlab"]
    border: int
    cut_scale: bool
    used_by: str
    center: bool = False  #: only the center frame of a clip is scored

    @property
    def definition(self) -> str:
        """Description of the protocol in one line."""
        color = {
            "rgb": "RGB",
            "y": "Y of BT.601, not rounded, also for gray images unless channels=1",
            "y_matlab": "Y of BT.601 rounded to 8 bits, gray images by their own values",
        }[self.color]
        edge = "scale" if self.cut_scale else ""
        edge = f"{edge}+{self.border}" if edge and self.border else edge or str(self.border)
        over = "center frame of each clip, mean over clips" if self.center else "mean over images"
        return f"{color}, 8-bit images, border {edge} px ignored, {over}; SSIM 11x11 Gaussian ({self.used_by})"

    def values(self, image: torch.Tensor, scale: int, *, from_gray: bool = False) -> torch.Tensor:
        """Return the values to compare: [C, H, W] uint8, or float in [0, 1] -> [1|C, H', W'] float64 in [0, 255].

        An image of one channel is scored by its own values under every protocol, as in MATLAB's scripts and in BasicSR.

        H' and W' are the size without the ignored border. ``from_gray`` is true if the HR file has one channel.
        MATLAB's scripts convert only files of three channels to YCbCr, so they compare gray images in [0, 255]. Luma
        (Y) of a gray image would lie in [16, 235], which would add 20 log10(255 / 219) = 1.32 dB to PSNR.
        """
        pixels = quantize(image)
        if self.color != "rgb" and len(pixels) not in (1, 3):
            raise ValueError(f"protocol {self.name} needs gray or RGB images, got {len(pixels)} channels: give rgb")
        if from_gray and self.color == "y_matlab" and len(pixels) == 3:
            pixels = gray(pixels)
        elif self.color != "rgb" and len(pixels) == 3:
            pixels = luma(pixels, rounded=self.color == "y_matlab")
        cut = self.border + (scale if self.cut_scale else 0)
        height, width = pixels.shape[-2:]
        if min(height, width) <= 2 * cut:
            raise ValueError(f"protocol {self.name} ignores {cut} px at each edge; nothing is left of {width}x{height}")
        return pixels[..., cut : height - cut, cut : width - cut]


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("y", "y", 0, True, "BasicSR, SwinIR and most papers since"),
        Protocol("y_matlab", "y_matlab", 0, True, "EDSR's and SelfExSR's MATLAB tables"),
        Protocol("rgb", "rgb", 0, True, "BasicSR's and MMagic's model zoos"),
        Protocol("div2k", "rgb", 6, True, "EDSR and MDSR on DIV2K"),
        Protocol("rgb_full", "rgb", 0, False, "EDVR and BasicSR on REDS4"),
        Protocol("y_full", "y", 0, False, "EDVR and BasicSR on Vid4"),
        Protocol("reds4", "rgb", 0, False, "EDVR and BasicSR on REDS4: rgb_full"),
        Protocol("vid4", "y", 0, False, "EDVR and BasicSR on Vid4: y_full"),
        Protocol("vimeo90k", "y", 0, False, "EDVR on Vimeo-90K", center=True),
    )
}


def get_protocols(names: Sequence[str]) -> list[Protocol]:
    """Return protocols by name. Raises ValueError for an unknown name."""
    unknown = [n for n in names if n not in PROTOCOLS]
    if unknown or not names:
        raise ValueError(f"protocols={list(names)}: choose from {', '.join(PROTOCOLS)}")
    return [PROTOCOLS[n] for n in dict.fromkeys(names)]


def score(
    sr: torch.Tensor, hr: torch.Tensor, protocol: Protocol, scale: int, *, from_gray: bool = False
) -> dict[str, float]:
    """Return PSNR (dB) and SSIM of one image.

    Args:
        sr: [C, H, W] uint8, or float in [0, 1]; it is quantized to 8 bits, as in a saved file.
        hr: HR image with the same shape.
        protocol: definition of the values to compare.
        scale: HR pixels per LR pixel; some protocols ignore a border of ``scale`` pixels.
        from_gray: true if the HR file has one channel, see :meth:`Protocol.values`.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"the result has the shape {tuple(sr.shape)}, the HR image {tuple(hr.shape)}")
    height, width = hr.shape[-2:]
    if height * width <= _BAND:
        a, b = (protocol.values(image, scale, from_gray=from_gray) for image in (sr, hr))
        return {"psnr": psnr(a, b), "ssim": ssim(a, b)}
    return _in_bands(sr, hr, protocol, scale, from_gray=from_gray)


def _in_bands(
    sr: torch.Tensor, hr: torch.Tensor, protocol: Protocol, scale: int, *, from_gray: bool
) -> dict[str, float]:
    """Return the scores of a large image, computed in bands of rows, so that float64 values of the whole need no memory.

    The sums are those of the whole image, up to the order of addition. A band has the rows of its own, and those that
    SSIM's windows reach below.
    """
    cut = protocol.border + (scale if protocol.cut_scale else 0)
    height, width = hr.shape[-2:]
    rows, last = max(_BAND // width, 2 * WINDOW), height - cut  # the last row that is compared
    squared, similar, count, windows = torch.zeros(()).double(), torch.zeros(()).double(), 0, 0
    for top in range(cut, last, rows):
        # Protocols ignore a border; the band brings rows for it.
        part = slice(top - cut, min(top + rows + WINDOW - 1, last) + cut)
        a, b = (protocol.values(image[..., part, :], scale, from_gray=from_gray) for image in (sr, hr))
        own = (a - b)[..., :rows, :]
        squared += (own * own).sum()
        count += own.numel()
        if a.shape[-2] >= WINDOW:
            found = ssim_map(a, b)
            similar += found.sum()
            windows += found.numel()
    return {"psnr": psnr_of(squared / count), "ssim": float(similar / windows)}
