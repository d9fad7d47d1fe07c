"""Metrics besides PSNR and SSIM: LPIPS, a distance between a result and HR, and NIQE, which needs no HR. Lower is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch

from sr_train.console import UsageError, warn
from sr_train.data.dataset import EvalSet
from sr_train.data.lone import LoneImages
from sr_train.devices import full_fp32
from sr_train.evaluation.lpips_files import NETWORKS, find_lpips
from sr_train.metrics.lpips import LAYERS, LPIPS, released_version
from sr_train.metrics.niqe import BLOCK, NoScoreError, has_score, niqe
from sr_train.models.features import FILES, FeatureExtractor
from sr_train.models.frozen_features import FeatureError
from sr_train.torch_files import read_tensors

_LIN = {  # channels of the lin layers of each network
    "alexnet": [64, 192, 384, 256, 256],
    "vgg16": [64, 128, 256, 512, 512],
}

_SQUEEZE = [64, 128, 256, 384, 384, 512, 512]

_FILES = "alex.pth or vgg.pth of the lpips package's weights/v0.1"

PROTOCOL = "perceptual"  #: protocol's name in rows of these metrics; also used by sr_train.training.validation

METRICS = ("psnr", "ssim", "lpips", "niqe")

LOWER = ("lpips", "niqe")  #: metrics for which lower is better

_NOT_COMPUTED = ("pi", "ma")


@dataclass(frozen=True)
class PerceptualMetric:
    """A metric with a definition of its own, such as LPIPS.

    The protocols (color channel, border, ...) apply only to PSNR and SSIM.
    """

    compute: Callable[[torch.Tensor, torch.Tensor | None, int], float]  #: function of (result, HR, scale)
    definition: str  #: name and version, for the line below a table
    values: str  #: pixels that it reads, for this line
    needs_hr: bool = True

    def __call__(self, sr: torch.Tensor, hr: torch.Tensor | None, scale: int) -> float | None:
        """Return the score of a result ``sr`` against ``hr``, [1 or 3, H, W] each, computed on one device in fp32.

        ``hr`` is None for an image without HR. Return None for an image that has no score, e.g. a small one for NIQE.
        """
        with full_fp32():
            try:
                return self.compute(sr, hr, scale)
            except NoScoreError:
                return None


def perceptual_scores(
    metrics: Mapping[str, PerceptualMetric],
    chosen: Sequence[str],
    sr: torch.Tensor,
    hr: torch.Tensor | None,
    scale: int,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Return {metric: score} of one image; a metric that has no score of the image is left out.

    Args:
        metrics: the metrics that are open.
        chosen: names of the metrics to compute. For an image without HR, all metrics that need none are computed.
        sr: result, [C, H, W].
        hr: HR image, or None.
        scale: HR pixels per LR pixel.
        device: device to which the images are moved for metrics that run a network; None for that of the images.
    """

    def score(metric: PerceptualMetric) -> float | None:
        if device is None or hr is None or not metric.needs_hr:
            return metric(sr, hr, scale)
        return metric(sr.to(device), hr.to(device), scale)

    own = {name: metric for name, metric in metrics.items() if name in chosen or hr is None}
    found = {name: score(m) for name, m in own.items() if hr is not None or not m.needs_hr}
    return {name: value for name, value in found.items() if value is not None}


def check_scored(sets: Mapping[str, EvalSet]) -> None:
    """Raise ValueError for a set without HR in which no image is large enough for NIQE, its only score."""
    for name, images in sets.items():
        if isinstance(images, LoneImages) and not any(
            has_score(*images.hr_size(i), border=images.scale) for i in range(len(images))
        ):
            raise ValueError(
                f"{name}: {images.name}: the only score of images without HR is NIQE, which needs two blocks of {BLOCK}x{BLOCK}"
                f" pixels without a border of {images.scale} in the result; all {len(images)} images are smaller"
            )


def lower_is_better(score: str) -> bool:
    """Return true if lower is better for a score or metric, e.g. ``real/perceptual/niqe``."""
    return score.rpartition("/")[2] in LOWER


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
        lambda sr, hr, _: lpips.to(sr.device).score(sr, cast("torch.Tensor", hr).to(sr.device)),
        f"{which} (lower is better)",
        "RGB, 8-bit images, no border",
    )


def open_niqe() -> PerceptualMetric:
    """Open NIQE. A border of ``scale`` pixels is ignored, as BasicSR does for its models."""
    return PerceptualMetric(
        lambda sr, _, scale: niqe(sr, border=scale),
        "NIQE of Mittal et al. 2013 (lower is better)",
        "Y of BT.601 rounded to 8 bits, gray images by their own values, border scale px ignored",
        needs_hr=False,
    )


def _lpips_file(lpips: str | None, keys: str) -> str:
    """Return the file of LPIPS: ``lpips`` as typed, or the file found for ``alex``, ``vgg`` or None (``alex``)."""
    network = "alex" if lpips is None else lpips
    if network not in NETWORKS or Path(network).exists():
        return network
    file = find_lpips(network)
    if file is None:
        raise UsageError(
            f"{keys}metrics=[lpips] needs a file of weights, and neither an installed lpips package nor torch's "
            f"cache ({Path(torch.hub.get_dir()) / 'checkpoints'}) contains one: run pip install lpips, or give "
            f"{keys}lpips=FILE, {_FILES}"
        )
    return file


def open_perceptual(
    metrics: Sequence[str], lpips: str | None, *, keys: str = "", without_hr: bool = False
) -> dict[str, PerceptualMetric]:
    """Open the metrics in ``metrics`` other than PSNR and SSIM. Return {name: metric}.

    Raises UsageError for an unknown metric and for a missing file.

    Args:
        metrics: names of metrics.
        lpips: file of LPIPS, or ``alex`` or ``vgg`` for a file that is searched; None for ``alex``.
        keys: prefix of the options ``metrics=`` and ``lpips=`` in messages, e.g. ``validate.``.
        without_hr: true if there are images without HR; NIQE is opened for them.
    """
    asked = [m for m in metrics if m in _NOT_COMPUTED]
    if asked:
        raise UsageError(
            f"{keys}metrics=[{','.join(asked)}]: PI is not computed, because it needs Ma's score, whose model is published for "
            f"MATLAB only and without a license; give {keys}metrics=[niqe], or choose from {', '.join(METRICS)}"
        )
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise UsageError(f"{keys}metrics={list(metrics)}: choose from {', '.join(METRICS)}")
    found: dict[str, PerceptualMetric] = {}
    if "lpips" in metrics:
        found["lpips"] = open_lpips(_lpips_file(lpips, keys), key=f"{keys}lpips")
    if "niqe" in metrics or without_hr:
        found["niqe"] = open_niqe()
    return found
