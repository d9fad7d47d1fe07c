"""``weights=``: a file, or a stage of a run, complete or in progress."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import UsageError

if TYPE_CHECKING:
    from sr_train.weights import Weights


def full_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config with its constructor's defaults filled in: what a weights file keeps."""
    module, _, name = str(model["_target_"]).rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    return {"_target_": model["_target_"], **defaults, **{k: v for k, v in model.items() if k != "_target_"}}


def load(source: str, *, allow: Sequence[str] = (), scale: int | None = None) -> tuple[Weights, Path]:
    """Weights and the file they were read from.

    A stage's folder gives its ``weights.safetensors`` or, while it is in training, the network of its newest checkpoint
    (the EMA where there is one). ``scale`` decides where another program's file leaves it open.
    """
    from sr_train.tensor_files import web_address
    from sr_train.weights import WeightsError, load_weights

    address = web_address(source)
    if address is not None:
        raise UsageError(address)
    path = Path(source)
    if not path.is_dir():
        return load_weights(path, allow=allow, scale=scale), path
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
    from sr_train.weights import Weights, WeightsError

    found = newest_checkpoint(folder / "checkpoints", lambda text: print(text, file=sys.stderr))
    config = read_config(folder)
    if found is None or config is None:
        raise WeightsError(f"{folder}: has no checkpoint yet")
    if not isinstance(config.get("model"), dict) or not {"name", "stage"} <= config.keys():
        raise WeightsError(f"{folder / 'config.yaml'}: names no network, or not its run and stage; it is damaged")
    state: dict[str, Any] = found.content["state_dict"]
    averaged = any(k.startswith("ema.module.") for k in state)
    prefix = "ema.module." if averaged else "model."
    network = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    origin = {"run": str(config["name"]), "stage": str(config["stage"]), "step": found.step, "ema": averaged}
    return Weights(full_arguments(config["model"]), network, origin), found.path
