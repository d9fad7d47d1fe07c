"""Metrics besides PSNR and SSIM. There is one: LPIPS, a distance between a result and HR, for which lower is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sr_train.console import UsageError, warn
from sr_train.devices import full_fp32
from sr_train.metrics.lpips import LAYERS, LPIPS, released_version
from sr_train.models.features import FILES, FeatureError, FeatureExtractor
from sr_train.torch_files import read_tensors

_LIN = {  # channels of the lin layers of each network
    "alexnet": [64, 192, 384, 256, 256],
    "vgg16": [64, 128, 256, 512, 512],
}

_SQUEEZE = [64, 128, 256, 384, 384, 512, 512]

_FILES = "alex.pth or vgg.pth of the lpips package's weights/v0.1"

PROTOCOL = "perceptual"  #: protocol's name in rows of these metrics; also used by sr_train.training.validation

METRICS = ("psnr", "ssim", "lpips")

_NOT_COMPUTED = ("niqe", "pi")


@dataclass(frozen=True)
class PerceptualMetric:
    """A metric with a definition of its own, such as LPIPS.

    The protocols (color channel, border, ...) apply only to PSNR and SSIM.
    """

    compute: Callable[[torch.Tensor, torch.Tensor], float]
    definition: str  #: text for the line below a table

    def __call__(self, sr: torch.Tensor, hr: torch.Tensor) -> float:
        """Return the score of a result ``sr`` against ``hr``, [1 or 3, H, W] each, computed on one device in fp32."""
        with full_fp32():
            return self.compute(sr, hr)


def _network_of(file: str, state: Mapping[str, torch.Tensor]) -> Literal["alexnet", "vgg16"]:
    """Return the network whose features the lin layers (LPIPS's learned weights) of a file belong to.

    Raises ValueError if the file has no lin layers, or lin layers for another network. The message describes the file's
    contents.
    """
    lin = {name: t.numel() for name, t in state.items() if name.startswith("lin") and name.endswith(".model.1.weight")}
    sizes = [lin[name] for name in sorted(lin)]
    if sizes == _LIN["alexnet"]:
        return "alexnet"
    if sizes == _LIN["vgg16"]:
        return "vgg16"
    if sizes == _SQUEEZE:
        raise ValueError(f"{file}: contains the lin layers of SqueezeNet, which is not supported")
    if sizes:
        raise ValueError(
            f"{file}: contains lin layers of {sizes} weights; expected {_LIN['alexnet']} or {_LIN['vgg16']}"
        )
    kind = "the weights of an ImageNet network" if any(n.startswith("features.") for n in state) else "other tensors"
    raise ValueError(f"{file}: contains no lin layers (lin0.model.1.weight, ...), but {kind}")


def open_lpips(file: str, *, key: str = "lpips") -> PerceptualMetric:
    """Open LPIPS with the lin layers (LPIPS's learned weights) in ``file``.

    The weights of the feature network come from the same file. If the file does not contain them, they come from
    torchvision. ``key`` is the name of the option in messages.
    """
    try:  # before a network is downloaded
        state = read_tensors(file)
        network = _network_of(file, state)
        version = released_version(file, [state[f"lin{i}.model.1.weight"] for i in range(len(_LIN[network]))])
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}={error}; give {_FILES}") from None
    whole = any(name.startswith("features.") for name in state)
    try:
        extractor = FeatureExtractor(network=network, layers=LAYERS[network], weights=file if whole else None)
        lpips = LPIPS(extractor=extractor, weights=file)
    except FeatureError as error:
        needs = f"{key}={file} contains only LPIPS's lin layers; torchvision's file {FILES[network]} is also needed. "
        raise ValueError(f"{'' if whole else needs}{error}") from None
    except ValueError as error:
        raise ValueError(f"{key}={error}; give {_FILES}") from None
    which = "LPIPS v0.1"
    if version is None:
        which += f" with the lin layers of {Path(file).name}"
        warn(f"{key}={file}: these lin layers are not from a released version of LPIPS; they are used as in LPIPS v0.1")
    return PerceptualMetric(
        lambda sr, hr: lpips.to(sr.device).score(sr, hr.to(sr.device)), f"{which} (lower is better)"
    )


def open_perceptual(metrics: Sequence[str], lpips: str | None, *, keys: str = "") -> dict[str, PerceptualMetric]:
    """Open the metrics in ``metrics`` other than PSNR and SSIM. Return {name: metric}.

    Raises UsageError for an unknown metric and for a missing file. ``keys`` is the prefix of the options ``metrics=``
    and ``lpips=`` in messages, e.g. ``validate.``.
    """
    asked = [m for m in metrics if m in _NOT_COMPUTED]
    if asked:
        raise UsageError(
            f"{keys}metrics=[{','.join(asked)}]: NIQE and PI are not available: pyiqa, which computes them, is licensed for "
            f"noncommercial use only and installs a second OpenCV; choose from {', '.join(METRICS)}"
        )
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise UsageError(f"{keys}metrics={list(metrics)}: choose from {', '.join(METRICS)}")
    if "lpips" not in metrics:
        return {}
    if lpips is None:
        raise UsageError(f"{keys}metrics=[lpips] needs a file of weights; give {keys}lpips=FILE, {_FILES}")
    return {"lpips": open_lpips(lpips, key=f"{keys}lpips")}
