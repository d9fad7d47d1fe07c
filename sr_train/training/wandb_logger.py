"""Logger for Weights & Biases that sends the numbers of each step exactly once, even if a run is killed and resumed."""

from __future__ import annotations

import json
import os
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from sr_train.files import naming, write_bytes
from sr_train.runs.metrics import read_rows, rows_text
from sr_train.training.loggers import StageLogger


class WandB(WandbLogger, StageLogger):
    """Logger for Weights & Biases (W&B). There is one W&B run per stage, which the next process of the stage resumes.

    The id of the W&B run is in ``wandb.json`` in the stage's folder. A log entry is sent after a checkpoint includes
    its step, so it is sent only once even if the process is killed. The package wandb writes an entry about ten seconds
    later. Until then the numbers of the entry are also in ``wandb/pending.csv``, and the next process sends numbers
    that are missing. Pictures of the last seconds before a kill are lost.

    Args:
        save_dir: the stage's folder.
        project: W&B project on the server.
        name: name of the W&B run.
        entity: user or team at W&B.
        group: group of the W&B run.
        tags: tags of the W&B run.
        notes: notes of the W&B run.
        job_type: job type of the W&B run.
        offline: true to write only files, for a later ``wandb sync``; the same as WANDB_MODE=offline.
        options: other arguments of ``wandb.init``.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        project: str = "sr-train",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        job_type: str | None = None,
        offline: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        given = {
            "entity": entity,
            "group": group,
            "tags": tags,
            "notes": notes,
            "job_type": job_type,
            **(options or {}),
        }
        super().__init__(name=name, save_dir=save_dir, project=project, offline=offline, **given)
        self._folder = Path(save_dir)
        self._kept: dict[int, dict[str, Any]] = {}  # entries by step that no checkpoint includes yet
        self._covered = -1  # step of the newest checkpoint
        self._landed = -1  # W&B has all entries up to this step
        self._next = 0  # number of the next entry; W&B counts entries, not steps

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B run of the package wandb, started at its first use."""
        if self._experiment is None:
            state = self._state()
            self._wandb_init["id"] = state["id"]
            if self._is_offline():
                self._wandb_init["resume"] = None  # it causes a warning offline, where the id is sufficient
            (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
            self._experiment = WandbLogger.experiment.fget(self)  # pyright: ignore[reportOptionalCall, reportAttributeAccessIssue]
        return self._experiment

    def _is_offline(self) -> bool:
        mode = self._wandb_init.get("mode") or os.environ.get("WANDB_MODE")
        return self._offline or mode in ("offline", "dryrun")

    def _state(self) -> dict[str, Any]:
        """Return the content of ``wandb.json``: id of the W&B run, last step that W&B has, and number of the next entry."""
        path = self._folder / "wandb.json"
        try:
            return {"sent": -1, "next": 0, **json.loads(path.read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError):
            state = {"id": uuid.uuid4().hex[:8], "sent": -1, "next": 0}
            self._write_state(state)
            return state

    def _write_state(self, state: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._folder / "wandb.json", f"{json.dumps(state)}\n".encode())

    @property
    def _pending(self) -> Path:
        return self._folder / "wandb" / "pending.csv"

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Send missing log entries up to ``step``, the step of the checkpoint, to W&B. Later entries are removed."""
        state = self._state()
        there: set[tuple[int, str]] = set()
        for file in sorted((self._folder / "wandb").glob(f"offline-run-*-{state['id']}/run-*.wandb")):
            for number, row in _rows_of(file):
                self._next = max(self._next, number + 1)
                there |= {(int(row.get(_STEP, -1)), name) for name in row}
        self._kept, self._covered, self._next = {}, step, max(self._next, state["next"])
        last = self.experiment.summary.get(_STEP)  # the server's value if the run is resumed there
        self._landed = max(state["sent"], -1 if last is None else int(last), *(s for s, _ in there), -1)
        rows = [r for r in read_rows(self._pending) if state["sent"] < r[0] <= step and (r[0], r[1]) not in there]
        if last is not None:
            rows = [r for r in rows if r[0] > last]
        write_bytes(self._pending, rows_text(rows).encode())
        self._write_state({**state, "sent": self._landed, "next": self._next})
        for number in sorted({r[0] for r in rows}):
            self._send(number, {name: float(value) for s, name, value in rows if s == number})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Store the numbers and pictures of a step until a checkpoint includes the step."""
        if step is None:
            super().log_metrics(metrics, step)
            return
        if step <= self._landed:  # an older checkpoint was resumed
            return
        numbers = {name: float(v) for name, v in metrics.items() if isinstance(v, (int, float))}
        self._pending.parent.mkdir(parents=True, exist_ok=True)
        with naming(self._pending), self._pending.open("a", encoding="utf-8") as file:
            file.write("".join(f"{step},{name},{value!r}\n" for name, value in numbers.items()))
        if step <= self._covered:
            self._send(step, metrics)
        else:
            self._kept.setdefault(step, {}).update(metrics)

    def _send(self, step: int, row: Mapping[str, Any]) -> None:
        run = self.experiment
        number = {"step": self._next} if self._next > run.step else {}  # offline, every process would start at 0
        run.log({**row, _STEP: step}, commit=True, **number)

    @rank_zero_only
    def checkpointed(self, step: int) -> None:
        """Send all log entries up to ``step`` to W&B, because a checkpoint now includes these steps."""
        self._covered = max(self._covered, step)
        for number in sorted(n for n in self._kept if n <= step):
            self._send(number, self._kept.pop(number))

    @rank_zero_only
    def log_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Store a picture [H, W, 3] uint8 until a checkpoint includes the step."""
        self.log_image(key=name, images=[picture], step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the W&B run in this process. After this, all sent log entries are on disk or on the server."""
        if self._experiment is None:
            return
        number = self._experiment.step
        self._experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = None
        if self._covered < 0:  # the process ended before the resume, so nothing was sent
            return
        rows = [r[0] for r in read_rows(self._pending) if r[0] <= self._covered]
        self._write_state({**self._state(), "sent": max([self._landed, *rows]), "next": number})
        self._pending.unlink(missing_ok=True)
        self._kept = {}


_STEP = "trainer/global_step"  # Lightning's name for the axis of W&B's charts


def _rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, {name: value}) for each log entry in a ``.wandb`` file. An incomplete entry at the end is skipped.

    The file is a log in LevelDB's format: a header of 7 bytes and blocks of 32 KiB that contain protobuf messages.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if left < 7 or kind == 0:  # the rest of a block is empty
            at += left
            continue
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if at > len(data):
            return
        if kind in (_FULL, _LAST):
            message = messages.Record()
            try:
                message.ParseFromString(part)
            except DecodeError:
                return
            part = b""
            if message.WhichOneof("record_type") == "history":
                items = message.history.item
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                yield int(row.get("_step", message.history.step.num)), row


_BLOCK, _FULL, _LAST = 1 << 15, 1, 4
