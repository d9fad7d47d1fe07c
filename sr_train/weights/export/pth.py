"""Files with BasicSR's keys: ``{"params": tensors, "params_ema": tensors}``.

Our names of tensors are BasicSR's. Both entries contain the same tensors, which the file stores once: BasicSR reads ``params``
unless ``param_key_g`` is given, Real-ESRGAN and spandrel prefer ``params_ema``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sr_train.weights.export.openers import class_of, without_basicsr, without_spandrel
from sr_train.weights.file import Weights, load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network

_OPTIONS = {  # our argument -> BasicSR's
    "RRDBNet": {"scale": "scale", "channels": "num_feat", "blocks": "num_block", "growth": "num_grow_ch"},
    "EDSR": {"scale": "upscale", "channels": "num_feat", "blocks": "num_block", "res_scale": "res_scale"},
    "MSRResNet": {"scale": "upscale", "channels": "num_feat", "blocks": "num_block"},
    "EDVR": {
        "channels": "num_feat", "frames": "num_frame", "groups": "deformable_groups", "front_blocks": "num_extract_block",
        "back_blocks": "num_reconstruct_block", "tsa": "with_tsa", "predeblur": "with_predeblur", "hr_in": "hr_in",
    },
}  # fmt: skip

_UNSAID = ("res_scale",)  # arguments that change the output and cannot be seen from the tensors


def basicsr_options(model: dict[str, Any]) -> dict[str, Any]:
    """Return ``network_g`` of BasicSR's option file for a network with all its arguments; empty if BasicSR lacks it."""
    if without_basicsr(model):
        return {}
    name = class_of(model)
    return {"type": name, **{theirs: model[ours] for ours, theirs in _OPTIONS[name].items() if ours in model}}


def write_pth(path: Path, weights: Weights) -> None:
    """Write a file with BasicSR's keys. Raise WeightsError if neither BasicSR nor spandrel computes the same from it."""
    reason = without_basicsr(weights.model)
    if reason and without_spandrel(weights.model):
        raise WeightsError(
            f"{path.name}: not written, because BasicSR would not open it: {reason}; give out=NAME.onnx or out=NAME.safetensors"
        )
    state = {name: value.detach().cpu().contiguous() for name, value in weights.state.items()}
    torch.save({"params": state, "params_ema": state}, path)


def open_pth(path: Path, weights: Weights) -> nn.Module:
    """Return a network rebuilt from the names and shapes of the tensors in a file, as for a file of another program.

    Raises WeightsError if its tensors are not those of ``weights``, bit for bit.
    """
    read = load_weights(path, scale=weights.scale)
    if read.state.keys() != weights.state.keys() or not all(
        torch.equal(v, weights.state[k]) for k, v in read.state.items()
    ):
        raise WeightsError(f"{path.name}: the tensors that were read are not those that were written")
    unsaid = {k: weights.model[k] for k in _UNSAID if k in weights.model}
    return build_network(Weights({**read.model, **unsaid}, read.state), where=path.name)
