"""Folder of a stage, and the order in which its files are changed, so that nothing is lost if a process fails.

A stage is finished when ``weights.safetensors`` exists and the step in its header is ``trainer.max_steps`` or more. A
process that continues a stage does not change the config or the finished weights until it has written a checkpoint.
Then it writes ``config.yaml``, and renames finished weights of an earlier step to
``weights_step_NNNNNNNN.safetensors``, so the stage is no longer finished. The renamed files are removed when the stage
is finished again. A process that fails before its first checkpoint has only added log entries. The next process removes
these log entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sr_train.files import remove_leftovers
from sr_train.runs import resume
from sr_train.runs.checkpoints import Checkpoint, CheckpointError
from sr_train.tasks.base import SRTask
from sr_train.training.checkpoint_fit import misfits
from sr_train.weights.file import origin_of
from sr_train.weights.open import WEIGHTS


class StageFolder:
    """Writer of ``config.yaml`` in a stage's folder, which also renames older finished weights. For rank 0 only.

    Checkpoints, new weights and logs are written by other classes.

    Args:
        folder: folder of the stage.
        config: new content of ``config.yaml``.
        new: true if the stage has no checkpoint to continue from.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, new: bool) -> None:
        self.folder = folder
        self.config = config
        self.new = new
        self._written = False

    def begin(self) -> None:
        """Remove incomplete files that a killed process has left. For a new stage, write ``config.yaml``."""
        for where in (self.folder, self.folder / "checkpoints"):
            remove_leftovers(where)
        if self.new:
            self._write_config()

    def checkpoint_written(self, step: int) -> None:
        """Write ``config.yaml`` and rename older finished weights, after the checkpoint of step ``step`` has been written.

        If the disk is full, warn; this is repeated after the next checkpoint.
        """
        try:
            self._write_config()
            self._set_aside(step)
        except OSError as error:
            warnings.warn(
                f"{self.folder}: config.yaml NOT WRITTEN ({error}); the run continues; free some disk space",
                stacklevel=2,
            )

    def finish(self) -> None:
        """Write ``config.yaml``, before the weights of the finished stage are written."""
        self._write_config()

    def _write_config(self) -> None:
        if not self._written:
            resume.write_config(self.folder, self.config)
            self._written = True

    def _set_aside(self, step: int) -> None:
        file = self.folder / WEIGHTS
        if file.exists():
            finished = origin_of(file).get("step")
            finished = finished if isinstance(finished, int) else 0
            if step > finished:
                file.replace(self.folder / f"weights_step_{finished:08d}.safetensors")


def remove_set_aside(folder: Path) -> None:
    """Remove finished weights of earlier steps (``weights_step_*.safetensors``) after the stage is finished again."""
    for file in folder.glob("weights_step_*.safetensors"):
        file.unlink(missing_ok=True)


def check_continues(
    stage: str, folder: Path, task: SRTask, found: Checkpoint | None, last: int, notes: Sequence[str]
) -> None:
    """Raise CheckpointError if a stage cannot continue: its newest checkpoint does not fit the task, or is missing.

    Args:
        stage: name of the stage.
        folder: folder of the stage.
        task: task of the stage.
        found: newest checkpoint; None if there is none.
        last: last step of the stage.
        notes: differences between the old and the new config that ``resume=force`` allows.
    """
    file = folder / WEIGHTS
    if found is None:
        if file.exists():
            raise CheckpointError(
                f"{folder}: is finished at step {origin_of(file).get('step')} and contains no checkpoint to continue from to "
                f"step {last}. Train another run from its weights: name=OTHER {stage}.init.weights={file}; or give "
                "resume=never, which renames the folder and starts from scratch"
            )
        return
    problems = misfits(found.content, task)
    if problems:
        changed = [note for note in notes if note.startswith("continues ")]
        remedy = "Give these options the values that the run was started with"
        if not changed:
            remedy = (
                "The config has not changed since the run was started, so the file belongs to another run; resume=never "
                "starts from scratch"
            )
        shown = "\n  ".join([*problems, *changed])
        raise CheckpointError(
            f"{found.path}: does not fit this command; nothing was changed:\n  {shown}\n{remedy}. Or train another run from "
            f"its weights: name=OTHER {stage}.init.weights={folder}"
        )
