"""Loggers of a run's numbers: ``metrics.csv``, TensorBoard and Weights & Biases, all exact after a resume.

A logger may have two methods that Lightning does not know: ``resume(step)`` is called at the start of a sitting, with the step
of the checkpoint that it continues from, ``checkpointed(step)`` after each checkpoint.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from sr_train.files import write_bytes
from sr_train.runs.metrics import HEADER, read_rows, rows_text


def log_picture(trainer: L.Trainer, name: str, picture: NDArray[np.uint8], step: int) -> None:
    """Show a picture [H, W, 3] in every logger that takes one; of others a warning reports once that they do not.

    Lightning's loggers take a list of pictures: ``log_image(key, images, step)``.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        own: Any = getattr(logger, "log_image", None)
        if isinstance(logger, TakesPictures):
            logger.log_picture(name, picture, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif own is not None:
            given = {"key": name, "images": [picture], "step": step}
            try:
                inspect.signature(own).bind(**given)
            except TypeError:
                kind = type(logger).__name__
                text = f"{kind}.log_image does not take (key, images, step), as Lightning's loggers do: it shows no pictures"
                warnings.warn(text, stacklevel=2)
                continue
            own(**given)


@runtime_checkable
class TakesPictures(Protocol):
    """A logger that shows pictures."""

    def log_picture(self, name: str, picture: NDArray[Any], step: int) -> None:
        """Show a picture [H, W, 3] uint8."""
        ...


@runtime_checkable
class FollowsCheckpoints(Protocol):
    """A logger that keeps numbers back until a checkpoint covers them."""

    def checkpointed(self, step: int) -> None:
        """A checkpoint holds the first ``step`` steps."""
        ...


class MetricsCsv(Logger):
    """``metrics.csv``: one number a row, ``step,name,value``.

    Lightning's CSVLogger deletes its file when a run resumes. This one cuts the rows beyond the checkpoint and appends.

    Args:
        folder: of the stage.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"

    @property
    def name(self) -> str:
        """Of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one file a stage."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The config is in ``config.yaml``."""

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Keep the rows up to ``step``; the run writes the others again."""
        rows = [r for r in read_rows(self.path) if r[0] <= step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, rows_text([HEADER, *rows]).encode())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append numbers; values are written so that reading them gives the same number."""
        if not self.path.exists():
            self.resume(-1)
        lines = "".join(f"{step},{name},{float(value)!r}\n" for name, value in metrics.items())
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None


_print_traceback = threading.excepthook


def _quiet(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer thread hands its error to our next call, which reports it; its traceback says nothing more."""
    ours = isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")
    if not ours:
        _print_traceback(failed)


class TensorBoard(Logger):
    """Event files in the stage's folder itself; numbers beyond the checkpoint are purged on resume.

    Args:
        folder: of the stage.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self._purge: int | None = None
        self._writer: SummaryWriter | None = None

    @property
    def name(self) -> str:
        """Of the logger."""
        return "tensorboard"

    @property
    def version(self) -> str:
        """There is one event history a stage."""
        return ""

    @property
    def writer(self) -> SummaryWriter:
        """The event writer, opened on first use. Rank 0 only."""
        if self._writer is None:
            threading.excepthook = _quiet
            self._writer = SummaryWriter(self.folder, purge_step=self._purge)
        return self._writer

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A full disk names no file by itself."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), self.folder) from None

    def resume(self, step: int) -> None:
        """Tell TensorBoard to forget what lies beyond ``step``."""
        self._purge = step + 1

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The config is in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One scalar a name."""
        with self._named():
            for name, value in metrics.items():
                self.writer.add_scalar(name, float(value), step)

    @rank_zero_only
    def log_picture(self, name: str, picture: NDArray[Any], step: int) -> None:
        """Show a picture [H, W, 3] uint8."""
        with self._named():
            self.writer.add_image(name, picture, step, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        """Flush."""
        if self._writer is not None:
            with self._named():
                self._writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush and close."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._named():
                try:
                    if status == "success":  # close() alone does not tell that the writer's thread has failed
                        writer.flush()
                finally:
                    writer.close()
