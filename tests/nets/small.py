"""Small networks of every class, for tests of what all of them do."""

import torch
from torch import nn

from sr_train.models import contract
from sr_train.models.edsr import EDSR
from sr_train.models.edvr import EDVR
from sr_train.models.mdsr import MDSR
from sr_train.models.msrresnet import MSRResNet
from sr_train.models.rrdbnet import RRDBNet
from sr_train.models.srresnet import SRResNet

NETWORKS = {
    "edsr": lambda **k: EDSR(scale=2, channels=4, blocks=1, **k),
    "mdsr": lambda **k: MDSR(scales=[2, 3], channels=4, blocks=1, **k),
    "mdsr_shared": lambda **k: MDSR(scales=[2], channels=4, blocks=1, shared_tail=True, **k),
    "srresnet": lambda **k: SRResNet(scale=2, channels=4, blocks=1, **k),
    "msrresnet": lambda **k: MSRResNet(scale=2, channels=4, blocks=1, **k),
    "rrdbnet": lambda **k: RRDBNet(scale=4, channels=4, growth=2, blocks=1, **k),
    "rrdbnet_unshuffle": lambda **k: RRDBNet(scale=2, channels=4, growth=2, blocks=1, **k),
    "edvr": lambda **k: EDVR(channels=8, groups=2, frames=3, front_blocks=1, back_blocks=1, **k),
    "edvr_predeblur": lambda **k: EDVR(channels=8, groups=2, frames=3, front_blocks=1, back_blocks=1, predeblur=True, **k),
    "edvr_hr_in": lambda **k: EDVR(scale=1, channels=8, groups=2, frames=3, front_blocks=1, back_blocks=1, hr_in=True, **k),
}  # fmt: skip


def upscale(network: nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """Run a network, with several scales its first branch."""
    return network(lr, contract.scales(network)[0]) if contract.branches(network) else network(lr)
