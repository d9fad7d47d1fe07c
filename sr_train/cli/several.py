"""What a stage of several scales (MDSR) asks of the rest: the data's scales, ddp, the names of its scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import listed

if TYPE_CHECKING:
    from sr_train.stages import Stage


def check_network_scales(stage: Stage, model: Any) -> None:
    """The data's scales are the network's."""
    own = list(getattr(model, "scales", [getattr(model, "scale", None)]))
    if sorted(stage.scales) != sorted(own):
        raise ValueError(
            f"stage {stage.name}: the network is for {listed(own)}, the data for {listed(stage.scales)}: give scale= (or of a "
            "network of several, scales=) and leave model.scale and data.scale to follow it"
        )


def on_one_device(trainer: Mapping[str, Any]) -> bool:
    """Return true where the trainer's own keys say one device."""
    return trainer["devices"] in (1, "1") and trainer["num_nodes"] == 1


def finding_unused(trainer: Mapping[str, Any]) -> str:
    """The strategy that looks for parameters without a gradient, which plain ddp would wait for."""
    strategy = trainer["strategy"]
    if strategy == "auto" and not on_one_device(trainer):
        strategy = "ddp"
    return f"{strategy}_find_unused_parameters_true" if strategy in ("ddp", "ddp_spawn", "ddp_fork") else strategy


def scored_sets(data: Mapping[str, Any]) -> list[str]:
    """What the scores of validation are called, sets and their means over the scales."""
    from sr_train.data.module import means_of, set_name

    names, scales = list(data["val"] or {}), data.get("scales") or ()
    return [*means_of(names, scales), *(set_name(n, s, scales) for n in names for s in scales or (0,))]
