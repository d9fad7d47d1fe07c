"""Measures beside PSNR and SSIM, by name: LPIPS against HR, and NIQE and PI of the result alone; lower is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Measure = Callable[[torch.Tensor, torch.Tensor], float]  #: ([3, H, W] result, HR), on one device -> a number

_LAYERS = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}
PROTOCOL = "perceptual"  #: what their rows are called where PSNR and SSIM have a protocol; as in sr_train.validation
DEFINITIONS = {
    "lpips": "LPIPS v0.1 (lower is better)",
    "niqe": "NIQE by pyiqa, of the result alone (lower is better)",
    "pi": "PI of PIRM 2018 by pyiqa, (10 - Ma + NIQE) / 2, of the result alone (lower is better)",
}
METRICS = ("psnr", "ssim", *DEFINITIONS)


def open_lpips(file: str) -> Measure:
    """LPIPS with the lin layers of ``file``; the network's own weights from the same file or, without them, torch's."""
    from sr_train.metrics.lpips import LPIPS
    from sr_train.models.features import FeatureExtractor
    from sr_train.tensor_files import read_tensors

    try:
        state = read_tensors(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"lpips={file}: {error}; give alex.pth or vgg.pth of the lpips package's weights/v0.1"
        ) from None
    second = state.get("lin1.model.1.weight")
    network = "vgg16" if second is not None and second.numel() == 128 else "alexnet"
    whole = any(name.startswith("features.") for name in state)
    extractor = FeatureExtractor(network=network, layers=_LAYERS[network], weights=file if whole else None)
    lpips = LPIPS(extractor=extractor, weights=file)
    return lambda sr, hr: lpips.to(sr.device).score(sr, hr.to(sr.device))


def open_measures(metrics: Sequence[str], lpips: str | None, *, keys: str = "") -> dict[str, Measure]:
    """Those of ``metrics`` that no protocol computes. Raises ValueError for what is not known or not given.

    ``keys`` stands before ``metrics=`` and ``lpips=`` where a user types them.
    """
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"{keys}metrics={list(metrics)}: choose from {', '.join(METRICS)}")
    measures: dict[str, Measure] = {}
    for name in metrics:
        if name == "lpips":
            if lpips is None:
                raise ValueError(
                    f"{keys}metrics=[lpips] needs its weights: give {keys}lpips=FILE, alex.pth or vgg.pth of the lpips "
                    "package's weights/v0.1"
                )
            measures[name] = open_lpips(lpips)
        elif name in DEFINITIONS:
            from sr_train.metrics.no_reference import open_no_reference

            measures[name] = open_no_reference(name)
    return measures
