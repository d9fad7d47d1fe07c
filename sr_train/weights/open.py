"""Reading of the weights that ``weights=`` names: a file, or the folder of a run's stage, which may still be in training."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sr_train.console import UsageError, for_shell
from sr_train.runs.checkpoints import list_checkpoints, newest_checkpoint
from sr_train.runs.resume import read_config
from sr_train.torch_files import web_address
from sr_train.weights.file import ANY, Weights, check_target, load_weights, origin_of, plain
from sr_train.weights.foreign.base import WeightsError

FROM_FILE = (
    "sr_train.weights.network.from_file"  #: ``_target_`` of model=spandrel, whose network is described by its file
)

WEIGHTS = "weights.safetensors"  #: file name in the folder of a finished stage


def full_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's config for a weights file: the dotted path of its class, and all arguments including defaults.

    A default value that a file cannot store unchanged (a tuple, a class) is left out; the constructor fills it in
    later. For a network of ``model.file``, the config is the one in that file.
    """
    if model["_target_"] == FROM_FILE:
        with torch.device("cpu"):
            return load_weights(str(model["file"]), scale=model["scale"]).model
    network = _callable(str(model["_target_"]))
    target = f"{network.__module__}.{network.__qualname__}" if isinstance(network, type) else model["_target_"]
    parameters = inspect.signature(network).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty and plain(p.default)}
    return {"_target_": target, **defaults, **{k: v for k, v in model.items() if k != "_target_"}}


def _callable(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def own_packages(config: Mapping[str, Any]) -> list[str]:
    """Return the packages that contain the network class of a stage's config, for the argument ``allow``."""
    typed = str(config["model"]["_target_"])
    found = [typed.rpartition(".")[0], str(getattr(_callable(typed), "__module__", ""))]
    return [package for package in dict.fromkeys(found) if package]


def finished_file(folder: Path) -> Path | None:
    """Return the weights file of a finished stage; None if the stage is not finished.

    A stage that is being extended is not finished if a checkpoint is newer than its weights file. The file may still
    exist, because the process may have been killed before it renamed the file.
    """
    file = folder / WEIGHTS
    if not file.exists():
        return None
    newest, step = list_checkpoints(folder / "checkpoints")[:1], origin_of(file).get("step")
    return None if newest and isinstance(step, int) and newest[0][0] > step else file


def existing_path(source: str, wanted: str) -> Path:
    """Return the path of a file or folder. Raise an error for a web address, and for a path that does not exist.

    ``wanted`` says in the message what to give, e.g. a weights file.
    """
    address = web_address(source)
    if address is not None:
        raise UsageError(address)
    path = Path(source)
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file or folder; give {wanted}")
    return path


def load(source: str, *, allow: Sequence[str] = (), scale: int | None = None) -> tuple[Weights, Path]:
    """Read weights from a file or from a stage's folder. Return (weights, file that they were read from).

    From the folder of a finished stage, ``weights.safetensors`` is read. From the folder of a stage in training, the
    newest checkpoint is read (the EMA, if there is one). ``scale`` is needed only for a file of another program whose
    tensors fit networks of several scales.
    """
    path = existing_path(source, "a weights file or a stage's folder, runs/NAME/STAGE")
    if not path.is_dir():
        return load_weights(path, allow=allow, scale=scale), path
    finished = finished_file(path)
    if finished is not None:
        return load_weights(finished, allow=allow), finished
    if (path / "checkpoints").is_dir():
        return _from_checkpoint(path, allow)
    stages = sorted(p.name for p in path.iterdir() if (p / "config.yaml").exists())
    hint = (
        f"; its stages are {', '.join(stages)}; give e.g. {for_shell(f'weights={path / stages[-1]}')}" if stages else ""
    )
    raise WeightsError(f"{path}: this folder contains no weights.safetensors and no checkpoints{hint}")


def _from_checkpoint(folder: Path, allow: Sequence[str]) -> tuple[Weights, Path]:
    found = newest_checkpoint(folder / "checkpoints", lambda text: tqdm.write(text, file=sys.stderr))
    config = read_config(folder)
    if found is None or config is None:
        raise WeightsError(f"{folder}: has no checkpoint yet")
    if not isinstance(config.get("model"), dict) or not {"name", "stage"} <= config.keys():
        raise WeightsError(
            f"{folder / 'config.yaml'}: damaged, because the name of the network, run or stage is missing"
        )
    described = config["model"].get("_target_") == FROM_FILE
    if not described:
        check_target(config["model"], where=str(folder / "config.yaml"), allow=allow)  # before its package is imported
    state: dict[str, Any] = found.content["state_dict"]
    averaged = any(k.startswith("ema.module.") for k in state)
    prefix = "ema.module." if averaged else "model."
    network = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    origin = {"run": str(config["name"]), "stage": str(config["stage"]), "step": found.step, "ema": averaged}
    model = (
        dict(config["model"]) if ANY in allow and not described else full_arguments(config["model"])
    )  # imports its package
    return Weights(model, network, origin), found.path
