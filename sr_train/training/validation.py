"""Validation inside training: whole images scored by named protocols, the best network kept, pictures to look at."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from numpy.typing import NDArray
from tqdm import tqdm

from sr_train.batch import to_float
from sr_train.data.dataset import EvalImage, EvalImages
from sr_train.data.images import write_image
from sr_train.devices import memory_is_full
from sr_train.inference.tiling import MemoryFullError
from sr_train.metrics.functional import quantize
from sr_train.metrics.meter import Meter
from sr_train.models.bicubic import Bicubic
from sr_train.tasks.base import SRTask
from sr_train.training.loggers import log_picture
from sr_train.training.step_callback import StepCallback, log_numbers

Exporter = Callable[[SRTask, Path, dict[str, float], int], object]

Metric = Callable[[torch.Tensor, torch.Tensor], float]  #: ([3, H, W] result, HR), on one device; lower is better

PERCEPTUAL = "perceptual"  #: what perceptual metrics stand under, where PSNR and SSIM have a protocol


class Validate(StepCallback):
    """Scores whole images every ``every`` steps and at the end, in fp32, the images shared out among the ranks.

    Of clips every frame is scored, with its window; a set's score is the mean over clips of the means over frames.

    Args:
        images: what to score; none turns validation off.
        every: steps.
        last: the step that the stage ends at.
        best: metric that ``best.safetensors`` is chosen by, e.g. ``set5/y/psnr``; default: the first set's first protocol,
            of several scales their mean.
        export: writes the network that counts: (task, file, scores, step).
        folder: of the stage.
        pictures: how many images, of each scale, are shown as LR | bicubic | SR | HR, in TensorBoard and ``images/``.
        crop: side of their crops, in HR pixels.
        metrics: which of the protocols' are kept: ``psnr``, ``ssim``.
        perceptual: others by name, e.g. LPIPS.
        means: name of a mean -> the sets it is of, e.g. ``set5_mean`` of ``set5_x2``, ``set5_x3``, ``set5_x4``.
        basis: name of a metric -> what else its value depends on, e.g. the file of LPIPS: with another one, scores cannot be
            compared.
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
        perceptual: Mapping[str, Metric] | None = None,
        means: Mapping[str, Sequence[str]] | None = None,
        basis: Mapping[str, str] | None = None,
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
        self._shown = set() if images is None else set(images.shown(pictures))
        self.best: float | None = None
        self.best_step = -1
        self.best_by: tuple[str, str] | None = None  #: the metric of ``best``, and a digest of what it was measured on
        self.scores: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best so far, the metric that it was chosen by, and the newest scores."""
        by = None if self.best_by is None else list(self.best_by)
        return {"best": self.best, "best_step": self.best_step, "best_by": by, "scores": dict(self.scores)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the best so far."""
        self.best, self.best_step, self.scores = state_dict["best"], state_dict["best_step"], dict(state_dict["scores"])
        by = state_dict.get("best_by")  # earlier checkpoints have none
        self.best_by = None if by is None else (by[0], by[1])

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Validate where it is time to."""
        if self.images is not None and (step % self.every == 0 or step == self.last):
            for hook in ("on_validation_start", "on_validation_epoch_start"):
                _call(trainer, task, hook)
            self.run(trainer, task, step)
            for hook in ("on_validation_epoch_end", "on_validation_end"):
                _call(trainer, task, hook)

    def run(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Score all images, log, keep the best."""
        assert self.images is not None
        mine: list[tuple[int, str, str, str, dict[str, dict[str, float]]]] = []
        for number in range(trainer.global_rank, len(self.images), trainer.world_size):
            image = self.images[number]
            with naming_the_image(image):
                sr = task.upscale(image)
                mine.append((number, image.set, image.key, image.clip, self._score(task, image, sr)))
            if number in self._shown:
                self._picture(trainer, image, sr, step)
        meter = Meter()
        for _, set_name, key, clip, scores in sorted(_gather(trainer, mine)):
            for protocol, values in scores.items():
                meter.add(set_name, key, protocol, values, clip)
        scores = dict(meter.flat())
        self.scores = {**_means(scores, self.means), **scores}
        log_numbers(trainer, self.scores, step)
        if trainer.is_global_zero:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in self.scores.items() if not k.endswith("ssim"))
            tqdm.write(f"step {step}: {shown}", file=sys.stderr)
        self._keep_best(trainer, task, step)

    def _score(self, task: SRTask, image: EvalImage, sr: torch.Tensor) -> dict[str, dict[str, float]]:
        scores = {
            p: {m: v for m, v in found.items() if m in self.metrics} for p, found in task.score(image, sr).items()
        }
        if self.perceptual:
            a, b = sr.to(task.device), image.hr.to(task.device)
            scores[PERCEPTUAL] = {name: measure(a, b) for name, measure in self.perceptual.items()}
        return {protocol: values for protocol, values in scores.items() if values}

    def _keep_best(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        name = best_metric(self.best_name, self.scores)
        value = self.scores[name]
        by = (name, self._measured_on(name))
        if self.best is not None and self.best_by not in (None, by):
            self._begin_anew(trainer, by)
        self.best_by = by
        lower = f"/{PERCEPTUAL}/" in name  # is better
        if self.best is None or math.isnan(self.best) or (value < self.best if lower else value > self.best):
            self.best, self.best_step = value, step
            if trainer.is_global_zero:
                self.export(task, self.folder / "best.safetensors", self.scores, step)

    def _measured_on(self, metric: str) -> str:
        """A digest of the images that a metric is measured on, and of what else its value depends on."""
        assert self.images is not None
        name, _, rest = metric.partition("/")
        digest = hashlib.blake2b(self.basis.get(rest.rpartition("/")[2], "").encode(), digest_size=8)
        for of in self.means.get(name, [name]):
            pairs = self.images.sets[of]
            digest.update(f"x{pairs.scale}\n".encode())
            for i, key in enumerate(pairs.keys):
                digest.update(f"{key} {pairs.hr_size(i)}\n".encode())
        return digest.hexdigest()

    def _begin_anew(self, trainer: L.Trainer, by: tuple[str, str]) -> None:
        """Forget the best: it cannot be compared with scores of another metric."""
        assert self.best_by is not None
        if trainer.is_global_zero:
            before = self.best_by[0] if self.best_by[0] != by[0] else f"{by[0]} of other images or another network"
            tqdm.write(
                f"best.safetensors: is chosen by {by[0]} from here on; the best by {before}, {self.best:.3f} at step "
                f"{self.best_step}, is replaced",
                file=sys.stderr,
            )
        self.best, self.best_step = None, -1

    def _picture(self, trainer: L.Trainer, image: EvalImage, sr: torch.Tensor, step: int) -> None:
        picture = comparison(image, sr, self.crop)
        name = f"{image.set}-{image.key}".replace("/", "-")
        folder = self.folder / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"step_{step:08d}.png", picture)
        log_picture(trainer, f"lr_bicubic_sr_hr/{name}", picture, step)


def _call(trainer: L.Trainer, task: SRTask, hook: str) -> None:
    """Call a hook of Lightning's on all callbacks and the task, as its own validation would."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            getattr(callback, hook)(trainer, task)
        except RuntimeError as error:
            if not isinstance(callback, EarlyStopping):
                raise
            raise ValueError(f"{type(callback).__name__}: {error}") from None  # its metric is not measured
    getattr(task, hook)()


@contextmanager
def naming_the_image(image: EvalImage) -> Iterator[None]:
    """Name the image in an error of its validation, and say what helps where it does not fit into memory."""
    try:
        yield
    except MemoryFullError as error:
        raise ValueError(
            f"validation: {image.set}: {image.key}: {error}; leave it out of the set, or cut it up"
        ) from None
    except ValueError as error:
        raise ValueError(f"validation: {image.set}: {image.key}: {error}") from None
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        size = "x".join(map(str, image.hr.shape[:0:-1]))
        raise ValueError(
            f"validation: {image.set}: {image.key}: the memory is full while its {size} pixels are scored; leave lpips out of "
            "validate.metrics, or the image out of the set"
        ) from None


def best_metric(chosen: str | None, scores: Mapping[str, float]) -> str:
    """Return the name of the score that ``best.safetensors`` is chosen by: ``validate.best``, else the first PSNR."""
    return chosen or next((n for n in scores if n.endswith("psnr")), next(iter(scores), ""))


def _means(scores: Mapping[str, float], means: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """``NAME/protocol/metric`` of each mean, from those of its sets."""
    found = {}
    for name, sets in means.items():
        rests = [key.partition("/")[2] for key in scores if key.startswith(f"{sets[0]}/")]
        found |= {f"{name}/{rest}": sum(scores[f"{s}/{rest}"] for s in sets) / len(sets) for rest in rests}
    return found


def _gather(trainer: L.Trainer, mine: list[Any]) -> list[Any]:
    """Every rank's list, joined."""
    if trainer.world_size == 1:
        return mine
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def comparison(image: EvalImage, sr: torch.Tensor, crop: int) -> NDArray[np.uint8]:
    """LR (pixels repeated) | bicubic | SR | HR, of an image's middle: [crop, 4 crop + gaps, 3] uint8.

    Of a window it is the centre frame.
    """
    scale = image.scale
    lr = to_float(image.centre).unsqueeze(0)
    repeated = lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)[0]
    bicubic = Bicubic(scale=scale)(lr)[0]
    height, width = image.hr.shape[-2:]
    side = min(crop, height, width)
    top, left = (height - side) // 2 // scale * scale, (width - side) // 2 // scale * scale
    parts = [quantize(x.cpu())[:, top : top + side, left : left + side] for x in (repeated, bicubic, sr, image.hr)]
    gap = torch.full((3, side, 4), 255.0, dtype=torch.float64)
    row = torch.cat([x for part in parts for x in (part, gap)][:-1], dim=-1)
    return row.permute(1, 2, 0).to(torch.uint8).numpy()
