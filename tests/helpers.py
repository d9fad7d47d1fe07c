"""Small functions that several test files use; fixtures stand in conftest.py, networks and videos in nets/."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr_train.data.images import read_image, write_image
from sr_train.data.toy import toy_files
from sr_train.models.edvr import EDVR

#: Two loader workers that import everything again.
SPAWN = pytest.param(2, "spawn", marks=pytest.mark.slow)
#: Header of a small EDSR's weights file.
EDSR_MODEL = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}


def count(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Return true for two states with the same names and, bit for bit, the same values."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def small_edvr(**options: object) -> EDVR:
    """An EDVR of 8 channels whose every term shows in the output."""
    torch.manual_seed(0)
    network = EDVR(**{"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1, **options})
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, 0, 0.2 if "conv_offset" in name else 0.08)
    return network.eval()


def photograph(name: str = "chelsea") -> np.ndarray:
    """[H, W, 3] uint8: one of scikit-image's photographs."""
    return read_image(toy_files(name)[name])


def write_all(folder: Path, images: Mapping[str, np.ndarray]) -> str:
    """Write images as PNG files below a folder, under their names."""
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{name}.png", image)
    return str(folder)
