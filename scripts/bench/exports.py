"""Table of exports: largest difference to torch, size and seconds, for every network, scale and kind of file.

    python scripts/bench/exports.py [--small] [--kinds safetensors pth onnx fp16 ncnn]

Every network has random weights. Each file is written, opened again by the program it is for, and compared with the network
on three sizes, and, where a file has a traced size, on 1.5 and 3 times that size; this is what ``sr-convert`` does. ``onnx``
needs onnx and onnxruntime, ``ncnn`` pnnx and ncnn. ``--small`` takes 16 channels and 2 blocks instead of the papers' sizes.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sr_train.console import UsageError
from sr_train.weights.export import write
from sr_train.weights.file import Weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_model, one_scale
from sr_train.weights.open import full_arguments

NEEDED = {"onnx": ("onnx", "onnxruntime"), "fp16": ("onnx", "onnxruntime"), "ncnn": ("pnnx", "ncnn")}


def networks(small: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (title, config) of every network and scale."""
    size: dict[str, Any] = {"channels": 16, "blocks": 2} if small else {}
    for scale in (2, 3, 4):
        yield f"SRResNet x{scale}", {"_target_": "srresnet.SRResNet", "scale": scale, **size}
        yield f"MSRResNet x{scale}", {"_target_": "msrresnet.MSRResNet", "scale": scale, **size}
        baseline = {"channels": 64, "blocks": 16, "res_scale": 1.0, **size}
        yield f"EDSR baseline x{scale}", {"_target_": "edsr.EDSR", "scale": scale, **baseline}
        yield f"MDSR x{scale}", {"_target_": "mdsr.MDSR", "scales": [scale], **(size or {"blocks": 16})}
    for scale in (1, 2, 3, 4, 8):
        yield f"RRDBNet x{scale}", {"_target_": "rrdbnet.RRDBNet", "scale": scale, **(size or {"blocks": 6})}
    video = (
        {"channels": 16, "groups": 2, "front_blocks": 1, "back_blocks": 2}
        if small
        else {"channels": 64, "back_blocks": 4}
    )
    yield "EDVR x4, 5 frames", {"_target_": "edvr.EDVR", "scale": 4, "frames": 5, **video}
    yield (
        "EDVR deblur, 5 frames",
        {"_target_": "edvr.EDVR", "scale": 1, "frames": 5, "hr_in": True, "predeblur": True, **video},
    )


def weights_of(model: dict[str, Any]) -> Weights:
    """Return a network with random weights whose every part shows in the output."""
    config = full_arguments({**model, "_target_": f"sr_train.models.{model['_target_']}"})
    torch.manual_seed(0)
    network = build_model(config, where="network")
    for name, value in network.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(value, 0, 0.05)
        elif value.dim() == 4:
            nn.init.normal_(value, 0, 0.7 / value[0].numel() ** 0.5)
    return Weights(config, network.state_dict(), {"run": "bench"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("safetensors", "pth", "onnx", "fp16", "ncnn")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    missing = {k: p for k in args.kinds for p in NEEDED.get(k, ()) if importlib.util.find_spec(p) is None}
    for kind, package in missing.items():
        print(f"{kind} is left out: {package} is not installed")
    print(f"{'network':<24}{'parameters':>12}" + "".join(f"{k:>28}" for k in args.kinds if k not in missing))
    with tempfile.TemporaryDirectory(prefix="bench-exports-") as folder:
        for title, model in networks(args.small):
            weights, cells, count = weights_of(model), list[str](), 0
            for kind in args.kinds:
                if kind in missing:
                    continue
                name, precision = ("onnx", "fp16") if kind == "fp16" else (kind, "fp32")
                given = weights
                if name in write.ONE_SCALE and "scales" in weights.model:
                    given = one_scale(weights, weights.scales[0], where=title)
                path = Path(folder) / f"net{write.KINDS[name]}"
                try:
                    done = write.export(path, name, given, precision=precision)
                except (WeightsError, UsageError) as error:
                    cells.append("no: " + str(error).partition("because ")[2][:24])
                    continue
                count = done.parameters
                size = sum(f.stat().st_size for f in done.files) / 1e6
                cells.append(f"{done.difference:.1e} {size:6.1f} MB {done.seconds:5.1f} s")
                for file in done.files:
                    file.unlink()
            print(f"{title:<24}{count:>12,}" + "".join(f"{cell:>28}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
