"""Check of the stages that have begun, before an earlier stage of the same command is trained.

A stage continues only from the weights that it was started from. Without this check an extended first stage would be trained,
and its finished weights replaced, before the second stage is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from sr_train.config.plan import Plan, Stage
from sr_train.console import for_shell, say
from sr_train.runs import resume
from sr_train.runs.checkpoints import list_checkpoints, newest_checkpoint
from sr_train.training.preflight import Prepared
from sr_train.training.stage import build_task
from sr_train.training.stage_folder import check_continues
from sr_train.training.user_callbacks import finished_early
from sr_train.weights.file import origin_of
from sr_train.weights.open import WEIGHTS


def check_later_stages(plan: Plan, prepared: Sequence[Prepared]) -> None:
    """Raise an error for each stage that has begun and could not continue after an earlier stage has been trained.

    With ``resume=force`` a stage continues though its initial weights have changed; then its newest checkpoint must fit.

    Args:
        plan: the run.
        prepared: selected stages, in their order; they are not changed.

    Raises:
        ChangedError: a stage was started from weights, or with a config, that this command changes.
        CheckpointError: the newest checkpoint does not fit, with ``resume=force``.
    """
    changing: dict[str, Stage] = {}  # stages that this command trains, or whose initial weights it changes
    ready = {p.stage.name: p for p in prepared}
    for stage in plan.stages:
        source = changing.get(str(stage.config["init"]["stage"]))
        if _has_begun(stage):
            if stage.name not in ready:
                _note_unselected(stage, source)
            elif changing and stage.config["resume"] == "force":
                _check_fits(ready[stage.name])
            elif source is not None:
                _refuse(stage, source)
            elif stage.config["init"]["stage"] is None:
                _check_config(ready[stage.name])
        if (stage.name in ready and not _is_finished(stage)) or source is not None:
            changing[stage.name] = stage


def _has_begun(stage: Stage) -> bool:
    return (stage.folder / WEIGHTS).exists() or bool(list_checkpoints(stage.folder / "checkpoints"))


def _is_finished(stage: Stage) -> bool:
    done = stage.folder / WEIGHTS
    if not done.exists():
        return False
    step = origin_of(done).get("step")
    enough = isinstance(step, int) and step >= int(stage.config["trainer"]["max_steps"])
    return enough or finished_early(done, stage.config) is not None


def _note_unselected(stage: Stage, source: Stage | None) -> None:
    if source is not None:
        say(
            f"stage {stage.name}: was trained from stage {source.name} as it is now; its weights are kept, but it will not be "
            "able to continue"
        )


def _refuse(stage: Stage, source: Stage) -> None:
    """Raise ChangedError with the choices that keep both stages."""
    steps = source.config["trainer"]["max_steps"]
    finished = (source.folder / WEIGHTS).exists()
    now = f"is finished at step {origin_of(source.folder / WEIGHTS).get('step')}" if finished else "is not finished"
    again = for_shell(f"{stage.name}.init.weights={source.folder}")
    raise resume.ChangedError(
        f"{stage.folder}: stage {stage.name} was started from the weights of stage {source.name}, which {now}. This command "
        f"would train {source.name} on to step {steps}, after which {stage.name} could not continue; nothing was changed.\n"
        f"name=OTHER trains all stages in another run; stage={stage.name} trains only {stage.name}; stage={source.name} trains "
        f"only {source.name} (then name=OTHER stage={stage.name} {again} trains {stage.name} from it, and both are kept)"
    )


def _check_config(ready: Prepared) -> None:
    """Raise ChangedError, unless ``resume=force``, if a stage that has begun and starts from no stage has another config."""
    described = ready.described(None if ready.source is None else ready.source.digest)
    resume.check(ready.stage.folder, described, force=ready.stage.config["resume"] == "force")


def _check_fits(ready: Prepared) -> None:
    """Raise CheckpointError if the newest checkpoint of a stage does not fit its task."""
    stage = ready.stage
    if _is_finished(stage):
        return
    found = newest_checkpoint(stage.folder / "checkpoints", lambda text: say(f"stage {stage.name}: {text}"))
    notes = [
        n for n in resume.check(stage.folder, ready.described(None), force=True) if ": fingerprint.weights" not in n
    ]
    task = build_task(stage.config, stage.name, None)
    check_continues(stage.name, stage.folder, task, found, int(stage.config["trainer"]["max_steps"]), notes)
