"""Loggers for ``metrics.csv`` and TensorBoard. After a resume, their files contain every step exactly once.

:class:`StageLogger` says what a logger may do beyond Lightning's interface.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from sr_train.files import Lines
from sr_train.runs.metrics import HEADER, read_rows, rows_text
from sr_train.runs.resume import flatten


class StageLogger(Protocol):
    """Protocol of what a logger may do beyond Lightning's interface. Each method may be missing.

    A logger without these methods works as in Lightning: a resumed run repeats its entries after the checkpoint, and
    pictures are sent to its ``log_image(key, images, step)`` if it has one.
    """

    def resume(self, step: int) -> None:
        """Forget all entries after ``step``, because the run continues from this step and writes them again.

        It is called once before training, with 0 for a new run.
        """
        ...

    def checkpointed(self, step: int) -> None:
        """Do what may be done only when a checkpoint includes all steps up to ``step``, e.g. send their entries."""
        ...

    def log_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show a picture [H, W, 3] uint8 in the log."""
        ...


def method(logger: object, name: Literal["resume", "checkpointed", "log_picture"]) -> Callable[..., None] | None:
    """Return a logger's method of :class:`StageLogger`; None if the logger does not have it."""
    return getattr(logger, name, None)


def log_picture(trainer: L.Trainer, name: str, picture: NDArray[np.uint8], step: int) -> None:
    """Send a picture [H, W, 3] uint8 to every logger that can show pictures.

    Lightning's loggers have a method ``log_image(key, images, step)``. Warn about a logger whose ``log_image`` has
    other arguments.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        own: Any = getattr(logger, "log_image", None)
        if (show := method(logger, "log_picture")) is not None:
            show(name, picture, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif own is not None:
            given = {"key": name, "images": [picture], "step": step}
            try:
                inspect.signature(own).bind(**given)
            except TypeError:
                kind = type(logger).__name__
                text = f"{kind}.log_image does not accept (key, images, step) as Lightning's loggers do: pictures are not sent"
                warnings.warn(text, stacklevel=2)
                continue
            own(**given)


class MetricsCsv(Logger, StageLogger):
    """Logger of ``metrics.csv``: one number per row, ``step,name,value``.

    Lightning's CSVLogger deletes its file when a run resumes. This logger removes only rows of later steps than the
    checkpoint, and appends new rows. Rows that a shared file system does not accept at once are kept in memory and
    written later.

    Args:
        folder: folder of the stage.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._lines = Lines(self.path)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Version for Lightning: an empty string, because there is one file per stage."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the config is in ``config.yaml``."""

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Remove the rows of later steps than ``step``, because the resumed run writes them again."""
        rows = [r for r in read_rows(self.path) if r[0] <= step]
        self._lines.replace(rows_text([HEADER, *rows]))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row for each number, in full precision, to ``metrics.csv``."""
        if not self._lines.kept and not self.path.exists():
            self.resume(-1)
        self._lines.append("".join(f"{step},{name},{float(value)!r}\n" for name, value in metrics.items()))

    @rank_zero_only
    def checkpointed(self, step: int) -> None:
        """Write the rows that are kept in memory, because a run that resumes from this checkpoint does not write them again."""
        self._lines.append("")

    def log_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Do nothing: pictures are in the folder ``images``."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rows that are kept in memory.

        If they cannot be written, raise OSError, unless the run failed before.
        """
        if status == "success":
            self._lines.flush()
        else:
            self._lines.append("")


_print_traceback = threading.excepthook


def _quiet(failed: threading.ExceptHookArgs) -> None:
    """Hide the traceback of an error in TensorBoard's writer thread.

    The next call of the writer raises the same error.
    """
    ours = isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")
    if not ours:
        _print_traceback(failed)


class TensorBoard(Logger, StageLogger):
    """Logger of TensorBoard's event files in the stage's folder.

    When a run is resumed, numbers of later steps than the checkpoint are hidden in TensorBoard.

    Args:
        folder: folder of the stage.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self._purge: int | None = None
        self._writer: SummaryWriter | None = None
        self._config: dict[str, bool | int | float | str] = {}
        self._scores: dict[str, float] = {}  # newest scores of validation

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "tensorboard"

    @property
    def version(self) -> str:
        """Version for Lightning: an empty string, because there is one history per stage."""
        return ""

    @property
    def writer(self) -> SummaryWriter:
        """Writer of event files, opened at its first use, on rank 0 only."""
        if self._writer is None:
            threading.excepthook = _quiet
            self._writer = SummaryWriter(self.folder, purge_step=self._purge)
        return self._writer

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Add the folder's name to an OSError that is raised in the ``with`` block."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), self.folder) from None

    def resume(self, step: int) -> None:
        """Let the event writer hide the numbers of later steps than ``step``."""
        self._purge = step + 1

    def checkpointed(self, step: int) -> None:
        """Do nothing: later numbers are hidden by :meth:`resume`."""

    def log_hyperparams(self, params: Any = None, **_: Any) -> None:
        """Keep the config, which is written with the final scores for TensorBoard's page of hyperparameters."""
        flat = flatten(params or {})
        self._config = {
            k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in flat.items() if "folder" not in k
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the numbers of a step to TensorBoard's event file, one scalar for each name."""
        self._scores |= {name: float(value) for name, value in metrics.items() if name.count("/") == 2}
        with self._named():
            for name, value in metrics.items():
                self.writer.add_scalar(name, float(value), step)

    @rank_zero_only
    def log_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a picture [H, W, 3] uint8 to TensorBoard's event file."""
        with self._named():
            self.writer.add_image(name, picture, step, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        """Flush the writer."""
        if self._writer is not None:
            with self._named():
                self._writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush and close the writer."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._named():
                try:
                    if status == "success" and self._config and self._scores:
                        for summary in hparams(self._config, {f"final/{k}": v for k, v in self._scores.items()}):
                            writer._get_file_writer().add_summary(summary)
                        for name, value in self._scores.items():
                            writer.add_scalar(f"final/{name}", value)
                    if status == "success":  # close() alone does not raise the error of the writer's thread
                        writer.flush()
                finally:
                    writer.close()
