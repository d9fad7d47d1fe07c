"""Pictures of a report: the strips LR | bicubic | SR | HR in a stage's ``images/``, cut apart and encoded for a page."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sr_train.batch import Image
from sr_train.data.images import ImageError, read_image

GAP = 4  #: white columns between the parts of a strip, see :func:`sr_train.training.validation.comparison`
PARTS = ("LR", "bicubic", "SR", "HR")
MOST_STEPS = 12  #: steps shown of one image

_STEP = re.compile(r"step_(\d+)\.png$")


def data_uri(image: Image, *, quality: int | None = None) -> str:
    """Return an image [H, W, 1 or 3] uint8 (RGB) as a ``data:`` URI: WebP of this quality; None is PNG, without loss."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 and image.shape[2] == 3 else image
    suffix, options = (".png", []) if quality is None else (".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])
    done, data = cv2.imencode(suffix, pixels, options)
    assert done
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(data.tobytes()).decode()}"


def cut(strip: Image) -> list[Image]:
    """Cut a strip [side, n * side + (n - 1) * gap, 3] into its n square parts. Raise ValueError for another shape."""
    side, width = strip.shape[:2]
    count = (width + GAP) // (side + GAP)
    if count < 2 or count * (side + GAP) - GAP != width:
        raise ValueError(f"{width}x{side} pixels are not a row of squares with gaps of {GAP}")
    return [np.ascontiguousarray(strip[:, i * (side + GAP) : i * (side + GAP) + side]) for i in range(count)]


def chosen_steps(steps: Sequence[int], best: int | None, most: int = MOST_STEPS) -> list[int]:
    """Return at most ``most`` of the steps, evenly spaced, with the first, the last and the best one."""
    steps = sorted(steps)
    if len(steps) <= most:
        return list(steps)
    kept = {steps[round(i * (len(steps) - 1) / (most - 2))] for i in range(most - 1)}
    if best in steps:
        kept.add(best)
    return sorted(kept)


def pictures(folder: Path, *, best: int | None = None, most_steps: int = MOST_STEPS) -> list[dict[str, Any]]:
    """Return the pictures of a stage for a page: {name, parts: {LR, bicubic, HR}, steps: [{step, SR}]} for each image.

    The last SR, and LR, bicubic and HR are encoded without loss; earlier SR as WebP of quality 90. Strips that cannot be
    read, or that have another size than the last one, are left out.
    """
    found = []
    for image in sorted(p for p in (folder / "images").glob("*") if p.is_dir()):
        files = {int(m[1]): p for p in image.iterdir() if (m := _STEP.search(p.name)) and p.is_file()}
        shown: list[dict[str, Any]] = []
        fixed: dict[str, str] = {}
        side = 0
        for step in reversed(chosen_steps(list(files), best, most_steps)):
            try:
                parts = cut(read_image(files[step]))
            except (ImageError, ValueError, OSError):
                continue
            if len(parts) not in (3, 4) or (fixed and len(parts[0]) != side):
                continue  # not a strip of this image, or one of another size
            named = dict(zip(PARTS, parts, strict=False))
            if not fixed:
                side = len(parts[0])
                fixed = {name: data_uri(part) for name, part in named.items() if name != "SR"}
            shown.append({"step": step, "src": data_uri(named["SR"], quality=90 if shown else None)})
        if shown:
            found.append({"name": image.name, "side": side, "parts": fixed, "steps": shown[::-1]})
    return found
