"""What a stage starts from: ``init.stage``, ``init.weights``, ``init.skip``, ``init.grow``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from sr_train.config.build import build
from sr_train.config.plan import Plan, Stage
from sr_train.console import say
from sr_train.weights.file import ANY, Weights
from sr_train.weights.growth import residual_ends, with_frames
from sr_train.weights.mixing import digest
from sr_train.weights.network import outline
from sr_train.weights.open import finished_file, load
from sr_train.weights.warm_start import match_warm_start


class Origin(NamedTuple):
    """What a stage starts from."""

    weights: Weights
    file: Path

    @property
    def digest(self) -> str:
        """Of the tensors: another source makes another run."""
        return digest(self.weights.state)

    @property
    def ancestors(self) -> list[str]:
        """Digests of the source and of what it started from in its turn."""
        return [self.digest, *map(str, self.weights.origin.get("ancestors", []))]


def open_origin(stage: Stage) -> Origin | None:
    """Read the weights of ``init.weights``; None where the stage starts from another stage or from nothing.

    They may be of any class, the user's own included: their tensors are copied by name, and nothing is built from the file.
    """
    init = stage.config["init"]
    if init["weights"] is None:
        return None
    return Origin(*load(str(init["weights"]), allow=[ANY], scale=stage.config["scale"]))


def find_origin(plan: Plan, stage: Stage, opened: Origin | None) -> Origin | None:
    """The weights that a stage starts from: those that are opened already, or those of its source stage.

    Raises ValueError where the source stage is not finished.
    """
    init = stage.config["init"]
    if opened is not None or init["stage"] is None:
        return opened
    before = next(s for s in plan.stages if s.name == init["stage"])
    if finished_file(before.folder) is None:
        raise ValueError(
            f"stage {stage.name} starts from stage {init['stage']}, which is not complete ({before.folder}); run that first, "
            f"or give {stage.name}.init.weights=FILE"
        )
    source = Origin(*load(str(before.folder), allow=[ANY]))
    step, last = source.weights.origin.get("step"), before.config["trainer"]["max_steps"]
    if isinstance(step, int) and step < last and before.name not in plan.selected:
        say(
            f"stage {stage.name}: starts from stage {before.name} as it was finished, at step {step} of the {last} asked for"
        )
    return source


def check_warm_starts(plan: Plan) -> dict[str, Origin]:
    """Compare every selected stage's network with its source's by name and shape, before the first one is trained.

    The costliest failure is a bad warm start after three days. Prints what is copied, grown, started afresh and unused.
    Returns what was read from ``init.weights``, by stage.
    """
    sources: dict[str, Origin] = {}
    for stage in plan.stages:
        init = stage.config["init"]
        if stage.name not in plan.selected or (init["stage"] is None and init["weights"] is None):
            continue
        source = open_origin(stage)
        if source is not None:
            sources[stage.name] = source
            state, name = source.weights.state, str(source.file)
        else:
            before = next(s for s in plan.stages if s.name == init["stage"])
            state, name = _network_of(before).state_dict(), f"stage {before.name}"
        _compare(stage, state, name)
    return sources


def _network_of(stage: Stage) -> nn.Module:
    return outline(lambda: build(stage.config["model"]))


def _compare(stage: Stage, state: Mapping[str, Any], name: str) -> None:
    """Match a stage's network with the tensors of its source, called ``name``, and print what becomes of them."""
    init, where, network = stage.config["init"], f"stage {stage.name} from {name}", _network_of(stage)
    ends = residual_ends(network, init["grow"], where=where)
    had, state = state, with_frames(network, state, init["grow"], where=where)
    wider = [k for k, v in state.items() if v.shape != had[k].shape]
    decided = match_warm_start(network.state_dict(), state, init["skip"], grow=ends, where=where)
    say(f"stage {stage.name} starts from {name}:")
    say(f"  copied {len(decided.copied):>5} tensors")
    if stage.config["task"].get("discriminator") is not None:
        say("  discriminator: newly initialized; the generator alone is copied")
    if decided.grown:
        say(f"  grown  {len(decided.grown):>5} tensors  {_blocks(decided.grown, ends)}, as identity")
    if wider:
        say(f"  grown  {len(wider):>5} tensors  {', '.join(wider)}: the frames added weigh nothing at first")
    for what, names in (("afresh", decided.afresh), ("unused", decided.unused)):
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        say(f"  {what:<7}{len(names):>5} tensors  {shown}".rstrip())


def _blocks(names: Sequence[str], lists: Iterable[str]) -> str:
    """Which blocks tensors are of: "reconstruction.10 to reconstruction.39"."""
    parts = []
    for blocks in lists:
        numbers = [int(n.removeprefix(f"{blocks}.").partition(".")[0]) for n in names if n.startswith(f"{blocks}.")]
        first, last = min(numbers, default=0), max(numbers, default=0)
        parts.append(f"{blocks}.{first}" if first == last else f"{blocks}.{first} to {blocks}.{last}")
    return ", ".join(parts)
