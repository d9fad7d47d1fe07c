"""Time of a modulated deformable convolution, forward and backward: torchvision's operator against grid sampling.

    python scripts/bench/deform.py [--threads 1]

3x3, 8 deformable groups, offsets with a standard deviation of 2 px, by default in tensors of (4, 64, 64, 64): four frames
of EDVR-M in a patch of 64. The implementations alternate. The table shows medians, and the median over the rounds of the
ratio to torchvision within a round, because other load on the machine slows all of a round. First, all results and
gradients are compared. ``plain`` is used for export and on other devices.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from sr_train.models.deform import _by_sampling, deformable_conv

AIM = 4.0  # target speed relative to torchvision, fp32 on a CPU, forward and backward


def now() -> float:
    """Return the time after the device has finished all operations."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def tensors(size: Sequence[int], groups: int, device: str) -> list[torch.Tensor]:
    """Return x, offset, mask, weight and bias as in a network, with the features in channels-last memory."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = size
    offset = torch.randn(batch, groups * 18, height, width, generator=generator) * 2
    near = (offset - offset.round()).abs() < 1e-3  # gradients are not continuous there
    made = [
        torch.randn(*size, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.where(near, offset.round() + 0.01, offset),
        torch.rand(batch, groups * 9, height, width, generator=generator),
        torch.randn(channels, channels, 3, 3, generator=generator) * 0.05,
        torch.zeros(channels),
    ]
    return [t.to(device) for t in made]


def timed(
    compute: Callable[..., torch.Tensor], given: Sequence[torch.Tensor]
) -> tuple[list[float], list[torch.Tensor]]:
    """Return the seconds of (forward, forward and backward), and the result with all gradients."""
    leaves = [t.detach().requires_grad_() for t in given]
    start = now()
    out = compute(*leaves)
    forward = now() - start
    out.backward(torch.ones_like(out))
    seconds = [forward, now() - start]
    grads = [t.grad for t in leaves if t.grad is not None]
    return seconds, [out.detach().float(), *grads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=4, default=(4, 64, 64, 64), help="B C h w (default: 4 64 64 64)")
    parser.add_argument("--groups", type=int, default=8, help="deformable groups (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds, after a warm-up round (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads; 1 if others use the cores (default: all cores)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    ways: dict[str, Callable[..., torch.Tensor]] = {
        "torchvision": lambda *t: deformable_conv(*t, way="torchvision"),
        "sampling": lambda *t: deformable_conv(*t, way="sampling"),
        "sampling, bf16 product": lambda *t: deformable_conv(*t, way="sampling", dtype=torch.bfloat16),
        "plain": _by_sampling,
    }
    given = tensors(args.size, args.groups, args.device)
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {load}, torch {torch.__version__}, {args.device}"
    )
    expected = timed(ways["torchvision"], given)[1]
    for name, compute in ways.items():
        errors = [
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(timed(compute, given)[1], expected, strict=True)
        ]
        print(f"{name:24} differs by {max(errors):.1e} of the largest value, forward and gradients")
    rounds = [{name: timed(compute, given)[0] for name, compute in ways.items()} for _ in range(args.rounds)]
    print(f"\n{'ms, median of ' + str(args.rounds):24}{'forward':>10}{'and backward':>14}{'times torchvision':>20}")
    for name in ways:
        forward, both = (1000 * statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        ratio = statistics.median(r["torchvision"][1] / r[name][1] for r in rounds)
        aim = f"   >= {AIM:g}: {'reached' if ratio >= AIM else 'MISSED'}" if name == "sampling" else ""
        print(f"{name:24}{forward:10.1f}{both:14.1f}{ratio:20.2f}{aim}")


if __name__ == "__main__":
    main()
