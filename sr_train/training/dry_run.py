"""``check=true`` and ``check=full``: test all parts of a run in about a minute, without changes on disk."""

from __future__ import annotations

import contextlib
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import nn

from sr_train.config.plan import Plan
from sr_train.console import counted, listed, say
from sr_train.data.dataset import EvalImages
from sr_train.data.doctor.run import run_check
from sr_train.data.doctor.specs import specs_of_data
from sr_train.data.images import limit_pixels
from sr_train.data.lone import is_lone
from sr_train.data.module import SRData
from sr_train.evaluation.metrics import perceptual_scores
from sr_train.models.frozen_features import FrozenFeatures
from sr_train.tasks.base import SRTask
from sr_train.training.cluster import Processes
from sr_train.training.image_errors import naming_the_image
from sr_train.training.multiply_adds import multiply_adds
from sr_train.training.pair_sheet import write_sheet
from sr_train.training.parallel import prepare_networks
from sr_train.training.preflight import Prepared, preflight
from sr_train.training.stage import build_task
from sr_train.training.step_callback import StepCallback
from sr_train.training.step_memory import describe_step
from sr_train.training.trainer import advising_less_memory, build_trainer
from sr_train.training.warm_starts import Origin, find_origin
from sr_train.weights.export.openers import opened_by
from sr_train.weights.open import finished_file, full_arguments

_STEPS, _SECONDS = 6, 20.0  # limits of the timed steps

_ROW = 40  # bytes of a row of metrics.csv and of a number in TensorBoard's file


class Finding(NamedTuple):
    """Time and disk space that a stage will need."""

    seconds: float
    bytes: int


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux: reset the high-water mark of this process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> tuple[int, str]:
    """Return the peak memory in bytes since :func:`_reset_peak`, and a text for the device or process that it belongs to."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "of the GPU"
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024, "of the training process"
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "of the training process so far"


class _Timing(StepCallback):
    """Callback that stores the seconds of each step, and stops the training after ``_SECONDS``."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.since = self.start = time.perf_counter()

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        now = time.perf_counter()
        self.times.append(now - self.since)
        self.since = now
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(now - self.start > _SECONDS, all=False)


def _few_steps(config: Mapping[str, Any], task: SRTask, data: SRData, processes: Processes) -> list[float]:
    """Train a few steps, at least one for each scale, with a trainer like the run's.

    Return the seconds of each step.
    """
    steps = _STEPS if data.step_scales is None else max(_STEPS, data.step_scales.until_all())
    steps, timing = min(steps, int(config["trainer"]["max_steps"])), _Timing()
    few = {**config, "trainer": {**config["trainer"], "max_steps": steps}, "logger": {}}
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(few, [timing], Path(folder), processes)
        prepare_networks(task, config["trainer"]["sync_batchnorm"], trainer.world_size)
        data.per_device(trainer.world_size)
        data.stage = None  # check=true copies nothing
        with advising_less_memory():
            trainer.fit(task, datamodule=data)
    return timing.times


def _size(values: Iterable[object]) -> int:
    """Return the total bytes of the tensors in ``values``."""
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))


def _disk(config: Mapping[str, Any], task: SRTask) -> tuple[int, str]:
    """Return the largest number of bytes that the stage will write, and a text that describes the files."""
    states = [task.state_dict(), *(state for o in task.trainer.optimizers for state in o.state.values())]
    checkpoint, weights = sum(_size(s.values()) for s in states), _size(task.averaged().state_dict().values())
    steps, validate = int(config["trainer"]["max_steps"]), config["validate"]
    scales = len(config["scales"] or [1])
    sets = config["data"]["val"] or {}
    kinds = len({is_lone(spec) for spec in sets.values()})  # images with HR and without have their own pictures
    validations = -(-steps // validate["every"]) * kinds
    pictures = validations * validate["pictures"] * scales * 4 * validate["crop"] ** 2 * 3 * 2  # PNG and TensorBoard
    rows = steps // config["record"]["every"] * 12 * _ROW * 2
    keep = config["checkpoint"]["keep"] + 1  # the oldest is removed after the newest is written
    total = keep * checkpoint + 2 * weights + pictures + rows
    return total, f"{keep} checkpoints of {_mb(checkpoint)}, 2 weights files of {_mb(weights)}, pictures and logs"


def _mb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.1f} days"


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _start(plan: Plan, prepared: Prepared) -> tuple[Origin | None, str]:
    """Return the weights from which the stage starts (an :class:`Origin`), and a text about them for the report.

    Return None and a text if the stage starts from random weights, or if the stage whose weights it needs is not
    finished. In the second case, only this check uses random weights.
    """
    source_stage = prepared.stage.config["init"]["stage"]
    if source_stage is not None:
        folder = next(s.folder for s in plan.stages if s.name == source_stage)
        if finished_file(folder) is None:
            return None, f"; with random weights for this check, because stage {source_stage} is not finished"
    source = find_origin(plan, prepared.stage, prepared.take_origin())
    return source, "" if source is None else f"; from {source.file}"


def _validation(task: SRTask, images: EvalImages, prepared: Prepared, steps: int) -> float:
    """Score the largest image of each scale; return the estimated seconds of a whole validation."""
    total, chosen = 0.0, prepared.chosen()
    by_scale: dict[int, list[int]] = {}
    for i in range(len(images)):
        by_scale.setdefault(images.scale(i), []).append(i)
    for numbers in by_scale.values():
        image = images[max(numbers, key=images.pixels)]
        start = time.perf_counter()
        with naming_the_image(image):
            sr = task.upscale(image)
            scores = task.score(image, sr)
            others = perceptual_scores(prepared.perceptual, chosen, sr, image.hr, image.scale, task.device)
        took = time.perf_counter() - start
        shown = [f"{p} {v['psnr']:.2f} dB" for p, v in scores.items()] + [f"{m} {v:.4g}" for m, v in others.items()]
        height, width = image.size
        say(
            f"  image     {image.set}/{image.key} {width}x{height}: {took:.2f} s; {', '.join(shown)} after {steps} steps"
        )
        total += took * sum(images.pixels(i) for i in numbers) / (height * width)
    return total


def _other_networks(task: SRTask) -> list[tuple[nn.Module, str]]:
    """Return the other networks that a step runs, with a word for each: the discriminator, and feature networks of the loss."""
    others = [(network, "discriminator") for network in task.networks()[1:]]
    return others + [(module, "features") for module in task.modules() if isinstance(module, FrozenFeatures)]


def check_stage(plan: Plan, prepared: Prepared, processes: Processes) -> Finding:
    """Test a stage, and print the memory, time and disk space that it needs.

    Raise ValueError if the stage cannot be trained on this machine.
    """
    stage, data, config = prepared.stage, prepared.data, prepared.stage.config
    source, note = _start(plan, prepared)
    task = build_task(config, stage.name, source, prepared.discriminator)
    task.shorten()
    count = sum(p.numel() for p in task.model.parameters())
    name = f"{type(task.model).__name__} {listed(stage.scales)}"
    say(f"stage {stage.name}: {name}, {config['trainer']['precision']}{note}")
    for scale in stage.scales:
        work = multiply_adds(config["model"], scale=scale)
        flops = f"{work / 1e9:,.1f} G multiply-adds ({2 * work / 1e9:,.1f} GFLOP)"
        branch = f"x{scale}: " if len(stage.scales) > 1 else ""
        say(f"  network   {count:,} parameters, {branch}{flops} for an output of 1280x720")
    say(f"  opens in  {opened_by(full_arguments(config['model']))}")
    for other, kind in _other_networks(task):
        say(f"  {kind:<9} {sum(p.numel() for p in other.parameters()):,} parameters ({type(other).__name__})")
    sets = ", ".join(f"{name} {len(pairs)}" for name, pairs in data.val.items()) or "none"
    say(
        f"  data      {sum(map(len, data.sources))} {data.sources[0].unit} for training, all sizes match; validation: {sets}"
    )
    times = _few_steps(config, task, data, processes)
    device = task.trainer.strategy.root_device
    kind, middle = ("mean", statistics.mean) if len(stage.scales) > 1 else ("median", statistics.median)
    step = middle(times[1:] or times)
    loss = float(task.numbers["train/loss"])
    say(f"  step      {step:.3f} s ({kind} of {len(times[1:] or times)}; the first {times[0]:.3f} s), loss {loss:.4g}")
    if task.refused:
        raise ValueError(
            f"stage {stage.name}: the loss or the gradient is not finite in {task.refused} of {len(times)} steps"
        )
    peak, of = _peak(device)
    seconds = step * int(config["trainer"]["max_steps"])
    images = data.val_images()
    if images is not None:
        task.to(device)
        validations = -(-int(config["trainer"]["max_steps"]) // config["validate"]["every"])
        seconds += validations * _validation(task, images, prepared, len(times)) / max(task.trainer.world_size, 1)
    whole, whole_of = max((peak, of), _peak(device))
    say(f"  memory    {_mb(peak)} in training, {_mb(whole)} with validation, {whole_of}")
    for line in describe_step(config):
        say(f"  tensors   {line}")
    size, text = _disk(config, task)
    free = _free(stage.folder)
    say(f"  disk      {_mb(size)} at most ({text}); {_mb(free)} are free")
    say(f"  time      about {_duration(seconds)} for {config['trainer']['max_steps']:,} steps with validation")
    task.cpu()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Finding(seconds, size)


def read_all_data(plan: Plan) -> int:
    """Read every image of the selected stages and print what is wrong. Return the number of errors."""
    stages = [stage.config for stage in plan.stages if stage.name in plan.selected]
    limit_pixels(stages[0]["max_pixels"])
    specs = [spec for config in stages for spec in specs_of_data(config["data"])]
    report = run_check(specs)
    if report.interrupted:
        raise KeyboardInterrupt
    return report.errors


def check_plan(plan: Plan, processes: Processes) -> None:
    """Test every selected stage: networks, warm starts, sources, sizes, steps, images. Nothing is written.

    With ``check=full`` all images are read first; the test ends there if one of them has an error.
    """
    if plan.stages[0].config["check"] == "full":
        errors = processes.ranks.decide("data", lambda: read_all_data(plan))
        if errors:
            raise ValueError(
                f"check=full: {counted(errors, 'error')} in the data, listed above; repair or remove the files. check=true "
                "tests the other parts of the run"
            )
    for note in plan.notes:
        say(note)
    stages, found = preflight(plan, processes), list[Finding]()
    written = write_sheet(plan, stages)
    while stages:
        _reset_peak(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        found.append(check_stage(plan, stages.pop(0), processes))
    size, free = sum(f.bytes for f in found), _free(plan.folder)
    if size > free:
        raise ValueError(
            f"{plan.folder}: the run needs up to {_mb(size)}, {_mb(free)} are free; free some disk space or set paths.runs=DIR"
        )
    total = _duration(sum(f.seconds for f in found))
    stages_found = "1 stage" if len(found) == 1 else f"{len(found)} stages"
    say(f"check passed: {stages_found}, about {total}, {_mb(size)} on disk at most; {written}")
