"""Pictures of sr-eval and sr-interp for a report: crops of upscaled images and of the HR image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sr_train.batch import Image
from sr_train.evaluation.report.pictures import data_uri
from sr_train.metrics.functional import quantize

MOST_IMAGES = 24  #: images with pictures on a page
SIDE = 256  #: side of their crops, in pixels


class Gallery:
    """Crops of the middle of images, collected while they are scored.

    Args:
        most: most images; later images are not kept.
        side: side of the crops in pixels.
    """

    def __init__(self, most: int = MOST_IMAGES, side: int = SIDE) -> None:
        self.most, self.side = most, side
        self.images: dict[tuple[str, str], dict[str, str]] = {}
        self._sides: dict[tuple[str, str], int] = {}

    def add(self, set_name: str, key: str, column: str, sr: torch.Tensor, hr: torch.Tensor | None) -> None:
        """Keep the middle of one upscaled image ``sr`` and of its HR image, if there is one, [C, H, W] each."""
        name = (set_name, key)
        if name not in self.images:
            if len(self.images) >= self.most:
                return
            self.images[name] = {}
            self._sides[name] = min(self.side, *sr.shape[-2:], *(sr if hr is None else hr).shape[-2:])
        parts = self.images[name]
        if hr is not None and "HR" not in parts:
            parts["HR"] = data_uri(self._middle(hr, self._sides[name]))
        parts[column] = data_uri(self._middle(sr, self._sides[name]))

    def as_json(self, title: str, note: str = "") -> dict[str, Any]:
        """Return the gallery for :func:`.page.render`."""
        images = [
            {"name": f"{set_name}: {key}", "side": self._sides[set_name, key], "steps": [],
             "parts": dict(sorted(parts.items(), key=lambda part: part[0] == "HR"))}
            for (set_name, key), parts in self.images.items()
        ]  # fmt: skip
        return {"title": title, "note": note, "label": "", "images": images}

    @staticmethod
    def _middle(image: torch.Tensor, side: int) -> Image:
        height, width = image.shape[-2:]
        top, left = (height - side) // 2, (width - side) // 2
        part = quantize(image[:3, top : top + side, left : left + side].cpu()).to(torch.uint8)
        return part.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def mixtures(rows: Mapping[str, Sequence[Image]], alphas: Sequence[float]) -> dict[str, Any]:
    """Return the gallery of a contact sheet: ``rows`` are {image: [bicubic, one crop for each alpha, HR]}, square uint8."""
    images = [
        {
            "name": name,
            "side": len(crops[0]),
            "parts": {"bicubic": data_uri(crops[0]), "HR": data_uri(crops[-1])},
            "steps": [{"step": a, "src": data_uri(crop)} for a, crop in zip(alphas, crops[1:-1], strict=True)],
        }
        for name, crops in rows.items()
    ]
    note = "SR is the result of the network (1 - alpha) A + alpha B."
    return {"title": "Interpolation over alpha", "note": note, "label": "alpha", "images": images}
