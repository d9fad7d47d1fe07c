"""Pictures for a comparison by eye: a contact sheet of image crops with labels, and a small chart.

OpenCV draws both, so no plotting library is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from sr_train.batch import Image

_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.45

_GAP, _LINE = 4, 20

_COLORS = ((31, 119, 180), (214, 39, 40))


def _text(image: Image, text: str, x: int, y: int, color: tuple[int, int, int] = (0, 0, 0)) -> None:
    cv2.putText(image, text, (x, y), _FONT, _SIZE, color, 1, cv2.LINE_AA)


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _SIZE, 1)[0][0])


def contact_sheet(rows: Mapping[str, Sequence[Image]], columns: Sequence[str]) -> Image:
    """Return one picture with crops [s, s, 3] uint8 of equal size in a grid.

    Labels are above the columns, and the name of each row is below the row.
    """
    side = len(next(iter(rows.values()))[0])
    cell = max(side, *(_width(c) + 2 for c in columns))
    sheet = np.full((_LINE + len(rows) * (side + _LINE), len(columns) * (cell + _GAP) - _GAP, 3), 255, np.uint8)
    for j, label in enumerate(columns):
        _text(sheet, label, j * (cell + _GAP) + 1, _LINE - 6)
    for i, (name, crops) in enumerate(rows.items()):
        top = _LINE + i * (side + _LINE)
        for j, crop in enumerate(crops):
            left = j * (cell + _GAP)
            sheet[top : top + side, left : left + side] = crop
        _text(sheet, name, 1, top + side + _LINE - 6)
    return sheet


def chart(x: Sequence[float], curves: Mapping[str, Sequence[float]], *, xlabel: str) -> Image:
    """Return a chart of one or two curves over ``x``, [360, 560, 3] uint8.

    The axis of the second curve is on the right.
    """
    height, width, edge = 360, 560, 60
    image = np.full((height, width, 3), 255, np.uint8)
    cv2.rectangle(image, (edge, 30), (width - edge, height - 40), (120, 120, 120), 1)
    span = max(x) - min(x) or 1.0
    across = [round(edge + 10 + (v - min(x)) / span * (width - 2 * edge - 20)) for v in x]
    for column, v in zip(across, x, strict=True):
        _text(image, f"{v:g}", column - 8, height - 22)
    _text(image, xlabel, (width - _width(xlabel)) // 2, height - 6)
    for n, ((name, values), color) in enumerate(zip(curves.items(), _COLORS, strict=False)):
        low, high = min(values), max(values)
        high = high if high > low else low + 1e-3
        down = [round(height - 50 - (v - low) / (high - low) * (height - 90)) for v in values]
        points = np.array([*zip(across, down, strict=True)], np.int32)
        cv2.polylines(image, [points], False, color, 2, cv2.LINE_AA)
        for at in points.tolist():
            cv2.circle(image, at, 3, color, -1, cv2.LINE_AA)
        left = 4 if n == 0 else width - edge + 4
        for value, y in ((low, height - 46), (high, 44)):
            _text(image, f"{value:.4g}", left, y, color)
        _text(image, name, 4 if n == 0 else width - 4 - _width(name), 18, color)
    return image
