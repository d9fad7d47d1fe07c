"""Beginning of a stage: rank 0 decides if the stage is finished, and from which checkpoint all ranks continue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sr_train.config.plan import Stage
from sr_train.console import say
from sr_train.runs import resume
from sr_train.runs.checkpoints import Checkpoint, CheckpointError, newest_checkpoint
from sr_train.runs.ranks import Ranks
from sr_train.tasks.base import SRTask
from sr_train.training.parallel import statistics_notes
from sr_train.training.stage_folder import check_continues, remove_set_aside
from sr_train.training.user_callbacks import finished_early
from sr_train.weights.file import load_weights
from sr_train.weights.open import WEIGHTS, own_packages


class Begin:
    """Decisions of rank 0 at the beginning of a stage: is the stage finished, and from which checkpoint does it continue?

    Rank 0 reads the stage's folder and sends the decisions to the other ranks.

    Args:
        stage: the stage.
        described: content of the stage's new ``config.yaml``.
        ranks: processes of the run.
    """

    def __init__(self, stage: Stage, described: Mapping[str, Any], ranks: Ranks) -> None:
        self.stage = stage
        self.described = described
        self.ranks = ranks
        self.last = int(stage.config["trainer"]["max_steps"])
        self.notes: list[str] = []

    def is_finished(self) -> bool:
        """Return true if the stage is finished, and print this.

        Raise ChangedError if it was started with another config.
        """
        return self.ranks.decide(f"stage {self.stage.name}: finished", self._is_finished)

    def _is_finished(self) -> bool:
        stage, config = self.stage, self.stage.config
        self.notes = resume.check(stage.folder, self.described, force=config["resume"] == "force")
        done = stage.folder / WEIGHTS
        early = finished_early(done, config) if done.exists() else None
        if not done.exists() or (early is None and _trained(stage) < self.last):
            return False
        _say_all(
            stage, [n.replace("continues with a difference", "is finished and keeps its values:") for n in self.notes]
        )
        remove_set_aside(stage.folder)  # an earlier process may have been killed before it did this
        say(f"stage {stage.name}: already finished ({done}{f'; by {early}' if early else ''})")
        return True

    def choose_checkpoint(self, task: SRTask) -> Checkpoint | None:
        """Return the checkpoint to continue from, without its content; None to start from the first step.

        Raise CheckpointError if the checkpoint does not fit the task.
        """
        chosen = self.ranks.decide(f"stage {self.stage.name}: checkpoint", lambda: self._choose_checkpoint(task))
        if chosen is None:
            return None
        path = self.stage.folder / "checkpoints" / chosen["name"]
        deadline = time.monotonic() + _PATIENCE
        while not path.exists():  # a network file system may show a new file a little later
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{path}: rank 0 continues from this checkpoint, but this node does not have it: paths.runs must be a "
                    "folder that all nodes share"
                )
            time.sleep(0.2)
        return Checkpoint(path, chosen["step"], {})  # Lightning reads the file again

    def _choose_checkpoint(self, task: SRTask) -> dict[str, Any] | None:
        stage, last = self.stage, self.last
        found = newest_checkpoint(stage.folder / "checkpoints", lambda text: say(f"stage {stage.name}: {text}"))
        if found is not None and found.step > last:
            raise ValueError(
                f"{found.path}: this checkpoint is after trainer.max_steps={last}; a run can be extended, not shortened"
            )
        check_continues(stage.name, stage.folder, task, found, last, self.notes)
        if found is not None:
            self.notes += statistics_notes(task, resume.read_config(stage.folder), stage.config)
        _say_all(stage, self.notes)
        return None if found is None else {"name": found.path.name, "step": found.step}


_PATIENCE = 30.0  # seconds that a rank waits for rank 0's checkpoint to appear in its file system


def _trained(stage: Stage) -> int:
    """Return the number of steps of a finished stage, from its file of weights.

    The weights are read completely, so that a damaged file raises an error.
    """
    step = load_weights(stage.folder / WEIGHTS, allow=own_packages(stage.config)).origin.get("step")
    return step if isinstance(step, int) else 0


def _say_all(stage: Stage, notes: Sequence[str]) -> None:
    for note in notes:
        say(f"stage {stage.name}: {note}")
