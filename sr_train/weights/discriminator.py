"""Files of discriminators: ``discriminator.safetensors`` next to a GAN stage's weights, and those of other programs.

The header has ``format``, ``version``, ``discriminator`` (JSON: ``_target_`` and plain arguments) and ``origin`` (JSON: run,
stage and step). Reading runs no code from the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as to_bytes
from tqdm import tqdm

from sr_train.console import UsageError
from sr_train.files import write_bytes
from sr_train.runs.checkpoints import newest_checkpoint
from sr_train.runs.resume import read_config
from sr_train.torch_files import TorchFileError, is_dict, storable
from sr_train.weights.file import DISCRIMINATOR as FORMAT
from sr_train.weights.file import FORMAT as NETWORK
from sr_train.weights.file import VERSION, check_arguments, check_finite
from sr_train.weights.foreign.base import WeightsError, count_tensors
from sr_train.weights.foreign.content import read_any
from sr_train.weights.foreign.recognize import recognize_discriminator, unwrap_file
from sr_train.weights.open import existing_path

FILE = "discriminator.safetensors"  #: file name in the folder of a finished GAN stage


@dataclass
class Discriminator:
    """Weights of a discriminator, its config and its origin."""

    model: dict[str, Any]  #: ``_target_`` and the constructor's arguments
    state: dict[str, torch.Tensor]
    origin: dict[str, Any] = field(default_factory=dict[str, Any])  #: run, stage and step; or the other program's file


def save_discriminator(path: Path, found: Discriminator) -> None:
    """Write a discriminator's file atomically. Raise WeightsError if its weights are not finite, or its arguments not plain."""
    own = str(found.model.get("_target_")).partition(".")[0]
    check_arguments(found.model, where=str(path), allow=(own,))
    check_finite(found.state, where=f"{path}: not written")
    tensors, _ = storable(found.state)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "discriminator": json.dumps(found.model),
        "origin": json.dumps(found.origin),
    }
    write_bytes(path, to_bytes(tensors, metadata=header))


def load_discriminator(source: str, *, allow: Sequence[str] = ()) -> tuple[Discriminator, Path]:
    """Read a discriminator from a file (ours or BasicSR's) or a GAN stage's folder. Return (discriminator, file).

    From the folder of a stage in training, the newest checkpoint is read. Raise WeightsError with the file's name if it
    contains no discriminator or is damaged.
    """
    path = existing_path(source, "a discriminator's file or a GAN stage's folder")
    if path.is_dir():
        return (_load(path / FILE, allow), path / FILE) if (path / FILE).exists() else _from_checkpoint(path)
    return _load(path, allow), path


def _load(path: Path, allow: Sequence[str]) -> Discriminator:
    content, header = read_any(path)
    if header.get("format") == NETWORK:
        raise WeightsError(f"{path}: contains a network that upscales, not a discriminator; give {FILE} of a GAN stage")
    if header.get("format") != FORMAT:
        try:
            model, state, origin = recognize_discriminator(path, content)[:3]
        except TorchFileError as error:
            raise WeightsError(str(error)) from None
        check_finite(state, where=str(path))
        return Discriminator(model, state, origin)
    if header.get("version") != VERSION:
        raise WeightsError(f"{path}: has version {header.get('version')}; this sr-train reads version {VERSION}")
    try:
        model, origin = (json.loads(header[name]) for name in ("discriminator", "origin"))
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged header ({error!r})") from None
    check_arguments(model, where=str(path), allow=allow)
    state = cast("dict[str, torch.Tensor]", content)
    check_finite(state, where=str(path))
    return Discriminator(model, state, origin if is_dict(origin) else {})


def _from_checkpoint(folder: Path) -> tuple[Discriminator, Path]:
    found = None
    if (folder / "checkpoints").is_dir():
        found = newest_checkpoint(folder / "checkpoints", lambda text: tqdm.write(text, file=sys.stderr))
    if found is None:
        raise WeightsError(
            f"{folder}: contains no {FILE} and no checkpoints; give the folder of a GAN stage, runs/NAME/STAGE"
        )
    prefix, content = "discriminator.", cast("dict[str, torch.Tensor]", found.content["state_dict"])
    state = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    if not state:
        raise WeightsError(f"{found.path}: the stage has no discriminator; give the folder of a GAN stage")
    config: dict[str, Any] = read_config(folder) or {}
    task: dict[str, Any] = config.get("task") or {}
    model: dict[str, Any] = task.get("discriminator") or {}
    origin = {"run": str(config.get("name")), "stage": str(config.get("stage")), "step": found.step}
    return Discriminator(model, state, origin), found.path


def is_discriminator(path: Path) -> bool:
    """Return true for a file that contains a discriminator and no network that upscales."""
    if not path.is_file():
        return False
    try:
        content, header = read_any(path)
        if header.get("format") in (FORMAT, NETWORK):
            return header["format"] == FORMAT
        matches = [part.match for part in unwrap_file(path, content).parts if part.match is not None]
    except (WeightsError, TorchFileError, OSError):
        return False
    return bool(matches) and all(match.discriminates for match in matches)


def convert_discriminator(source: Path, out: Path, *, allow: Sequence[str] = (), overwrite: bool = False) -> str:
    """Write a discriminator as ``out``: .safetensors for sr-train, .pth for BasicSR (entry ``params``). Return a sentence.

    The file is read again and compared. Raise FileExistsError, UsageError for another suffix, and WeightsError.
    """
    found, file = load_discriminator(str(source), allow=allow)
    if out.suffix not in (".safetensors", ".pth"):
        raise UsageError(f"out={out}: a discriminator is written as .safetensors (sr-train) or .pth (BasicSR)")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: already exists; give another name or overwrite=true")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".pth":
        torch.save({"params": {name: value.clone() for name, value in found.state.items()}}, out)
    else:
        save_discriminator(out, found)
    again = load_discriminator(str(out), allow=allow)[0]
    if again.state.keys() != found.state.keys() or any(
        not torch.equal(v, again.state[k]) for k, v in found.state.items()
    ):
        out.unlink()
        raise WeightsError(f"{out}: differs from {file} when it is read again, so it was removed")
    kind, count = str(found.model["_target_"]).rpartition(".")[2], sum(v.numel() for v in found.state.values())
    return f"{out}: {kind}, {count:,} numbers, from {file}; read again: equal"


def check_same(
    network: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor], *, where: str, remedy: str
) -> None:
    """Raise WeightsError that lists the differences unless both have tensors of the same names and shapes."""
    problems = [f"{k}: not in the file" for k in network if k not in source]
    problems += [f"{k}: not in the discriminator" for k in source if k not in network]
    problems += [f"{k}: {list(source[k].shape)} in the file, {list(v.shape)} in the discriminator"
                 for k, v in network.items() if k in source and source[k].shape != v.shape]  # fmt: skip
    if problems:
        shown = "\n  ".join(problems[:10]) + (f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise WeightsError(f"{where}: {count_tensors(len(problems), 'does not', 'do not')} match{remedy}:\n  {shown}")
