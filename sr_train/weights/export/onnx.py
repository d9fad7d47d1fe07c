"""ONNX files: batch, height and width are dynamic, any size is accepted, input and output are float32 in [0, 1].

Written by torch's exporter of TorchScript. Measured with torch 2.14: it is right at every size for all our networks and takes
0.2 to 2 seconds, where the exporter of ``torch.export`` takes 1.4 to 28 seconds for the same files.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sr_train.weights.export.compare import AnySize, Run, traced_shape, without_batchnorm
from sr_train.weights.export.optional import optional

OPSET = 20  #: newest one that torch's exporter writes; ONNX 1.15 (2023)

NEEDED = (
    "out=NAME.onnx needs the packages onnx and onnxruntime, which are optional; in the checkout of sr-train: "
    'python -m pip install ".[onnx]"'
)


def write_onnx(path: Path, network: nn.Module, *, precision: str, metadata: Mapping[str, str]) -> None:
    """Write a network with one scale as ONNX. ``metadata`` becomes the file's ``metadata_props``."""
    onnx = optional("onnx", NEEDED)
    optional("onnxruntime", NEEDED)
    module = AnySize(without_batchnorm(network), float16=precision == "fp16").eval()
    shape, content = traced_shape(network), io.BytesIO()
    height, width = len(shape) - 2, len(shape) - 1
    axes = {
        "input": {0: "batch", height: "height", width: "width"},
        "output": {0: "batch", 2: "sr_height", 3: "sr_width"},
    }
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # sizes are checked by running the file
            cast("Any", torch.onnx).export(
                module,
                (torch.rand(shape),),
                content,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        quiet.setLevel(level)
    model = onnx.load_from_string(content.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def open_onnx(path: Path) -> Run:
    """Return a function that runs an ONNX file in onnxruntime, on the CPU."""
    onnxruntime = optional("onnxruntime", NEEDED)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.as_tensor(session.run(None, {"input": x.numpy()})[0])
