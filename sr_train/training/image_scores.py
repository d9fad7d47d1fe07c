"""Scores of each validation image, in ``scores.csv`` of the stage's folder, which reports show."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from sr_train.batch import to_float
from sr_train.data.dataset import EvalImage
from sr_train.files import write_bytes
from sr_train.models.bicubic import Bicubic

Scores = Mapping[str, Mapping[str, float]]  #: {protocol: {metric: score}}

FILE = "scores.csv"
_LARGEST = 4_000_000  # pixels of HR; larger images are not compared with bicubic, which would need much memory


def bicubic_of(image: EvalImage) -> torch.Tensor | None:
    """Return the bicubic enlargement of an image (the center frame of a window), [C, H, W]; None for large images."""
    height, width = image.center.shape[-2:]
    if height * width * image.scale**2 > _LARGEST:
        return None
    return Bicubic(scale=image.scale)(to_float(image.center)[None])[0]


def write_image_scores(folder: Path, rows: Iterable[tuple[str, str, Scores, Scores]]) -> None:
    """Write ``scores.csv``: one row for each image and protocol, with the scores of the network and of bicubic.

    Args:
        folder: folder of the stage.
        rows: (set, image, scores of the network, scores of bicubic) of each image.
    """
    rows = list(rows)
    metrics = list(dict.fromkeys(m for _, _, own, _ in rows for values in own.values() for m in values))
    compared = [m for m in metrics if any(m in values for _, _, _, other in rows for values in other.values())]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["set", "image", "protocol", *metrics, *(f"bicubic {m}" for m in compared)])
    for set_name, key, own, other in rows:
        for protocol, values in own.items():
            found = other.get(protocol, {})
            cells = [_cell(values.get(m)) for m in metrics] + [_cell(found.get(m)) for m in compared]
            table.writerow([set_name, key, protocol, *cells])
    write_bytes(folder / FILE, text.getvalue().encode())


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"
