"""Time of a video network on a clip: features of a frame computed once, against once per window.

    python scripts/bench/features.py [--frames 20] [--width 320] [--height 180] [--runs 3] [--bf16] [--ensemble]

The network is EDVR-M with random weights and random offsets, so that it samples between pixels. Both methods alternate; the
times are medians of ``--runs``. The results must be equal up to float rounding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from sr_train import super_resolve
from sr_train.inference.clips import super_resolve_clip, windows
from sr_train.models.edvr import EDVR


def by_windows(network: EDVR, clip: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """Run the whole network on each window: features of each frame are computed T times."""
    return [super_resolve(network, window, **options) for _, window in windows(clip, network.frames)]


def once(network: EDVR, clip: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """Compute the features of each frame once, as ``sr-upscale`` and ``sr-eval`` do."""
    return list(super_resolve_clip(network, clip, **options))


def main() -> None:
    """Print both times per frame, their ratio and the largest difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=180)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--ensemble", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    network = EDVR().eval()
    for name, parameter in network.named_parameters():
        if "conv_offset" in name:
            torch.nn.init.normal_(parameter, 0, 0.02)
    network = network.to(memory_format=torch.channels_last)
    clip = torch.rand(given.frames, 3, given.height, given.width)
    options: dict[str, Any] = {"ensemble": given.ensemble, "precision": "bf16" if given.bf16 else "32"}
    times: dict[str, list[float]] = {"by_windows": [], "once": []}
    found: dict[str, list[torch.Tensor]] = {}
    for _ in range(given.runs):
        for way in (by_windows, once):
            start = time.perf_counter()
            found[way.__name__] = way(network, clip, **options)
            times[way.__name__].append((time.perf_counter() - start) / given.frames)
            print(f"{way.__name__}: {times[way.__name__][-1]:.3f} s per frame", flush=True)
    slow, fast = (statistics.median(times[name]) for name in ("by_windows", "once"))
    off = max(float((a - b).abs().max()) for a, b in zip(*found.values(), strict=True))
    size = f"{given.frames} frames of {given.width}x{given.height}, {options['precision']}, {torch.get_num_threads()} threads"
    print(
        f"EDVR-M, {size}: features per window {slow:.3f} s per frame, features once {fast:.3f} s: {slow / fast:.2f} times"
    )
    print(f"largest difference {off:.1e}")


if __name__ == "__main__":
    main()
