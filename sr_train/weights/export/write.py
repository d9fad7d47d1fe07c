"""Export of a network: written next to its destination, opened again, compared, and only then renamed.

A file whose network computes something else is removed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load as from_bytes
from torch import nn

from sr_train.console import UsageError, for_shell
from sr_train.files import sync_folder
from sr_train.models import contract
from sr_train.weights.export.card import About, card_files, file_stem, write_card
from sr_train.weights.export.compare import (
    BOUNDS,
    AnySize,
    Run,
    largest_difference,
    largest_value,
    shapes,
    traced_shape,
)
from sr_train.weights.export.ncnn import open_ncnn, write_ncnn
from sr_train.weights.export.onnx import open_onnx, write_onnx
from sr_train.weights.export.openers import without_ncnn
from sr_train.weights.export.pth import basicsr_options, open_pth, write_pth
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network

KINDS = {"safetensors": ".safetensors", "pth": ".pth", "onnx": ".onnx", "ncnn": ".param"}

_LARGEST_HALF = 65_504  # largest value of float16

ONE_SCALE = ("onnx", "ncnn")  #: kinds of files that contain one branch of a network with several scales


class Exported(NamedTuple):
    """Files that were written, and how they were checked."""

    files: list[Path]
    program: str  #: that opened the file
    difference: float  #: largest one of all outputs, for pixels in [0, 1]
    bound: float
    sizes: list[tuple[int, ...]]  #: shapes of the inputs
    seconds: float
    parameters: int
    notes: list[str]  #: what another program needs to know, and other files that were written

    def __str__(self) -> str:
        size = sum(f.stat().st_size for f in self.files if f.suffix in (*KINDS.values(), ".bin"))
        shown = ", ".join("x".join(map(str, s)) for s in self.sizes)
        same = "equal" if self.difference == 0 else f"largest difference {self.difference:.1e} (at most {self.bound:g})"
        return f"opened by {self.program}, outputs for {shown}: {same}; {size / 1e6:,.1f} MB in {self.seconds:.1f} s"


def kind_of(out: str, kind: str | None) -> str:
    """Return the kind of file that ``out=`` names by its suffix; for a folder, ``format=``."""
    if is_folder(out):
        kind = kind or "safetensors"
        if kind not in KINDS:
            raise UsageError(f"format={kind}: expected one of {', '.join(KINDS)}")
        return kind
    found = next((k for k, suffix in KINDS.items() if out.endswith(suffix)), None)
    if found is None or kind not in (None, found):
        named = f"out={out}" if found is None else f"out={out} with format={kind}"
        path = Path(out)
        raise UsageError(
            f"{named}: give a name that ends in {', '.join(KINDS.values())}, e.g. "
            + for_shell(f"out={path.with_suffix(KINDS.get(kind or '', '.safetensors'))}")
            + ", or a folder that ends in /"
        )
    return found


def is_folder(out: str) -> bool:
    """Return true if ``out=`` names a folder, in which a file gets a name with scale and kind."""
    return out.endswith(("/", os.sep)) or Path(out).is_dir()


def path_of(out: str, kind: str, weights: Weights, name: str, precision: str) -> Path:
    """Return the path of the file: ``out=``, or ``FOLDER/4x_NAME.pth`` for a folder."""
    return Path(out) / f"{file_stem(weights, name, precision)}{KINDS[kind]}" if is_folder(out) else Path(out)


def check_free(path: Path, kind: str, weights: Weights, about: About | None) -> None:
    """Raise FileExistsError for a file that an export would replace."""
    wanted = [path, *([path.with_suffix(".bin")] if kind == "ncnn" else [])]
    wanted += [] if about is None else card_files(path.parent, weights, about)
    for file in wanted:
        if file.exists():
            raise FileExistsError(f"{file}: already exists; give another name or overwrite=true")


@contextmanager
def _beside(path: Path) -> Generator[Path, None, None]:
    """Yield a hidden folder next to ``path``; without an error, move its files there. The folder is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", dir=path.parent))
    try:
        yield folder
        made = sorted(folder.iterdir())
        for file in made:
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        for file in made:
            file.replace(path.parent / file.name)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export(
    path: Path,
    kind: str,
    weights: Weights,
    *,
    precision: str = "fp32",
    about: About | None = None,
    card: bool = False,
    allow: Sequence[str] = (),
) -> Exported:
    """Write a network to ``path``, open the file with the program it is for, and compare the outputs of both.

    Args:
        path: the file; for ``kind=ncnn`` the one that ends in .param. It is replaced if it exists.
        kind: ``safetensors``, ``pth`` (BasicSR's keys), ``onnx`` or ``ncnn``.
        weights: the network, with one scale for ``onnx`` and ``ncnn``.
        precision: ``fp32``, or ``fp16`` for ``onnx`` and ``ncnn``.
        about: name, author, license and description for the file's header.
        card: also write README.md and the file of OpenModelDB.
        allow: packages besides sr_train.models that the network may come from.

    Raises:
        WeightsError: the file computes something else, or the program has no such network. Nothing is left behind.
    """
    start, half = time.perf_counter(), precision == "fp16"
    if half and kind not in ONE_SCALE:
        raise UsageError(f"precision=fp16 is for .onnx and .param; {path.name} keeps the float32 of the weights")
    network = build_network(weights, where=path.name, allow=allow)
    if about is not None:
        weights = Weights(weights.model, weights.state, {**weights.origin, "about": about.given()}, weights.scores)
    if kind == "ncnn" and without_ncnn(weights.model):
        raise WeightsError(f"{path.name}: not written, because ncnn cannot run it: {without_ncnn(weights.model)}")
    if half and (value := largest_value(network, traced_shape(network))) > _LARGEST_HALF:
        raise WeightsError(
            f"{path.name}: not written, because a layer of the network reaches {value:,.0f}, and the largest value of float16 "
            f"is {_LARGEST_HALF:,}; give precision=fp32"
        )
    with _beside(path) as folder:
        draft = folder / path.name
        program, run = _written(draft, kind, weights, network, precision, allow)
        bound = BOUNDS[precision] if kind in ONE_SCALE else 0.0
        sizes = shapes(network, batches=kind != "ncnn", any_size=kind != "ncnn")
        difference = _difference(network, run, sizes)
        if not difference <= bound:
            raise WeightsError(
                f"{path.name}: not written, because its output in {program} differs by {difference:.2g} from the network's; "
                f"at most {bound:g} is accepted for pixels in [0, 1]" + ("; give precision=fp32" if half else "")
            )
        files = sorted(folder.iterdir())
        if card:
            assert about is not None
            files += write_card(folder, weights, about, files)
        files = [path.parent / f.name for f in files]
    count, notes = sum(p.numel() for p in network.parameters()), _notes(kind, weights, files)
    return Exported(files, program, difference, bound, sizes, time.perf_counter() - start, count, notes)


def _notes(kind: str, weights: Weights, files: Sequence[Path]) -> list[str]:
    """Return BasicSR's options for a .pth file, and the names of the other files that were written."""
    options = basicsr_options(weights.model) if kind == "pth" else {}
    shown = ", ".join(f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items())
    notes = [f"in BasicSR: network_g: {{{shown}}}"] if options else []
    others = [f.name for f in files if f.suffix in (".bin", ".md", ".json")]
    return notes + ([f"also written: {', '.join(others)}"] if others else [])


def _difference(network: nn.Module, run: Callable[[int | None], Run], sizes: Sequence[tuple[int, ...]]) -> float:
    """Return the largest difference of all branches."""
    branches = contract.branches(network)
    if len(branches) < 2:
        return largest_difference(network, run(None), sizes)
    return max(largest_difference(contract.branch(network, s), run(s), sizes) for s in branches)


def _written(
    draft: Path, kind: str, weights: Weights, network: nn.Module, precision: str, allow: Sequence[str]
) -> tuple[str, Callable[[int | None], Run]]:
    """Write ``draft`` in the format ``kind``, and open it again with the program that it is for.

    Return the name of this program, and a function that returns, for a scale of the network, the opened network.
    """
    if kind == "onnx":
        write_onnx(draft, network, precision=precision, metadata=metadata(weights, precision))
        opened = open_onnx(draft)
        return "onnxruntime", lambda _: opened
    if kind == "ncnn":
        write_ncnn(draft, network, precision=precision)
        opened = open_ncnn(draft)
        return "ncnn", lambda _: opened
    if kind == "pth":
        write_pth(draft, weights)
        rebuilt = open_pth(draft, weights)
        return "a network built from its BasicSR keys", lambda _: _any_size(rebuilt, None)
    save_weights(draft, weights)
    from_bytes(draft.read_bytes())
    again = build_network(load_weights(draft, allow=allow), where=draft.name, allow=allow)
    return "safetensors", lambda scale: _any_size(again, scale)


def _any_size(network: nn.Module, scale: int | None) -> Run:
    from_file = network if scale is None else contract.branch(network, scale)
    return AnySize(from_file)


def metadata(weights: Weights, precision: str) -> dict[str, str]:
    """Return the facts of a weights file's header as strings, for ONNX."""
    about = weights.origin.get("about", {})
    rest = {k: v for k, v in weights.origin.items() if k != "about"}
    return {
        **{str(k): str(v) for k, v in about.items()},
        "model": json.dumps(weights.model),
        "scale": ",".join(map(str, weights.scales)),
        "origin": json.dumps(rest),
        "scores": json.dumps(weights.scores),
        "precision": precision,
        "range": "RGB in [0, 1]",
    }
