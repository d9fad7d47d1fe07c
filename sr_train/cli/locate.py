"""``weights=``: a file, or a stage of a run, complete or in progress."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sr_train.weights import Weights


def load(source: str, *, allow: Sequence[str] = ()) -> tuple[Weights, Path]:
    """Weights and the file they were read from.

    A stage's folder gives its ``weights.safetensors`` or, while it is in training, the network of its newest checkpoint
    (the EMA where there is one).
    """
    from sr_train.weights import WeightsError, load_weights

    path = Path(source)
    if not path.is_dir():
        return load_weights(path, allow=allow), path
    if (path / "weights.safetensors").exists():
        return load_weights(path / "weights.safetensors", allow=allow), path / "weights.safetensors"
    if (path / "checkpoints").is_dir():
        return _from_checkpoint(path)
    stages = sorted(p.name for p in path.iterdir() if (p / "config.yaml").exists())
    hint = f"; its stages are {', '.join(stages)}: give weights={path / stages[-1]}" if stages else ""
    raise WeightsError(f"{path}: is a folder without weights.safetensors or checkpoints{hint}")


def _from_checkpoint(folder: Path) -> tuple[Weights, Path]:
    from sr_train.checkpoints import newest_checkpoint
    from sr_train.cli.resume import read_config
    from sr_train.cli.train import full_arguments
    from sr_train.weights import Weights, WeightsError

    found = newest_checkpoint(folder / "checkpoints", lambda text: print(text, file=sys.stderr))
    config = read_config(folder)
    if found is None or config is None:
        raise WeightsError(f"{folder}: has no checkpoint yet")
    state: dict[str, Any] = found.content["state_dict"]
    averaged = any(k.startswith("ema.module.") for k in state)
    prefix = "ema.module." if averaged else "model."
    network = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    origin = {"run": str(config["name"]), "stage": str(config["stage"]), "step": found.step, "ema": averaged}
    return Weights(full_arguments(config["model"]), network, origin), found.path
