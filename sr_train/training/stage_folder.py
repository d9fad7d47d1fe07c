"""The folder of a stage: when a process that trains the stage changes it, so that a process that fails loses nothing.

A stage is finished when ``weights.safetensors`` is there and the step in its header is ``trainer.max_steps`` or more. A process
that continues a stage leaves the folder as it is, with its config and its finished weights, until it has written a checkpoint.
Then it writes ``config.yaml``, and finished weights that the checkpoint is beyond become ``weights_step_NNNNNNNN.safetensors``:
the stage is open again. They are removed when the stage is finished again. A process that fails before its first checkpoint
has changed nothing but logs, and the next process cuts those.
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
    """Changes of a stage's folder by one process, besides checkpoints, weights and logs. For rank 0 alone.

    Args:
        folder: of the stage.
        config: what ``config.yaml`` shall hold.
        new: the stage has no checkpoint to continue from.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, new: bool) -> None:
        self.folder = folder
        self.config = config
        self.new = new
        self._written = False

    def begin(self) -> None:
        """Remove what a killed process left half written; write the config of a new stage."""
        for where in (self.folder, self.folder / "checkpoints"):
            remove_leftovers(where)
        if self.new:
            self._write_config()

    def checkpoint_written(self, step: int) -> None:
        """From now on the folder is this process's. Where the disk is full this is tried again at the next checkpoint."""
        try:
            self._write_config()
            self._set_aside(step)
        except OSError as error:
            warnings.warn(f"{self.folder}: NOT WRITTEN ({error}); the run goes on, make room", stacklevel=2)

    def finish(self) -> None:
        """The stage's weights are about to be written."""
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
    """Remove the finished weights of a shorter training: their successor is there."""
    for file in folder.glob("weights_step_*.safetensors"):
        file.unlink(missing_ok=True)


def check_continues(
    stage: str, folder: Path, task: SRTask, found: Checkpoint | None, last: int, notes: Sequence[str]
) -> None:
    """Compare what a stage continues from with the task that was built; raises CheckpointError before anything changes.

    Args:
        stage: its name.
        folder: of the stage.
        task: as it was built.
        found: the newest checkpoint.
        last: the step that the stage ends at.
        notes: differences of the config that ``resume=force`` lets pass.
    """
    file = folder / WEIGHTS
    if found is None:
        if file.exists():
            raise CheckpointError(
                f"{folder}: is finished at step {origin_of(file).get('step')} and holds no checkpoint from which it could be "
                f"trained on to step {last}. Train another run from its weights, name=OTHER {stage}.init.weights={file}; or "
                "resume=never moves the folder aside and begins anew"
            )
        return
    problems = misfits(found.content, task)
    if problems:
        changed = [note for note in notes if note.startswith("continues ")]
        remedy = "Give these keys the values that the run was begun with"
        if not changed:
            remedy = (
                "No key has changed since the run was begun: the file is another run's, and resume=never begins anew"
            )
        shown = "\n  ".join([*problems, *changed])
        raise CheckpointError(
            f"{found.path}: does not fit this command; nothing was changed:\n  {shown}\n{remedy}. Or train another run from "
            f"its weights: name=OTHER {stage}.init.weights={folder}"
        )
