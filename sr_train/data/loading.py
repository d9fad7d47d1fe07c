"""Loading of training batches in other processes. An error in such a process is raised as one LoaderError."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from sr_train.batch import Batch
from sr_train.console import is_users_error, message_of

_LOST = "DataLoader worker"  # part of torch's message for a process that has ended


class LoaderError(ValueError):
    """Training data that cannot be loaded; the message names the image or the source."""


class _ProcessError(Exception):
    """Traceback of a loader process, as the cause of a :class:`LoaderError`; SR_DEBUG=1 prints it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Failure(NamedTuple):
    """Error of a loader process, which the process returns instead of a batch."""

    message: str
    trace: str


class Reported(Dataset[Batch]):
    """Dataset that returns an error as a :class:`Failure`.

    If it were raised, torch would put a traceback before the message.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, position: int) -> Any:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Any:
        """Return the batch of the samples at ``positions``, or a :class:`Failure` if an error occurs."""
        try:
            return self.dataset.__getitems__(positions)
        except Exception as error:
            kind = "" if is_users_error(error) else f"{type(error).__name__}: "
            return Failure(f"{kind}{message_of(error)}", traceback.format_exc())


class Loader(DataLoader[Batch]):
    """Loader that raises the error of a loader process as :class:`LoaderError`."""

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride] - torch's is an iterator too
        for batch in super().__iter__():
            if isinstance(batch, Failure):
                raise LoaderError(batch.message) from _ProcessError(batch.trace)
            yield batch


@contextmanager
def explaining_lost_processes() -> Generator[None]:
    """Raise LoaderError with remedies if a loader process has been killed.

    torch can raise its own error at any place of the training loop, so the whole loop runs inside this context.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(_LOST):
            raise
        raise LoaderError(
            f"data.workers: a process that loads images has ended ({' '.join(str(error).split())}). If memory or /dev/shm is "
            "full, give fewer data.workers or a smaller data.prefetch_factor"
        ) from error


def passthrough(batch: Batch) -> Batch:
    """Return the batch unchanged.

    This function is the collate function of the training datasets, whose items are whole batches.
    """
    return batch


def one_thread(_: int) -> None:
    """Limit a loader worker to one thread and make it ignore signals.

    The function is in this module so that a spawned worker process does not import Lightning.
    """
    torch.set_num_threads(1)
    # timeout, systemd and scancel signal the whole process group; only the training process reacts, with a checkpoint.
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has two of them
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(0)
