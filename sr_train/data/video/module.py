"""Data module of video networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from sr_train.batch import Batch
from sr_train.data.dataset import PATIENCE
from sr_train.data.draws import PositionSampler
from sr_train.data.module import SRData
from sr_train.data.video.dataset import EvalWindows, TrainWindows, check_intervals
from sr_train.data.video.sets import open_set, open_training
from sr_train.data.video.toy_clips import ToyClips
from sr_train.data.video.windows import check_frames


class ClipData(SRData):
    """Data module of training windows and validation clips.

    Args:
        train: sources to train on; each is ``{hr: SOURCE, lr: SOURCE | {scale: SOURCE} | null, clips: C, without: C,
            weight: w}``, where C is ``all``, a list of names or a text file of names. Without weights every window is
            drawn equally often.
        val: {name: validation set}; each set is
            ``{hr: SOURCE, lr: ..., clips: C, without: C, padding: P, score: all | centre}``.
        scale: HR pixels per LR pixel; 1 for deblurring.
        channels: channels C of the images: 3 (RGB), 1 (gray) or 4 (RGBA); see :func:`.images.to_channels`.
        lr_patch: side of a training patch, in LR pixels.
        frames: odd number of frames of a window; the network restores the center one.
        intervals: possible intervals between the frames of a training window; each interval is drawn equally often.
        reverse: true to reverse the order of the frames in half of the training windows.
        batch: training windows per step, over all devices and micro-batches.
        accumulate: micro-batches per step.
        workers: loader processes per device; 0 loads in the training process.
        prefetch_factor: batches that each loader process prepares ahead; ``None`` for torch's default, 2.
        seed: the run's seed.
        stage_name: the stage's name; together with the seed, it determines all random choices.
        stage: folder on a local disk of the node, to which the stores (LMDBs of sr-prepare) of ``train`` are copied.
            ``$TMPDIR`` is expanded.
        augment: true to apply one of the eight flips and rotations to each window.
        arithmetic: name of the rounding rules for LR images made from HR images, see :mod:`sr_train.resampling`.
        cache: true to keep decoded files of folders in memory; stores need no cache.
        patience: the run ends with an error after this number of successive unreadable windows for one sample.
    """

    def __init__(
        self,
        *,
        train: Sequence[Mapping[str, Any]],
        val: Mapping[str, Mapping[str, Any]] | None = None,
        scale: int,
        lr_patch: int,
        frames: int = 5,
        intervals: Sequence[int] = (1,),
        reverse: bool = False,
        batch: int = 32,
        accumulate: int = 1,
        workers: int = 2,
        prefetch_factor: int | None = 2,
        seed: int = 0,
        stage_name: str = "main",
        stage: str | None = None,
        augment: bool = True,
        arithmetic: str = "float",
        cache: bool = False,
        channels: int = 3,
        patience: int = PATIENCE,
    ) -> None:
        check_frames(frames)
        self.frames, self.intervals, self.reverse = frames, check_intervals(intervals), reverse
        super().__init__(
            train=train,
            val=val,
            scale=scale,
            lr_patch=lr_patch,
            batch=batch,
            accumulate=accumulate,
            workers=workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
            stage_name=stage_name,
            stage=stage,
            augment=augment,
            arithmetic=arithmetic,
            cache=cache,
            channels=channels,
            patience=patience,
        )

    def _open_train(self, where: str, spec: Mapping[str, Any], options: Mapping[str, Any]) -> TrainWindows:
        frames, intervals, reverse = self.frames, self.intervals, self.reverse
        return open_training(where, spec, frames=frames, intervals=intervals, reverse=reverse, options=options)

    def _open_set(self, where: str, spec: Mapping[str, Any], options: Mapping[str, Any]) -> EvalWindows:
        return open_set(where, spec, frames=self.frames, options=options)

    def loader(
        self, sampler: PositionSampler, *, pin_memory: bool = False, context: str | None = None
    ) -> DataLoader[Batch]:
        """Return a loader of training windows for the positions of ``sampler``; see :meth:`.SRData.loader`.

        Toy clips are rendered before worker processes are forked, so that these processes share them.
        """
        for source in self.sources:
            if self.workers and isinstance(source.hr, ToyClips):
                source.hr.render_all()
        return super().loader(sampler, pin_memory=pin_memory, context=context)
