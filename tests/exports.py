"""Networks of every kind for tests of exports: small, with weights whose every term shows in the output."""

import functools

import torch
from torch import nn

from sr_train.weights.file import Weights
from sr_train.weights.network import build_model
from sr_train.weights.open import full_arguments

EDVR = {"scale": 4, "channels": 8, "frames": 3, "groups": 2, "front_blocks": 1, "back_blocks": 1}
_SMALL = {"channels": 12, "blocks": 2}


def _all():
    for scale in (1, 2, 3, 4, 8):
        for unshuffle in (True, False) if scale < 3 else (True,):
            model = {"scale": scale, "growth": 32, "unshuffle": unshuffle, **_SMALL}
            yield f"rrdbnet_x{scale}{'' if unshuffle else '_plain'}", "rrdbnet.RRDBNet", model
    yield "rrdbnet_growth_16", "rrdbnet.RRDBNet", {"scale": 4, "growth": 16, **_SMALL}
    for scale in (2, 3, 4):
        yield f"edsr_x{scale}", "edsr.EDSR", {"scale": scale, "res_scale": 1.0, **_SMALL}
        yield f"msrresnet_x{scale}", "msrresnet.MSRResNet", {"scale": scale, **_SMALL}
        yield f"srresnet_x{scale}", "srresnet.SRResNet", {"scale": scale, **_SMALL}
        for shared in (True, False):
            name = f"mdsr_x{scale}{'_shared' if shared else ''}"
            yield name, "mdsr.MDSR", {"scales": [scale], "shared_tail": shared, **_SMALL}
    yield "edsr_res_scale", "edsr.EDSR", {"scale": 2, "res_scale": 0.5, **_SMALL}
    yield "mdsr", "mdsr.MDSR", {"scales": [2, 3, 4], **_SMALL}
    yield "edvr", "edvr.EDVR", EDVR
    yield "edvr_plain", "edvr.EDVR", {**EDVR, "tsa": False, "predeblur": True}
    yield "edvr_deblur", "edvr.EDVR", {**EDVR, "scale": 1, "hr_in": True, "predeblur": True}
    yield "edvr_second", "edvr.EDVR", {**EDVR, "scale": 1, "hr_in": True}


NETWORKS = {name: {"_target_": f"sr_train.models.{target}", **model} for name, target, model in _all()}
SEVERAL = ["mdsr"]  #: networks with several scales
VIDEO = [name for name in NETWORKS if name.startswith("edvr")]
BASICSR = [  #: networks that BasicSR 1.4.2 has
    "rrdbnet_x1", "rrdbnet_x2", "rrdbnet_x4", "rrdbnet_growth_16", "edsr_x2", "edsr_x3", "edsr_x4", "edsr_res_scale",
    "msrresnet_x2", "msrresnet_x3", "msrresnet_x4", "edvr", "edvr_plain", "edvr_deblur",
]  # fmt: skip


@functools.cache
def weights_of(name: str) -> Weights:
    """Return a network's random weights; statistics of BatchNorm are random as well."""
    model = full_arguments(NETWORKS[name])
    torch.manual_seed(0)
    network = build_model(model, where=name)
    for key, value in (*network.named_parameters(), *network.named_buffers()):
        if "conv_offset" in key:
            nn.init.normal_(value, 0, 0.2)
        elif value.dim() == 4 and key != "mean":
            nn.init.normal_(value, 0, 0.7 / value[0].numel() ** 0.5)
        elif key.endswith("bias") or key.endswith("running_mean"):
            nn.init.normal_(value, 0, 0.05)
        elif key.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 1.5)
    scores = {"set5/y/psnr": 30.1234, "set5/y/ssim": 0.87, "toy/rgb/psnr": 28.5}
    return Weights(model, network.state_dict(), {"run": "mine", "stage": "gan", "step": 700, "data": ["DIV2K"]}, scores)
