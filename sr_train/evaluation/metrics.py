"""Metrics besides PSNR and SSIM, by name: LPIPS against HR; lower is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sr_train.console import UsageError, warn
from sr_train.metrics.lpips import LPIPS, released_version
from sr_train.models.features import FILES, FeatureError, FeatureExtractor
from sr_train.torch_files import read_tensors

_LAYERS = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}

_LIN = {  # channels of the lin layers of each network
    "alexnet": [64, 192, 384, 256, 256],
    "vgg16": [64, 128, 256, 512, 512],
}

_SQUEEZE = [64, 128, 256, 384, 384, 512, 512]

_FILES = "alex.pth or vgg.pth of the lpips package's weights/v0.1"

PROTOCOL = (
    "perceptual"  #: what their rows are called where PSNR and SSIM have a protocol; as in sr_train.training.validation
)

METRICS = ("psnr", "ssim", "lpips")

_NOT_COMPUTED = ("niqe", "pi")


@dataclass(frozen=True)
class PerceptualMetric:
    """A metric that no protocol computes."""

    compute: Callable[[torch.Tensor, torch.Tensor], float]
    definition: str  #: for the line below a table

    def __call__(self, sr: torch.Tensor, hr: torch.Tensor) -> float:
        """Score a result against HR, [3, H, W] each, on one device."""
        return self.compute(sr, hr)


def _network_of(file: str, state: Mapping[str, torch.Tensor]) -> Literal["alexnet", "vgg16"]:
    """Return the network whose features the lin layers of a file weigh. Raises ValueError with what the file holds."""
    lin = {name: t.numel() for name, t in state.items() if name.startswith("lin") and name.endswith(".model.1.weight")}
    sizes = [lin[name] for name in sorted(lin)]
    if sizes == _LIN["alexnet"]:
        return "alexnet"
    if sizes == _LIN["vgg16"]:
        return "vgg16"
    if sizes == _SQUEEZE:
        raise ValueError(f"{file}: holds the lin layers of SqueezeNet, which is not supported")
    if sizes:
        raise ValueError(f"{file}: holds lin layers of {sizes} weights; expected {_LIN['alexnet']} or {_LIN['vgg16']}")
    kind = "the weights of an ImageNet network" if any(n.startswith("features.") for n in state) else "other tensors"
    raise ValueError(f"{file}: holds no lin layers (lin0.model.1.weight, ...) but {kind}")


def open_lpips(file: str, *, key: str = "lpips") -> PerceptualMetric:
    """LPIPS with the lin layers of ``file``; the network's own weights from the same file or, without them, torch's.

    ``key`` is what a user types before ``=FILE``.
    """
    try:  # before a network is downloaded
        state = read_tensors(file)
        network = _network_of(file, state)
        version = released_version(file, [state[f"lin{i}.model.1.weight"] for i in range(len(_LIN[network]))])
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}={error}; give {_FILES}") from None
    whole = any(name.startswith("features.") for name in state)
    try:
        extractor = FeatureExtractor(network=network, layers=_LAYERS[network], weights=file if whole else None)
        lpips = LPIPS(extractor=extractor, weights=file)
    except FeatureError as error:
        needs = f"{key}={file} holds LPIPS's lin layers alone; it needs {FILES[network]} of torchvision as well. "
        raise ValueError(f"{'' if whole else needs}{error}") from None
    except ValueError as error:
        raise ValueError(f"{key}={error}; give {_FILES}") from None
    which = "LPIPS v0.1"
    if version is None:
        which += f" with the lin layers of {Path(file).name}"
        warn(f"{key}={file}: its lin layers are of no released version of LPIPS; they are used as v0.1's are")
    return PerceptualMetric(
        lambda sr, hr: lpips.to(sr.device).score(sr, hr.to(sr.device)), f"{which} (lower is better)"
    )


def open_perceptual(metrics: Sequence[str], lpips: str | None, *, keys: str = "") -> dict[str, PerceptualMetric]:
    """Those of ``metrics`` that no protocol computes. Raises UsageError for what is not known or not given.

    ``keys`` stands before ``metrics=`` and ``lpips=`` where a user types them.
    """
    asked = [m for m in metrics if m in _NOT_COMPUTED]
    if asked:
        raise UsageError(
            f"{keys}metrics=[{','.join(asked)}]: NIQE and PI are not computed: pyiqa, which has them, is licensed for "
            f"noncommercial use only and brings a second OpenCV; choose from {', '.join(METRICS)}"
        )
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise UsageError(f"{keys}metrics={list(metrics)}: choose from {', '.join(METRICS)}")
    if "lpips" not in metrics:
        return {}
    if lpips is None:
        raise UsageError(f"{keys}metrics=[lpips] needs its weights: give {keys}lpips=FILE, {_FILES}")
    return {"lpips": open_lpips(lpips, key=f"{keys}lpips")}
