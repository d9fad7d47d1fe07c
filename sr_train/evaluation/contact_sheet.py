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

_BETWEEN = 16  # pixels between two images with captions

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


def _lines(words: Sequence[str], width: int) -> list[str]:
    """Return words in lines of at most ``width`` pixels. The first word has a line of its own; a long word is not cut."""
    lines = [words[0]]
    for number, word in enumerate(words[1:]):
        longer = f"{lines[-1]}  {word}"
        if number and _width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def captioned(title: str, cells: Sequence[tuple[Image, Sequence[str]]], *, columns: int) -> Image:
    """Return one picture of images [h, w, 3] uint8 in a grid, each with a text below it.

    The text of an image is given as words, and is broken into lines as wide as the image.
    """
    height = max(len(image) for image, _ in cells)
    width = max(_width(title) // columns + 1, *(image.shape[1] for image, _ in cells))
    texts = [_lines(words, width) for _, words in cells]
    rows = [range(first, min(first + columns, len(cells))) for first in range(0, len(cells), columns)]
    depths = [height + _LINE * max(len(texts[i]) for i in row) + _LINE // 2 for row in rows]
    sheet = np.full((_LINE + sum(depths), columns * (width + _BETWEEN) - _BETWEEN, 3), 255, np.uint8)
    _text(sheet, title, 1, _LINE - 6)
    for row, top in zip(rows, _LINE + np.cumsum([0, *depths[:-1]]), strict=True):
        for i, left in zip(row, range(0, sheet.shape[1], width + _BETWEEN), strict=False):
            image = cells[i][0]
            sheet[top : top + len(image), left : left + image.shape[1]] = image
            for number, line in enumerate(texts[i]):
                _text(sheet, line, left + 1, int(top) + height + _LINE * (number + 1) - 6)
    return sheet


def stacked(pictures: Sequence[Image]) -> Image:
    """Return pictures [h, w, 3] uint8 below each other, with white on the right of narrow ones."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(padded)


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
