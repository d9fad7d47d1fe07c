"""Model cards: README.md as Hugging Face reads it, and the JSON file of a model in OpenModelDB.

All facts come from the header of the weights file. What it does not contain is left out or null.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from sr_train.torch_files import is_list
from sr_train.weights.export.openers import class_of, opened_by
from sr_train.weights.file import Weights

_HUB_LICENSES = {  # of Hugging Face's identifiers those for weights, images or code
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bsd", "bsd-2-clause",
    "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0",
    "agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "mpl-2.0", "unlicense", "wtfpl", "zlib",
}  # fmt: skip

_OPENMODELDB = {"RRDBNet": "esrgan", "EDSR": "edsr", "SRResNet": "sr-res-net", "MSRResNet": "sr-res-net"}

_PLATFORMS = {".pth": "pytorch", ".safetensors": "pytorch", ".onnx": "onnx", ".param": "ncnn", ".bin": "ncnn"}


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts that only the author of a network knows; empty strings for those that are not given."""

    name: str
    author: str = ""
    license: str = ""
    description: str = ""

    def given(self) -> dict[str, str]:
        """Return the fields that are not empty."""
        return {k: v for k, v in vars(self).items() if v}


def default_name(weights: Weights, file: Path) -> str:
    """Return a network's name: RUN_STAGE of its origin, or the file's name without a scale at its start."""
    origin = weights.origin
    if "run" in origin and "stage" in origin:
        return re.sub(r"[^\w.-]+", "_", f"{origin['run']}_{origin['stage']}")
    return re.sub(r"^\d+x[_-]?", "", file.stem) or file.stem


def file_stem(weights: Weights, name: str, precision: str = "fp32") -> str:
    """Return the name of a file without its suffix, as model hubs expect it: 4x_NAME, 4x_NAME_fp16."""
    scales = "x".join(map(str, weights.scales))
    name = re.sub(r"[^\w.-]+", "_", name)
    return f"{scales}x_{name}" + ("_fp16" if precision == "fp16" else "")


def card_files(folder: Path, weights: Weights, about: About) -> tuple[Path, Path]:
    """Return the paths of README.md and of OpenModelDB's file in a folder."""
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", about.name).strip("-") or "model"
    return folder / "README.md", folder / f"{'x'.join(map(str, weights.scales))}x-{plain}.json"


def _scores(weights: Weights) -> list[tuple[str, str, str, float]]:
    """Return (set, protocol, metric, value) of every score."""
    parts = ((*name.split("/"), value) for name, value in weights.scores.items())
    return [(p[0], p[1], p[2], float(p[3])) for p in parts if len(p) == 4]


def front_matter(weights: Weights, about: About) -> dict[str, Any]:
    """Return the metadata of Hugging Face's model cards."""
    known = about.license.lower() in _HUB_LICENSES
    head: dict[str, Any] = {"license": about.license.lower() if known else "other"}
    if not known:
        head["license_name"] = re.sub(r"[^\w.]+", "-", about.license.lower()).strip("-")
    head |= {"library_name": "sr-train", "pipeline_tag": "image-to-image"}
    network = str(weights.model["_target_"]).rpartition(".")[2]
    head["tags"] = ["super-resolution", "image-upscaling", network.lower(), *(f"x{s}" for s in weights.scales)]
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "image-to-image", "name": "Super-Resolution"},
            "dataset": {"type": name, "name": f"{name}, protocol {protocol}"},
            "metrics": [{"type": metric, "name": f"{metric.upper()} ({protocol})", "value": round(value, 4)}],
        }
        for name, protocol, metric, value in _scores(weights)
    ]
    if results:
        head["metrics"] = sorted({r["metrics"][0]["type"] for r in results})
        head["model-index"] = [{"name": about.name, "results": results}]
    return head


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def readme(weights: Weights, about: About, files: Sequence[Path]) -> str:
    """Return the text of README.md."""
    origin, model = weights.origin, weights.model
    count = sum(v.numel() for v in weights.state.values() if v.is_floating_point())
    arguments = ", ".join(f"{k}={v}" for k, v in model.items() if k != "_target_")
    rows = [["fact", "value"], ["architecture", f"{str(model['_target_']).rpartition('.')[2]} ({arguments})"]]
    rows += [["scale", ", ".join(f"x{s}" for s in weights.scales)], ["values in its tensors", f"{count:,}"]]
    for key, shown in (("data", "training data"), ("step", "training steps"), ("ema", "average of weights (EMA)")):
        if key in origin:
            value = origin[key]
            rows.append([shown, ", ".join(map(str, value)) if is_list(value) else str(value)])
    rows += [["author", about.author]] if about.author else []
    rows += [["license", about.license], ["files", ", ".join(f"`{f.name}`" for f in files)]]
    rows.append(["opens in", opened_by(model)])
    parts = [f"# {about.name}", about.description, _table([[c.replace("|", "/") for c in row] for row in rows])]
    scores = [
        [n, p, m.upper(), f"{v:.4g}" if m == "lpips" else f"{v:.4f}".rstrip("0")] for n, p, m, v in _scores(weights)
    ]
    if scores:
        parts += ["## Scores", _table([["set", "protocol", "metric", "value"], *scores])]
    parts.append("Images are RGB in [0, 1]. Trained with sr-train.")
    head = yaml.safe_dump(front_matter(weights, about), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def openmodeldb(weights: Weights, about: About, files: Sequence[Path]) -> dict[str, Any]:
    """Return the fields of a model in OpenModelDB. Addresses of files and images are empty lists, to be filled in."""
    model, origin = weights.model, weights.origin
    first = next((v for k, v in weights.state.items() if k.startswith("conv_first") and v.dim() == 4), None)
    channels = _channels(model, first)
    sizes = {"channels": "nf", "blocks": "nb"}
    entry: dict[str, Any] = {
        "name": about.name,
        "author": about.author or None,
        "license": about.license,
        "tags": [],
        "description": about.description,
        "date": datetime.date.today().isoformat(),
        "architecture": _OPENMODELDB.get(class_of(model), str(model["_target_"]).rpartition(".")[2].lower()),
        "size": [f"{model[k]}{short}" for k, short in sizes.items() if k in model] or None,
        "scale": weights.scales[0],
        "inputChannels": channels,
        "outputChannels": channels,
        "resources": [_resource(file) for file in files],
        "images": [],
    }
    if "step" in origin:
        entry["trainingIterations"] = origin["step"]
    if "data" in origin:
        entry["dataset"] = ", ".join(map(str, origin["data"]))
    return entry


def _channels(model: Mapping[str, Any], first: torch.Tensor | None) -> int:
    """Return the image channels, from the first convolution; folded pixels of RRDBNet are divided out."""
    if first is None:
        return 3
    count = int(first.shape[1])
    folded = class_of(model) == "RRDBNet" and model.get("unshuffle", True) and model["scale"] < 3
    return count // (4 // int(model["scale"])) ** 2 if folded else count


def _resource(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    kind = file.suffix
    return {
        "platform": _PLATFORMS[kind],
        "type": kind[1:],
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "urls": [],
    }


def write_card(folder: Path, weights: Weights, about: About, files: Sequence[Path]) -> list[Path]:
    """Write README.md and OpenModelDB's file for the files of a network; return their paths."""
    page, entry = card_files(folder, weights, about)
    page.write_text(readme(weights, about, files), encoding="utf-8")
    entry.write_text(
        json.dumps(openmodeldb(weights, about, files), indent=4, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return [page, entry]
