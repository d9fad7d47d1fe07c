"""LightningDataModule that opens the sources of a stage and loads the stage's batches, starting at any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from sr_train.batch import Batch
from sr_train.console import ProblemsError, collect_error, say
from sr_train.data.dataset import PATIENCE, EvalImages, EvalSet, MultiScalePatches, TrainPatches
from sr_train.data.degradation.base import Degradation
from sr_train.data.draws import Draws, PositionSampler, StepScales
from sr_train.data.images import check_channels
from sr_train.data.loading import Loader, Reported, one_thread, passthrough
from sr_train.data.lone import is_lone, open_lone
from sr_train.data.making import Makers
from sr_train.data.pairs import Pairs, check_shared, converted
from sr_train.data.sources import StoreSource, check_source
from sr_train.data.store.format import MissingStoreError
from sr_train.data.store.local_copy import local_folder, use_copies
from sr_train.data.video.sets import is_clip_set, open_set


class SRData(L.LightningDataModule):
    """Training patches and validation images.

    Args:
        train: sources to train on; each is ``{hr: SOURCE, lr: SOURCE | {scale: SOURCE} | null, list: FILE, weight: w,
            degrade: D}``. ``list`` is a text file with the names of the images to use. Without weights every image is
            drawn equally often. ``degrade`` is used for this source instead of that of the stage; ``null`` for bicubic.
        val: {name: validation set}. A set of images is ``{hr: SOURCE, lr: ..., list: FILE}``, or ``{lr: SOURCE}`` for
            images without HR. For a set of clips, see :class:`.video.module.ClipData`.
        scale: HR pixels per LR pixel.
        scales: several scales instead of ``scale``; one scale is drawn for each step. Each set is validated at each
            scale, with the name ``NAME_xSCALE``.
        scale_weights: how often each scale is drawn, relative to the other scales; ``None`` draws all equally often.
        channels: number of channels C of the images: 3 (RGB), 1 (gray) or 4 (RGBA); see :func:`.images.to_channels`.
        lr_patch: side of a training patch, in LR pixels.
        batch: training pairs per step, over all devices and micro-batches.
        accumulate: micro-batches per step.
        workers: loader processes per device; 0 loads in the training process.
        prefetch_factor: batches that each loader process prepares ahead; ``None`` for torch's default, 2.
        seed: the run's seed.
        stage_name: the stage's name; together with the seed, it determines all random choices.
        stage: folder on a local disk of the node, to which the stores (LMDBs of sr-prepare) of ``train`` are copied.
            ``$TMPDIR`` is expanded.
        augment: true to apply one of the eight flips and rotations to each patch.
        degrade: degradation that makes the LR of sources without ``lr``; ``None`` for bicubic reduction. Validation sets
            are not degraded.
        usm: true to sharpen HR as Real-ESRGAN does. LR is made from the sharpened HR, which is also the target of all
            losses but the adversarial one.
        arithmetic: name of the rounding rules for LR images made from HR images, see :mod:`sr_train.resampling`.
        cache: true to keep decoded files of folders in memory; stores need no cache.
        patience: the run ends with an error after this number of successive unreadable images for one sample.
    """

    def __init__(
        self,
        *,
        train: Sequence[Mapping[str, Any]],
        val: Mapping[str, Mapping[str, Any]] | None = None,
        scale: int | None = None,
        scales: Sequence[int] | None = None,
        scale_weights: Sequence[float] | None = None,
        lr_patch: int,
        batch: int = 16,
        accumulate: int = 1,
        workers: int = 2,
        prefetch_factor: int | None = 2,
        seed: int = 0,
        stage_name: str = "main",
        stage: str | None = None,
        augment: bool = True,
        degrade: Degradation | Mapping[str, Any] | None = None,
        usm: bool = False,
        arithmetic: str = "float",
        cache: bool = False,
        channels: int = 3,
        patience: int = PATIENCE,
    ) -> None:
        super().__init__()
        self.scales = _scales(scale, scales)
        check_channels(channels)
        self.channels = channels
        self.lr_patch = lr_patch
        self.batch = batch
        self.accumulate = accumulate
        self.workers = workers
        self.prefetch = (prefetch_factor or 2) if workers else 0  #: batches that each loader process prepares ahead
        self.seed = seed
        self.stage_name = stage_name
        self.stage = None if stage is None else local_folder(stage)
        self.augment = augment
        self.patience = patience
        self._told = False
        if not train:
            raise ValueError("data.train is empty: give e.g. data=base 'data.train=[{hr: DIR}]', or data=toy")
        options: dict[str, Any] = {"arithmetic": arithmetic, "cache": cache, "channels": channels}
        self.usm = usm
        self._makers = Makers(degrade, usm=usm, arithmetic=arithmetic, scales=self.scales, channels=channels)
        problems: list[Exception] = []
        opened: list[dict[int, Any]] = []
        for i, source in enumerate(train):
            with collect_error(problems, "data"):
                opened.append(self._open_all(f"data.train[{i}]", source, options, self._open_train))
        sets: dict[str, dict[int, Any]] = {}
        for name, spec in (val or {}).items():
            with collect_error(problems, "data"):
                sets[name] = self._open_all(f"data.val.{name}", spec, options, self._open_set)
        with collect_error(problems, "data"):
            self._makers.check_used(train)
        if problems:
            raise problems[0] if len(problems) == 1 else ProblemsError(problems)
        self.by_scale = {s: [pairs[s] for pairs in opened] for s in self.scales}
        self.sources = self.by_scale[self.scales[0]]  #: HR images, with LR of the first scale
        given = [source.get("weight") for source in train]
        if any(w is None for w in given) and any(w is not None for w in given):
            raise ValueError(f"data.train: give every source a weight or none; weights are {given}")
        self.weights = None if given[0] is None else [float(w) for w in given if w is not None]
        self.val: dict[str, EvalSet] = {}
        for name, found in sets.items():
            self.val |= {set_name(name, s, scales or ()): pairs for s, pairs in found.items()}
        self.means = means_of(list(val or {}), scales or ())
        for text in converted([*chain.from_iterable(self.by_scale.values()), *self.val.values()]):
            say(text)
        self.step_scales: StepScales | None = None
        if scales is None and scale_weights is not None:
            raise ValueError(
                f"data.scale_weights={list(scale_weights)} needs data.scales, but only data.scale is given"
            )
        if scales is not None:
            self.step_scales = StepScales(self.scales, weights=scale_weights, seed=seed, stage=stage_name)
        self.dataset = self._dataset()

    def _open_all(
        self, where: str, spec: Mapping[str, Any], options: Mapping[str, Any], open_one: Callable[..., Any]
    ) -> dict[int, Any]:
        """Open a source at every scale. HR images that are the same for all scales are opened once."""
        found: dict[int, Any] = {}
        for scale in self.scales:
            lone = is_lone(spec)
            shared = next(iter(found.values())).hr if found and not lone and "{scale}" not in spec["hr"] else None
            try:
                found[scale] = open_one(where, spec, {**options, "scale": scale, "opened": shared})
            except MissingStoreError as error:
                held = [s for s in self.scales if s > 1] if spec.get("lr") == spec.get("hr") else []
                raise error.needing(held, options["arithmetic"]) from None
        if not is_lone(spec):
            check_shared(where, found)
        return found

    def _dataset(self) -> Any:
        draws = self._draws()
        patches = {
            s: TrainPatches(pairs, draws, lr_patch=self.lr_patch, augment=self.augment, patience=self.patience)
            for s, pairs in self.by_scale.items()
        }
        if self.step_scales is None:
            return patches[self.scales[0]]
        return MultiScalePatches(patches, self.step_scales, batch=self.batch)

    def _open_set(self, where: str, spec: Mapping[str, Any], options: Mapping[str, Any]) -> EvalSet:
        """Open a validation set.

        From a set of clips, single frames are returned, because the network takes single images.
        """
        if is_lone(spec) and not is_clip_set(spec):
            return open_lone(where, spec, options)
        return (
            open_set(where, spec, frames=1, options=options) if is_clip_set(spec) else self._open(where, spec, options)
        )

    def _open_train(self, where: str, spec: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        given = check_source(where, spec, {"hr", "lr", "list", "weight", "degrade"})
        maker = self._makers.of(where, given)
        return Pairs(given["hr"], lr=given.get("lr"), listed=given.get("list"), maker=maker, **options)

    def _open(self, where: str, spec: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        given = check_source(where, spec, {"hr", "lr", "list", "weight"})
        return Pairs(given["hr"], lr=given.get("lr"), listed=given.get("list"), **options)

    def _draws(self) -> Draws:
        return Draws([len(s) for s in self.sources], weights=self.weights, seed=self.seed, stage=self.stage_name)

    def prepare_data(self) -> None:
        """Copy the stores (LMDBs of sr-prepare) to the folder ``data.stage``.

        Lightning calls this in one process of each node; the other processes of the node wait.
        """
        self._use_copies()

    def setup(self, stage: str) -> None:
        """Let the stores read their pixels from the copies in the folder ``data.stage``.

        Lightning calls this in every process.
        """
        self._use_copies()

    def _use_copies(self) -> None:
        if self.stage is None:
            return
        sources = [s for pairs in self.by_scale.values() for p in pairs for s in (p.hr, p.lr) if s is not None]
        use_copies([s.store for s in sources if isinstance(s, StoreSource)], self.stage)
        if not self._told:
            for name in dict.fromkeys(s.name for s in sources if not isinstance(s, StoreSource)):
                say(f"{name}: is not a store, so data.stage does not copy it")
        self._told = True

    def per_device(self, world: int) -> int:
        """Return the number of training pairs per device and micro-batch.

        Raise ValueError if ``data.batch`` cannot be divided evenly by the number of devices and micro-batches.
        """
        per_device, rest = divmod(self.batch, world * self.accumulate)
        if rest or per_device < 1:
            raise ValueError(
                f"data.batch={self.batch} cannot be divided by {world} x {self.accumulate} (devices x micro-batches); "
                f"set it to a multiple of {world * self.accumulate}"
            )
        return per_device

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of endless batches for this device, which starts at the trainer's global step."""
        trainer = self.trainer
        world = trainer.world_size if trainer else 1
        sampler = PositionSampler(
            self.per_device(world),
            first_step=trainer.global_step if trainer else 0,
            rank=trainer.global_rank if trainer else 0,
            world=world,
            accumulate=trainer.accumulate_grad_batches if trainer else self.accumulate,  # times the batches of a step
        )
        pin = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return self.loader(sampler, pin_memory=pin)

    def loader(
        self, sampler: PositionSampler, *, pin_memory: bool = False, context: str | None = None
    ) -> DataLoader[Batch]:
        """Return a loader of training batches for the positions of ``sampler``.

        ``context`` is the way to start loader processes: fork or spawn. The default depends on the platform.
        """
        return Loader(
            Reported(self.dataset) if self.workers else self.dataset,
            batch_sampler=sampler,  # pyright: ignore[reportArgumentType] - endless, so it has no len(); torch allows that
            collate_fn=passthrough,  # pyright: ignore[reportArgumentType] - items are whole batches
            num_workers=self.workers,
            prefetch_factor=self.prefetch or None if self.workers else None,
            worker_init_fn=one_thread,
            persistent_workers=self.workers > 0,
            multiprocessing_context=context if self.workers else None,
            pin_memory=pin_memory,
        )

    def val_images(self) -> EvalImages | None:
        """Return the whole validation images, or None without sets."""
        return EvalImages(self.val) if self.val else None


def _scales(scale: int | None, scales: Sequence[int] | None) -> tuple[int, ...]:
    if (scale is None) == (scales is None) or scales == []:
        raise ValueError(f"data.scale={scale}, data.scales={scales}: give exactly one of the two keys")
    found = (scale,) if scale is not None else tuple(scales or ())
    if len(set(found)) < len(found):
        raise ValueError(f"data.scales={list(found)}: contains a scale twice")
    return found


def set_name(name: str, scale: int, scales: Sequence[int]) -> str:
    """Return the name of a validation set at a scale: ``NAME_xSCALE``, or ``NAME`` if ``scales`` is empty (one scale)."""
    return f"{name}_x{scale}" if scales else name


def means_of(names: Sequence[str], scales: Sequence[int]) -> dict[str, list[str]]:
    """Return {``NAME_mean``: [``NAME_x2``, ``NAME_x3``, ...]} for each validation set NAME.

    ``NAME_mean`` is the name of the mean score over the scales. Return an empty dict if ``scales`` is empty (one
    scale).
    """
    return {f"{name}_mean": [set_name(name, s, scales) for s in scales] for name in names} if scales else {}
