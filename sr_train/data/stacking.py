"""Patches of a batch, placed one after the other into arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sr_train.batch import Image
from sr_train.data.images import to_real
from sr_train.data.train_source import Sample
from sr_train.data.transforms import place_patch


class Stacks:
    """Arrays of the LR patches, HR patches and targets of a batch. Patches of mixed depths become float32.

    Args:
        count: number of samples.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.arrays: dict[
            str, Image
        ] = {}  #: ``lr`` [B, h, w, C], or [B, T, h, w, C] for video; ``hr``; maybe ``target``

    def add(self, slot: int, sample: Sample) -> bool:
        """Copy the patches of a sample, flipped or rotated. Return true if all of their values are finite."""
        given: dict[str, list[Image]] = {
            "lr": sample.lr if isinstance(sample.lr, list) else [sample.lr],
            "hr": [sample.hr],
        }
        if sample.target is not None:
            given["target"] = [sample.target]
        if not self.arrays:
            self.arrays = {name: self._empty(name, patches, sample) for name, patches in given.items()}
        if _mixed(self.arrays, given):
            given = {name: [to_real(p) for p in patches] for name, patches in given.items()}
            self.arrays = {name: to_real(array) for name, array in self.arrays.items()}
        for name, patches in given.items():
            canvas = self.arrays[name][slot]
            for place, patch in zip(canvas if canvas.ndim == 4 else [canvas], patches, strict=True):
                place_patch(place, patch, sample.k)
        return all(_finite(patch) for patches in given.values() for patch in patches)

    def _empty(self, name: str, patches: list[Image], sample: Sample) -> Image:
        time = (len(patches),) if name == "lr" and isinstance(sample.lr, list) else ()
        return np.empty((self.count, *time, *patches[0].shape), patches[0].dtype)


def _mixed(arrays: Mapping[str, Image], given: Mapping[str, list[Image]]) -> bool:
    return any(patch.dtype != arrays[name].dtype for name, patches in given.items() for patch in patches)


def _finite(patch: Image) -> bool:
    """Return true if all values of a patch are finite. The loader's processes check this, the training process does not."""
    return patch.dtype.kind != "f" or bool(np.isfinite(patch).all())
