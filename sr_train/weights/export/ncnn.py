"""ncnn files, NAME.param and NAME.bin, by pnnx, the converter of ncnn's authors.

The blobs are named ``data`` and ``output``, as the programs of Real-ESRGAN and Upscayl expect. One image is upscaled at once,
its sides are multiples of the network's ``multiple_of``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sr_train.weights.export.compare import Run, traced_shape, without_batchnorm
from sr_train.weights.export.optional import optional
from sr_train.weights.foreign.base import WeightsError

NEEDED = (
    "out=NAME.param needs the packages pnnx and ncnn, which are optional; in the checkout of sr-train: "
    'python -m pip install ".[ncnn]"'
)


class _Image(nn.Module):
    """Network with one scale, whose only input is the image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def write_ncnn(param: Path, network: nn.Module, *, precision: str) -> None:
    """Write ``param`` and, next to it, the file with the suffix .bin."""
    pnnx = optional("pnnx", NEEDED)
    _, *rest, height, _ = traced_shape(network)
    unit = height // 4  # small, because pnnx keeps all maps in memory; two sizes make the sides dynamic
    sizes = [[1, *rest, unit * 2, unit * 3], [1, *rest, unit * 3, unit * 5]]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes are checked by running the file
        jit = cast("Any", torch.jit)
        traced = jit.trace(_Image(without_batchnorm(network)), torch.rand(sizes[0]), check_trace=False)
        traced.save(str(Path(folder) / "net.pt"))
        command = [pnnx.EXEC_PATH, "net.pt", f"fp16={int(precision == 'fp16')}"]
        for key, size in zip(("inputshape", "inputshape2"), sizes, strict=True):
            command.append(f"{key}={str(size).replace(' ', '')}")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        made = Path(folder) / "net.ncnn.param"
        if done.returncode or not made.exists():
            last = " ".join((done.stderr or done.stdout).split())[-300:]
            if done.returncode == -9:
                last = "it was killed, probably because the memory is full"
            raise WeightsError(f"{param.name}: not written, because pnnx failed with code {done.returncode}: {last}")
        text = re.sub(r"(?<=\s)out0(?=\s)", "output", re.sub(r"(?<=\s)in0(?=\s)", "data", made.read_text()))
        param.write_text(text)
        param.with_suffix(".bin").write_bytes(made.with_suffix(".bin").read_bytes())


def open_ncnn(param: Path) -> Run:
    """Return a function that runs one image, [1, C, h, w], in ncnn on the CPU, in float32."""
    ncnn = optional("ncnn", NEEDED)
    net = ncnn.Net()
    options = net.opt
    options.use_vulkan_compute = options.use_fp16_packed = options.use_fp16_storage = False
    options.use_fp16_arithmetic = options.use_bf16_storage = False
    options.num_threads = torch.get_num_threads()
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise WeightsError(f"{param.name}: ncnn cannot read it")

    def run(x: torch.Tensor) -> torch.Tensor:
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(x[0].contiguous().numpy()).clone())
        _, found = extractor.extract("output")
        return torch.tensor(found.numpy())[None]

    return run
