"""``profile=true``: timing of the first steps of a run. It changes neither the weights nor the order of the data.

During the measured steps the trainer's profiler is a :class:`~sr_train.training.profiling.step_timer.StepTimer`. Rare
parts are a log entry, a validation and a checkpoint. A rare part is timed if it occurs in the measured steps; otherwise
it is run once for timing after them. The report contains the average time of a rare part per step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch.profiler import ProfilerActivity
from tqdm import tqdm

from sr_train.data.module import SRData
from sr_train.data.sources import FileSource
from sr_train.files import write_bytes
from sr_train.tasks.base import SRTask
from sr_train.training.callbacks import StepLog
from sr_train.training.checkpointing import Checkpoints, CheckpointWriter, dump
from sr_train.training.loggers import MetricsCsv, TensorBoard
from sr_train.training.profiling.exchange import Exchange
from sr_train.training.profiling.report import (
    BACKWARD,
    CHECKPOINT,
    COMMUNICATION,
    LOGGING,
    PARTS,
    VALIDATION,
    Profile,
    Rare,
    Setup,
    advise,
    csv,
    spread,
    table,
)
from sr_train.training.profiling.step_timer import Marks, StepTimer
from sr_train.training.step_callback import StepCallback
from sr_train.training.validation import Validate

WARM_UP = 3  #: steps before the measured ones, in which workers start, caches fill and kernels are chosen

TRACED = 3  #: steps in the trace, after the measured ones, because tracing makes steps slower

_AT_LEAST = 0.5  # minimum of seconds for timing the loader alone


class StepProfiler(StepCallback):
    """Callback for ``profile=true``: measures ``steps`` steps after a warm-up, traces a few more, and prints a report.

    It also times the rare parts (log entry, validation, checkpoint). The callback must come after the callbacks that it
    measures. Weights, logs and the order of the data are the same as in a run without this callback.

    Args:
        folder: folder of the stage; the results are written to the folder ``profile/`` in this folder.
        steps: number of measured steps.
        record: callback that logs.
        validate: callback that validates.
        checkpoints: callback that writes checkpoints.
        native_bf16: true if the hardware has bf16 instructions.
        compiled: true if the network is compiled.
    """

    def __init__(
        self,
        *,
        folder: str,
        steps: int,
        record: StepLog,
        validate: Validate,
        checkpoints: Checkpoints,
        native_bf16: bool,
        compiled: bool,
    ) -> None:
        super().__init__()
        self.folder = Path(folder) / "profile"
        self.steps = steps
        self.record = record
        self.validate = validate
        self.checkpoints = checkpoints
        self.native_bf16 = native_bf16
        self.compiled = compiled
        self.rows: list[tuple[int, dict[str, float]]] = []  #: (step, seconds by part)
        self._first = 0
        self._timer: StepTimer | None = None
        self._exchange: Exchange | None = None
        self._trace: torch.profiler.profile | None = None
        self._before: Any = None
        self._done = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count steps at the step of the checkpoint from which the run continues."""
        super().on_train_start(trainer, pl_module)
        self._first = trainer.global_step
        self._before = cast("Any", trainer).profiler

    def on_step_end(self, trainer: L.Trainer, task: SRTask, step: int) -> None:
        """Advance the profile after a step: start the timer after the warm-up, read it, or start the trace and the report."""
        if self._done:
            return
        done = step - self._first
        if self._timer is not None:
            self.rows.append((step, self._timer.take()))
            assert self._exchange is not None
            self._exchange.read()
        if done == WARM_UP + self.steps:
            self._timer = None
            self._open_trace(trainer)
        elif done == WARM_UP + self.steps + TRACED:
            self._close(trainer, task)
        elif done == WARM_UP:
            self._timer, self._exchange = StepTimer(task.device), Exchange(trainer)
            trainer.profiler = self._timer  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the report if the run ends before all steps are measured. If the run was stopped, print no report."""
        if self._done:
            return
        if trainer.should_stop:
            self._end(trainer)
        else:
            self._close(trainer, cast("SRTask", pl_module))

    def _open_trace(self, trainer: L.Trainer) -> None:
        trainer.profiler = self._before  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.is_global_zero:
            os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # otherwise it reports a missing GPU as an error
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._trace = torch.profiler.profile(activities=activities)
            self._trace.start()
            trainer.profiler = Marks()  # pyright: ignore[reportAttributeAccessIssue]

    def _end(self, trainer: L.Trainer) -> torch.profiler.profile | None:
        """Stop the measurement: restore the trainer's profiler, and return the stopped trace, if there is one."""
        trainer.profiler = self._before  # pyright: ignore[reportAttributeAccessIssue]
        self._timer, self._done = None, True
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.stop()
        return trace

    def _close(self, trainer: L.Trainer, task: SRTask) -> None:
        """Time the rare parts (log entry, validation, checkpoint), write the files of the profile, and print the report."""
        trace = self._end(trainer)
        self.folder.mkdir(parents=True, exist_ok=True)
        if trace is not None:
            trace.export_chrome_trace(str(self.folder / "trace.json"))
        if not self.rows:
            if trainer.is_global_zero:
                tqdm.write(
                    f"profile: no step was measured, because the run ended within the {WARM_UP} steps of the warm-up"
                )
            return
        setup = self._setup(trainer, task)
        with torch.random.fork_rng(devices=[]):  # a loader always draws a seed for its workers
            profile = self._profile(trainer, task)
        if trainer.is_global_zero:
            self._report(profile, setup, traced=trace is not None)

    def _setup(self, trainer: L.Trainer, task: SRTask) -> Setup:
        data = cast("SRData", trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        files = [[s for s in (pairs.hr, pairs.lr) if isinstance(s, FileSource)] for pairs in data.sources]
        memory = None
        if task.device.type == "cuda":
            memory = (torch.cuda.max_memory_reserved(task.device), torch.cuda.mem_get_info(task.device)[1])
        return Setup(
            pairs=data.batch,
            workers=data.workers,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            decoded=sum(any(not s.cache for s in sources) for sources in files),
            reduced=sum(pairs.lr is None and getattr(pairs, "maker", None) is None for pairs in data.sources),
            precision=str(trainer.precision),
            native_bf16=self.native_bf16,
            compiled=self.compiled,
            exchange=None if (found := self._exchanged()) is None else (trainer.world_size, found[0]),
            fused=bool(trainer.optimizers[0].defaults.get("fused")),
            memory=memory,
        )

    def _exchanged(self) -> tuple[float, float] | None:
        return None if self._exchange is None else self._exchange.means()

    def _profile(self, trainer: L.Trainer, task: SRTask) -> Profile:
        count = len(self.rows)
        parts = {p: sum(row[p] for _, row in self.rows) / count for p in PARTS}
        if (
            exchanged := self._exchanged()
        ) is not None:  # Lightning counts the wait for gradients as a part of backward
            parts[COMMUNICATION] = min(exchanged[1], parts[BACKWARD])
            parts[BACKWARD] -= parts[COMMUNICATION]
        rare: dict[str, Rare] = {}
        tries: list[tuple[str, int, int, Callable[[], float]]] = [
            (LOGGING, self.record.every, -1, lambda: self._try_logging(trainer, task)),
            (CHECKPOINT, self.checkpoints.every, self.checkpoints.last, lambda: self._try_checkpoint(trainer)),
        ]
        if self.validate.images is not None:
            tries.append(
                (VALIDATION, self.validate.every, self.validate.last, lambda: self._try_validation(trainer, task))
            )
        for part, every, last, attempt in tries:
            due = [step % every == 0 or step == last for step, _ in self.rows]
            tried = 0.0 if any(due) else attempt()
            parts[part], rare[part] = spread([row[part] for _, row in self.rows], due, every, tried)
        loader = loader_alone(cast("SRData", trainer.datamodule), count)  # pyright: ignore[reportAttributeAccessIssue]
        walls = [sum(seconds for part, seconds in row.items() if part not in rare) for _, row in self.rows]
        return Profile(self.rows[0][0], self.rows[-1][0], parts, rare, loader * trainer.world_size, walls)

    def _try_logging(self, trainer: L.Trainer, task: SRTask) -> float:
        """Return the seconds of a log entry, measured by logging the step's numbers to temporary files."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            scratch = [type(x)(folder=folder) for x in trainer.loggers if isinstance(x, MetricsCsv | TensorBoard)]
            seconds = 0.0
            for i in range(2):  # the first opens the files
                start = time.perf_counter()
                numbers = {name: float(value) for name, value in task.numbers.items()}
                for logger in scratch:
                    logger.log_metrics(numbers, i)
                seconds = time.perf_counter() - start
            for logger in scratch:
                logger.finalize("success")
        return seconds

    def _try_checkpoint(self, trainer: L.Trainer) -> float:
        """Return the seconds in which training waits for a checkpoint. The written checkpoint is removed.

        All ranks must call this method.
        """
        folder, seconds = self.folder / "trial", 0.0
        writer = CheckpointWriter(folder, 2)
        for step in range(2):  # the first allocates the memory of the copy
            start = time.perf_counter()
            content = dump(trainer)
            if trainer.is_global_zero:
                writer.start(content, step)
                seconds = time.perf_counter() - start
                writer.collect(wait=True)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            shutil.rmtree(folder)
        return seconds

    def _try_validation(self, trainer: L.Trainer, task: SRTask) -> float:
        """Return the seconds of a validation, estimated from the time of one image and the sizes of all images."""
        images = self.validate.images
        assert images is not None
        pixels = [images.pixels(i) for i in range(len(images))]
        start = time.perf_counter()
        image = images[0]
        task.score(image, task.upscale(image))
        return (time.perf_counter() - start) * sum(pixels) / pixels[0] / trainer.world_size

    def _report(self, profile: Profile, setup: Setup, *, traced: bool) -> None:
        lines = [f"profile of steps {profile.first} to {profile.last}, {setup.precision}", *table(profile, setup)]
        lines += [f"  {line}" for text in advise(profile, setup) for line in text.splitlines()]
        files = f"{self.folder}: profile.csv" + (", trace.json (open it in ui.perfetto.dev)" if traced else "")
        write_bytes(self.folder / "profile.txt", "\n".join([*lines, ""]).encode())
        write_bytes(self.folder / "profile.csv", csv(profile).encode())
        tqdm.write("\n".join([*lines, f"  {files}"]))


def loader_alone(data: SRData, steps: int) -> float:
    """Return the training pairs per second of this device's loader when nothing else runs, measured with separate workers.

    The run's own loader is not affected, because random choices depend only on the position (number of the sample).
    """
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(data.prefetch * data.workers + 1):  # skip batches that were loaded while the workers started
        next(batches)
    start, pairs, count = time.perf_counter(), 0, 0
    while count < steps * data.accumulate or time.perf_counter() - start < _AT_LEAST:
        pairs += len(next(batches)["key"])
        count += 1
    return pairs / (time.perf_counter() - start)
