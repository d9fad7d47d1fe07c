"""Quality of an image without a reference, by pyiqa (``pip install "sr-train[metrics]"``): NIQE and PI."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sr_train.metrics.functional import quantize


def open_no_reference(name: str) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """``niqe`` or ``pi``: (result [3, H, W] uint8 or float in [0, 1], HR, not looked at) -> a number, lower is better."""
    try:
        import pyiqa  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ModuleNotFoundError(
            f'metrics=[{name}] is computed by pyiqa, which is not installed: pip install "sr-train[metrics]"'
        ) from None
    metric = pyiqa.create_metric(name, device="cpu")

    @torch.no_grad()
    def measure(sr: torch.Tensor, hr: torch.Tensor) -> float:
        return float(metric((quantize(sr.cpu()) / 255).float()[None]))

    return measure
