"""Options of an optimizer when a run continues: ``resume=force`` may continue with other ones than the checkpoint has.

torch restores the options of the checkpoint. An optimizer may also keep numbers of its state among them, so only options that
differ between the two commands are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

_OTHERS = ("params", "lr", "initial_lr", "suffix")  # set by the task

# Options of torch's optimizers, for checkpoints of versions that did not save the options of their command.
_TORCHS = (
    "betas", "eps", "weight_decay", "amsgrad", "maximize", "momentum", "dampening", "nesterov", "alpha", "centered",
    "decoupled_weight_decay", "foreach", "capturable", "differentiable",
)  # fmt: skip


def options_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the options of each parameter group of a new optimizer."""
    return [{k: v for k, v in group.items() if k not in _OTHERS} for group in optimizer.param_groups]


def apply_options(
    groups: Sequence[dict[str, Any]], started: Sequence[Mapping[str, Any]] | None, own: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Set the options of this command in the groups of a checkpoint. Return each change as ``betas [0.9, 0.99] -> [0.5, 0.9]``.

    A change of the discriminator's group only begins with ``discriminator:``.

    Args:
        groups: ``param_groups`` of the optimizer's state in the checkpoint; they are changed.
        started: options that the checkpoint's command gave, for each group (:func:`options_of`); None if it did not save them.
        own: options that this command gives, for each group.
    """
    changes: list[str] = []
    others = any(group.get("suffix") != "_d" for group in groups)  # if it is the only network, no name is needed
    for number, (group, new) in enumerate(zip(groups, own, strict=True)):
        old = started[number] if started is not None else {k: group[k] for k in _TORCHS if k in group}
        for name, value in new.items():
            if name == "fused":  # how a step is computed, not what
                group[name] = value
            elif name in group and name in old and not _equal(old[name], value):
                change = f"{name} {_shown(group[name])} -> {_shown(value)}"
                own_only = others and group.get("suffix") == "_d" and change not in changes
                changes.append(f"discriminator: {change}" if own_only else change)
                group[name] = value
    return list(dict.fromkeys(changes))


def _plain(value: Any) -> Any:
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else value


def _equal(a: Any, b: Any) -> bool:
    same = isinstance(a, bool) == isinstance(b, bool)  # True is not 1 here
    return same and _plain(a) == _plain(b)


def _shown(value: Any) -> str:
    return str(_plain(value))
