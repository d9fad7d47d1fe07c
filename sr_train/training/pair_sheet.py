"""``check=true sheet=FILE``: a picture of the first training pairs, with what was drawn for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sr_train.batch import Image
from sr_train.config.plan import Plan
from sr_train.console import UsageError, is_child
from sr_train.data.dataset import MultiScalePatches, TrainPatches
from sr_train.data.images import WRITABLE, to_channels, to_real, to_uint8, write_image
from sr_train.data.module import SRData
from sr_train.data.train_source import Sample
from sr_train.evaluation.contact_sheet import captioned, stacked
from sr_train.training.preflight import Prepared

PAIRS, _COLUMNS, _SIDE = 8, 2, 256  # pairs in the picture, pairs in a row, smallest side of a patch in the picture


def check_sheet(plan: Plan) -> Path | None:
    """Return the file of ``sheet=``, None without. Raise UsageError if it cannot be written."""
    config = plan.stages[0].config
    if config["sheet"] is None:
        return None
    path = Path(str(config["sheet"]))
    if not config["check"]:
        raise UsageError(f"sheet={path}: is written by check=true; add check=true")
    if path.suffix.lower() not in WRITABLE:
        raise UsageError(f"sheet={path}: expected an image file, e.g. sheet={path.with_suffix('.png')}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"sheet={path}: there is no folder {path.absolute().parent}")
    return path


def write_sheet(plan: Plan, stages: Sequence[Prepared]) -> str:
    """Write a picture with the first pairs of each stage, if ``sheet=`` is given. Return words for what was written."""
    path = check_sheet(plan)
    if path is None:
        return "nothing was changed"
    if not is_child():
        write_image(path, stacked([pair_sheet(prepared.stage.name, prepared.data) for prepared in stages]))
    return f"only {path} was written"


def pair_sheet(name: str, data: SRData) -> Image:
    """Return a picture [H, W, 3] uint8 of the first training pairs of a stage.

    LR is upscaled by repeating its pixels; HR is on the right of it, and then the sharpened target, if there is one.
    Patches are not flipped or rotated. Below each pair are its position, the name of the image, and what was drawn.
    """
    cells: list[tuple[Image, list[str]]] = []
    for position in range(PAIRS):
        patches = _patches_of(data, position)
        sample = patches.sample(position)
        cells.append((_side_by_side(sample, patches.scale), _caption(position, sample)))
    seed = f"seed {data.seed}, x{', x'.join(map(str, data.scales))}"
    third = " | sharpened HR" if data.usm else ""
    return captioned(f"stage {name}, {seed}: LR (pixels repeated) | HR{third}", cells, columns=_COLUMNS)


def _patches_of(data: SRData, position: int) -> TrainPatches:
    """Return the dataset that contains a position: that of the step's scale, if there are several."""
    dataset = data.dataset
    if isinstance(dataset, MultiScalePatches):
        return dataset.patches[dataset.scales(position // dataset.batch)]
    return dataset


def _side_by_side(sample: Sample, scale: int) -> Image:
    """Return LR (of a video: of the center frame), HR and the target in one row, upscaled to at least ``_SIDE`` pixels."""
    lr = sample.lr[len(sample.lr) // 2] if isinstance(sample.lr, list) else sample.lr
    factor = max(1, -(-_SIDE // len(sample.hr)))
    shown = [(lr, scale * factor), (sample.hr, factor)]
    shown += [] if sample.target is None else [(sample.target, factor)]
    parts = [_repeated(to_channels(_eight_bits(image), 3), by) for image, by in shown]
    gap = np.full((len(parts[0]), 2, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)


def _eight_bits(image: Image) -> Image:
    if image.dtype == np.float32:
        return to_uint8((np.clip(to_real(image), 0, 1) * 65535 + 0.5).astype(np.uint16))
    return to_uint8(image)


def _repeated(image: Image, by: int) -> Image:
    return image.repeat(by, axis=0).repeat(by, axis=1)


def _caption(position: int, sample: Sample) -> list[str]:
    """Return the words of the text below a pair."""
    drawn = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in sample.drawn.items()
    ]
    return [f"{position}: {sample.key}", *drawn]
