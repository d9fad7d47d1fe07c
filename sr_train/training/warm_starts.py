"""Initial weights of a stage: ``init.stage``, ``init.weights``, ``init.skip``, ``init.grow``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from sr_train.config.build import build
from sr_train.config.plan import Plan, Stage
from sr_train.console import say
from sr_train.inference.network import recognized_as
from sr_train.models import contract
from sr_train.weights.file import ANY, Weights
from sr_train.weights.growth import residual_ends, with_frames
from sr_train.weights.mixing import digest
from sr_train.weights.network import outline
from sr_train.weights.open import finished_file, load
from sr_train.weights.recoloring import with_channels
from sr_train.weights.warm_start import match_warm_start


class Origin(NamedTuple):
    """Weights from which a stage starts, and the file that contains them."""

    weights: Weights
    file: Path

    @property
    def digest(self) -> str:
        """Digest of the tensors. A stage whose initial weights have changed cannot be resumed as the same run."""
        return digest(self.weights.state)

    @property
    def ancestors(self) -> list[str]:
        """Digests of these weights and of all weights that they were trained from."""
        return [self.digest, *map(str, self.weights.origin.get("ancestors", []))]


def open_origin(stage: Stage) -> Origin | None:
    """Read the weights in the file ``init.weights``. Return None if ``init.weights`` is not given.

    The file may contain any class of network, because its tensors are copied by name and no network is built from the
    file.
    """
    init = stage.config["init"]
    if init["weights"] is None:
        return None
    return Origin(*load(str(init["weights"]), allow=[ANY], scale=stage.config["scale"]))


def find_origin(plan: Plan, stage: Stage, opened: Origin | None) -> Origin | None:
    """Return the weights from which a stage starts: ``opened`` (``init.weights``), or the weights of stage ``init.stage``.

    Return None if the stage starts from random weights. Raise ValueError if stage ``init.stage`` is not finished.
    """
    init = stage.config["init"]
    if opened is not None or init["stage"] is None:
        return opened
    before = next(s for s in plan.stages if s.name == init["stage"])
    if finished_file(before.folder) is None:
        raise ValueError(
            f"stage {stage.name} starts from stage {init['stage']}, which is not finished ({before.folder}); train it first, "
            f"or give {stage.name}.init.weights=FILE"
        )
    source = Origin(*load(str(before.folder), allow=[ANY]))
    step, last = source.weights.origin.get("step"), before.config["trainer"]["max_steps"]
    if isinstance(step, int) and step < last and before.name not in plan.selected:
        say(f"stage {stage.name}: starts from stage {before.name} as finished at step {step} of {last}")
    return source


def check_warm_starts(plan: Plan) -> dict[str, Origin]:
    """Compare the network of every selected stage with its initial weights, by names and shapes, before a stage is trained.

    Print which tensors are copied, grown, newly initialized and unused. Return {stage: weights read from
    ``init.weights``}.
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
            if recognized_as(source.weights):
                say(f"{name}: {recognized_as(source.weights).removeprefix('; ')}")
        else:
            before = next(s for s in plan.stages if s.name == init["stage"])
            state, name = _network_of(before).state_dict(), f"stage {before.name}"
        _compare(stage, state, name)
    return sources


def _network_of(stage: Stage) -> nn.Module:
    return outline(lambda: build(stage.config["model"]))


def _compare(stage: Stage, state: Mapping[str, Any], name: str) -> None:
    """Match the tensors of a stage's network with its initial weights ``state``, and print the result.

    ``name`` is the name of the file or the stage that the initial weights come from.
    """
    init, where, network = stage.config["init"], f"stage {stage.name} from {name}", _network_of(stage)
    ends = residual_ends(network, init["grow"], where=where)
    had, state = state, with_frames(network, state, init["grow"], where=where)
    wider = [k for k, v in state.items() if v.shape != had[k].shape]
    grown, state = state, with_channels(network, state, init["skip"], where=where)
    other = [k for k, v in state.items() if v is not grown[k]]
    decided = match_warm_start(network.state_dict(), state, init["skip"], grow=ends, where=where)
    say(f"stage {stage.name} starts from {name}:")
    say(f"  copied {_tensors(decided.copied)}".rstrip())
    if stage.config["task"].get("discriminator") is not None and init["discriminator"] is None:
        say("  discriminator: newly initialized; only the generator is copied")
    if decided.grown:
        say(f"  grown  {_tensors(decided.grown)}  {_blocks(decided.grown, ends)}, as identity")
    if wider:
        say(f"  grown  {_tensors(wider)}  {', '.join(wider)}: weights of the new frames start at zero")
    if other:
        to = "from RGB to gray" if contract.channels(network) == 1 else "from gray to RGB"
        say(f"  color  {_tensors(other)}  {', '.join(other)}: converted {to}")
    for kind, names in (("new", decided.initialized), ("unused", decided.unused)):
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        say(f"  {kind:<7}{_tensors(names)}  {shown}".rstrip())


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names):>5} {'tensor' if len(names) == 1 else 'tensors':<7}"


def _blocks(names: Sequence[str], lists: Iterable[str]) -> str:
    """Return the range of blocks to which tensors belong, e.g. "reconstruction.10 to reconstruction.39"."""
    parts = []
    for blocks in lists:
        numbers = [int(n.removeprefix(f"{blocks}.").partition(".")[0]) for n in names if n.startswith(f"{blocks}.")]
        first, last = min(numbers, default=0), max(numbers, default=0)
        parts.append(f"{blocks}.{first}" if first == last else f"{blocks}.{first} to {blocks}.{last}")
    return ", ".join(parts)
