"""Validation during training: scores of whole images by named protocols, the best network, and pictures."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from tqdm import tqdm

from sr_train.console import counted
from sr_train.data.dataset import EvalImage, EvalImages
from sr_train.data.images import write_image
from sr_train.data.lone import LoneImages
from sr_train.devices import full_fp32
from sr_train.evaluation.metrics import PROTOCOL, PerceptualMetric, lower_is_better, perceptual_scores
from sr_train.metrics.meter import Meter
from sr_train.runs.launch import Launch
from sr_train.runs.ranks import Ranks
from sr_train.tasks.base import SRTask
from sr_train.training.image_errors import naming_the_image
from sr_train.training.image_scores import bicubic_of, write_image_scores
from sr_train.training.loggers import log_picture
from sr_train.training.parallel import share_buffers
from sr_train.training.pictures import comparison
from sr_train.training.score_names import best_metric, means_of_scores
from sr_train.training.signals import Signals
from sr_train.training.step_callback import StepCallback, log_numbers

Exporter = Callable[[SRTask, Path, dict[str, float], int], object]


class Validate(StepCallback):
    """Callback that scores whole images in fp32 every ``every`` steps and at the end; the ranks share the images.

    Every frame of a clip is scored with its window. The score of a set is the mean over clips of the means over frames.

    Args:
        images: images to score; None disables validation.
        every: interval in steps.
        last: last step of the stage.
        best: metric by which ``best.safetensors`` is chosen, e.g. ``set5/y/psnr`` or ``real/niqe``. Default: the PSNR of
            the first set with the first protocol; with several scales, the mean over the scales; NIQE if no set has HR.
        export: function of (task, file, scores, step) that writes the evaluated network.
        folder: folder of the stage.
        pictures: number of images per scale to show as LR | bicubic | SR | HR, in TensorBoard and ``images/``, and of images
            without HR.
        crop: side of the crops of these images, in HR pixels.
        metrics: names of the metrics to compute.
        perceptual: {name: metric} of the metrics other than PSNR and SSIM. Those that need no HR are computed for images
            without HR also if ``metrics`` does not contain them.
        means: {name of a mean: names of its sets}, e.g. {``set5_mean``: [``set5_x2``, ``set5_x3``, ``set5_x4``]}.
        basis: {name of a metric: another property on which its value depends}, e.g. the file of LPIPS. Scores with
            different properties cannot be compared.
        signals: signals of the run. A signal during a validation ends the validation after the current image. Its
            scores are not used, and the validation is repeated when the run continues.
        ranks: connection to the other processes of the run, to which the progress of this process is reported.
    """

    def __init__(
        self,
        *,
        images: EvalImages | None,
        every: int,
        last: int,
        best: str | None,
        export: Exporter,
        folder: str,
        pictures: int = 4,
        crop: int = 192,
        metrics: Sequence[str] = ("psnr", "ssim"),
        perceptual: Mapping[str, PerceptualMetric] | None = None,
        means: Mapping[str, Sequence[str]] | None = None,
        basis: Mapping[str, str] | None = None,
        signals: Signals | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"validate.every={every} must be at least 1")
        self.images = images
        self.every = every
        self.last = last
        self.best_name = best
        self.export = export
        self.folder = Path(folder)
        self.crop = crop
        self.metrics = list(metrics)
        self.perceptual = dict(perceptual or {})
        self.means = dict(means or {})
        self.basis = dict(basis or {})
        self.signals = signals or Signals()
        self.ranks = ranks or Ranks(Launch())
        self.pending = False  #: the validation of the newest step was ended by a signal
        self._told = False  #: images without NIQE were named
        self._shown = set() if images is None else set(images.shown(pictures))
        self.best: float | None = None
        self.best_step = -1
        self.best_by: tuple[str, str] | None = None  #: metric of ``best``, and digest of its images
        self.scores: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return for a checkpoint: the best score so far, the metric of this score, and the newest scores."""
        by = None if self.best_by is None else list(self.best_by)
        state = {"best": self.best, "best_step": self.best_step, "best_by": by, "scores": dict(self.scores)}
        return {**state, "pending": True} if self.pending else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a checkpoint: the best score so far, the metric of this score, and the newest scores."""
        self.best, self.best_step, self.scores = state_dict["best"], state_dict["best_step"], dict(state_dict["scores"])
        self.pending = bool(state_dict.get("pending", False))
        by = state_dict.get("best_by")  # missing in checkpoints of earlier versions
        self.best_by = None if by is None else (by[0], by[1])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the size of the tiles. Repeat a validation that a signal has interrupted in an earlier process."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, SRTask)
        for scale in {pairs.scale for pairs in self.images.sets.values()} if self.images is not None else ():
            pl_module.check_tiles(scale)
        self._repeat(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Repeat an interrupted validation also if it was the validation after the last step.

        In this case no step is trained, so :meth:`on_train_start` is not called.
        """
        self._repeat(trainer, pl_module)

    def _repeat(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.pending and self.signals.received is None:
            assert isinstance(pl_module, SRTask)
            self._validate(trainer, pl_module, trainer.global_step)

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Validate after every ``every``-th step and after the last step."""
        if step % self.every == 0 or step == self.last:
            self._validate(trainer, task, step)

    def _validate(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        if self.images is None:
            self.pending = False
            return
        for hook in ("on_validation_start", "on_validation_epoch_start"):
            _call(trainer, task, hook)
        share_buffers(trainer, task.averaged())
        with full_fp32():
            self.pending = not self.run(trainer, task, step)
        if not self.pending:
            for hook in ("on_validation_epoch_end", "on_validation_end"):
                _call(trainer, task, hook)

    def run(self, trainer: L.Trainer, task: SRTask, step: int) -> bool:
        """Score all images, log the scores, and write the network if it is the best network so far.

        Return false if a signal has interrupted the validation.
        """
        assert self.images is not None
        mine: list[tuple[int, str, str, str, dict[str, dict[str, float]], dict[str, dict[str, float]]]] = []
        for number in range(trainer.global_rank, len(self.images), trainer.world_size):
            if self.signals.received is not None:
                break
            image = self.images[number]
            self.ranks.doing(f"validates {image.set}: {image.key}")
            with naming_the_image(image):
                sr = task.upscale(image)
                plain = bicubic_of(image) if step == self.last and image.hr is not None else None
                other = {} if plain is None else self._score(task, image, plain)
                mine.append((number, image.set, image.key, image.clip, self._score(task, image, sr), other))
            if number in self._shown:
                self._picture(trainer, image, sr, step)
        self.ranks.doing("waits for the validation of the other ranks")
        found = _gather(trainer, [(mine, self.signals.received or 0)])
        self.signals.agreed = max(number for _, number in found) or None
        if self.signals.agreed is not None:
            return False
        meter = Meter()
        entries = sorted((entry for entries, _ in found for entry in entries), key=lambda entry: entry[0])
        for _, set_name, key, clip, scores, _ in entries:
            for protocol, values in scores.items():
                meter.add(set_name, key, protocol, values, clip)
        scores = dict(meter.flat())
        self.scores = {**means_of_scores(scores, self.means), **scores}
        log_numbers(trainer, self.scores, step)
        if trainer.is_global_zero:
            if "niqe" in self.perceptual:
                self._tell_unscored([f"{e[1]}/{e[2]}" for e in entries if self._lacks_niqe(e[1], e[4])])
            shown = "  ".join(f"{k} {v:.3f}" for k, v in self.scores.items() if not k.endswith("ssim"))
            tqdm.write(f"step {step}: {shown}", file=sys.stderr)
            write_image_scores(self.folder, ((e[1], e[2], e[4], e[5]) for e in entries))
        self._keep_best(trainer, task, step)
        return True

    def _score(self, task: SRTask, image: EvalImage, sr: torch.Tensor) -> dict[str, dict[str, float]]:
        scores = {
            p: {m: v for m, v in found.items() if m in self.metrics} for p, found in task.score(image, sr).items()
        }
        own = [m for m in self.perceptual if m in self.metrics]
        if own or image.hr is None:
            scores[PROTOCOL] = perceptual_scores(self.perceptual, own, sr, image.hr, image.scale, task.device)
        return {protocol: values for protocol, values in scores.items() if values}

    def _lacks_niqe(self, set_name: str, scores: Mapping[str, Mapping[str, float]]) -> bool:
        assert self.images is not None
        asked = "niqe" in self.metrics or isinstance(self.images.sets[set_name], LoneImages)
        return asked and "niqe" not in scores.get(PROTOCOL, {})

    def _tell_unscored(self, names: Sequence[str]) -> None:
        """Print once which images have no NIQE."""
        if names and not self._told:
            shown = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            tqdm.write(
                f"no NIQE for {counted(len(names), 'validation image')} with fewer than two blocks of 96x96 pixels with "
                f"texture: {shown}",
                file=sys.stderr,
            )
        self._told = True

    def _keep_best(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        name = best_metric(self.best_name, self.scores)
        if name not in self.scores:  # no image has it
            return
        value = self.scores[name]
        by = (name, self._measured_on(name))
        if self.best is not None and self.best_by not in (None, by):
            self._forget_best(trainer, by)
        self.best_by = by
        lower = lower_is_better(name)
        if self.best is None or math.isnan(self.best) or (value < self.best if lower else value > self.best):
            self.best, self.best_step = value, step
            if trainer.is_global_zero:
                self.export(task, self.folder / "best.safetensors", self.scores, step)

    def _measured_on(self, metric: str) -> str:
        """Return a digest of all that a metric's score depends on besides the network: images, and ``basis`` of the metric."""
        assert self.images is not None
        name, _, rest = metric.partition("/")
        digest = hashlib.blake2b(self.basis.get(rest.rpartition("/")[2], "").encode(), digest_size=8)
        for set_name in self.means.get(name, [name]):
            pairs = self.images.sets[set_name]
            digest.update(f"x{pairs.scale}\n".encode())
            for i, key in enumerate(pairs.keys):
                digest.update(f"{key} {pairs.hr_size(i)}\n".encode())
        return digest.hexdigest()

    def _forget_best(self, trainer: L.Trainer, by: tuple[str, str]) -> None:
        """Forget the best score, because it cannot be compared with scores of another metric or other images."""
        assert self.best_by is not None
        if trainer.is_global_zero:
            before = self.best_by[0] if self.best_by[0] != by[0] else f"{by[0]} on other images or with another network"
            tqdm.write(
                f"best.safetensors is chosen by {by[0]} from now on; the best network by {before} ({self.best:.3f} at step "
                f"{self.best_step}) is replaced",
                file=sys.stderr,
            )
        self.best, self.best_step = None, -1

    def _picture(self, trainer: L.Trainer, image: EvalImage, sr: torch.Tensor, step: int) -> None:
        picture = comparison(image, sr, self.crop)
        name = f"{image.set}-{image.key}".replace("/", "-")
        folder = self.folder / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"step_{step:08d}.png", picture)
        parts = "lr_bicubic_sr" if image.hr is None else "lr_bicubic_sr_hr"
        log_picture(trainer, f"{parts}/{name}", picture, step)


def _call(trainer: L.Trainer, task: SRTask, hook: str) -> None:
    """Call a hook on all callbacks and the task, as Lightning's validation does."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            getattr(callback, hook)(trainer, task)
        except RuntimeError as error:
            if not isinstance(callback, EarlyStopping):
                raise
            raise ValueError(f"{type(callback).__name__}: {error}") from None  # its metric is missing
    getattr(task, hook)()


def _gather(trainer: L.Trainer, mine: list[Any]) -> list[Any]:
    """Return the lists of all ranks, joined to one list. All ranks must call this function."""
    if trainer.world_size == 1:
        return mine
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return [item for part in parts for item in part]
