"""Other programs that open a network: facts about spandrel 0.4.2, BasicSR 1.4.2, onnxruntime and ncnn.

``tests/weights/export/test_openers.py`` compares each fact with the program, for every network, scale and unusual size. A
program that opens a file and computes something else does not open it here: spandrel takes an RRDBNet x3 for x2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

GROWTH = 32  #: growth of RRDBNet that spandrel assumes

_OURS = "sr_train.models."


class Opener(NamedTuple):
    """Answer for one program: it opens the network, or the reason why not."""

    program: str
    reason: str = ""  #: why it does not; empty if it does

    def __str__(self) -> str:
        return f"{self.program} no, because {self.reason}" if self.reason else f"{self.program} yes"


def class_of(model: Mapping[str, Any]) -> str:
    """Return the class name of a network of sr_train; empty for a network of another package."""
    target = str(model["_target_"])
    return target.rpartition(".")[2] if target.startswith(_OURS) else ""


def without_spandrel(model: Mapping[str, Any]) -> str:
    """Return why spandrel (chaiNNer, ComfyUI) does not open the network's .pth and .safetensors; empty if it does."""
    name = class_of(model)
    if name != "RRDBNet":
        return f"it has no {name or 'such network'}"
    if model.get("growth", GROWTH) != GROWTH:
        return f"growth is {model['growth']} and it assumes {GROWTH} (train with model.growth={GROWTH})"
    if model["scale"] == 3:
        return "it takes an RRDBNet x3 for x2"
    return "an RRDBNet without blocks is not recognized" if model.get("blocks") == 0 else ""


def without_basicsr(model: Mapping[str, Any]) -> str:
    """Return why no network of BasicSR computes the same from a .pth file; empty if one does."""
    name = class_of(model)
    if name not in ("RRDBNet", "EDSR", "MSRResNet", "EDVR"):
        return f"it has no {name or 'such network'}"
    if name == "RRDBNet":
        if model["scale"] not in (1, 2, 4):
            return f"its RRDBNet has no x{model['scale']}"
        return "" if model["scale"] == 4 or model.get("unshuffle", True) else "its RRDBNet x1 and x2 fold pixels"
    if name == "EDVR" and model.get("hr_in") and not model.get("predeblur"):
        return "its EDVR has hr_in with predeblur only"
    return ""


def without_ncnn(model: Mapping[str, Any]) -> str:
    """Return why there is no ncnn file of the network; empty if there is one."""
    return "its images have no axis of frames" if class_of(model) == "EDVR" else ""


def openers(model: Mapping[str, Any]) -> list[Opener]:
    """Return, for each program, whether it opens a network with these arguments."""
    facts: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "spandrel": without_spandrel,
        "ONNX": lambda _: "",
        "BasicSR": without_basicsr,
        "ncnn": without_ncnn,
    }
    if not class_of(model):
        del facts["ONNX"], facts["ncnn"]  # sr-convert tries it
    return [Opener(program, reason(model)) for program, reason in facts.items()]


def opened_by(model: Mapping[str, Any]) -> str:
    """Return which programs open a network, in one line: "spandrel yes; ONNX yes; BasicSR no, because ..."."""
    return "; ".join(map(str, openers(model)))
