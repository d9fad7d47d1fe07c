"""Time of a training step of one MDSR for three scales, against three EDSR, one per scale.

    python scripts/bench/mdsr.py
    python scripts/bench/mdsr.py --blocks 80 --rounds 5 --precision 32

A step is forward, L1, backward, Adam and the EMA of 0.999, on the same LR batch in memory, in channels-last memory. For
each scale, blocks of MDSR's steps and of EDSR's steps alternate in this process. The table shows the median block of each,
and the median over the rounds of the ratio within a round, because other load on the machine slows both blocks of a round.
The last row is the sum over the three scales. ``--no-pre`` removes the two 5x5 blocks of MDSR's branches, which EDSR does
not have. The remaining difference is the cost of three scales in one network: Adam updates one branch per step, but the
EMA averages all branches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import l1_loss

from sr_train.devices import native_bf16
from sr_train.models.edsr import EDSR
from sr_train.models.mdsr import MDSR
from sr_train.tasks.averaging import Average

SCALES = (2, 3, 4)


class Trained:
    """A network with its optimizer and its average.

    Args:
        network: called with (lr, *arguments).
        bf16: use autocast.
    """

    def __init__(self, network: nn.Module, *, device: torch.device, bf16: bool) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.average = Average(self.network, decay=0.999)
        self.cast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def step(self, lr: torch.Tensor, hr: torch.Tensor, *arguments: int) -> None:
        self.adam.zero_grad(set_to_none=True)
        with self.cast():
            loss = l1_loss(self.network(lr, *arguments).float(), hr)
        loss.backward()
        self.adam.step()
        self.average.update_parameters(self.network)


def seconds(step: Callable[[], None], count: int) -> float:
    """Return the mean seconds of a step over ``count`` steps."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=16, help="residual blocks of each network's body")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr-patch", type=int, default=48)
    parser.add_argument("--block", type=int, default=5, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["auto", "32", "bf16"], default="auto")
    parser.add_argument("--no-pre", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = options.precision == "bf16" or (options.precision == "auto" and native_bf16(device.type))
    size = {"channels": options.channels, "blocks": options.blocks}
    mdsr = Trained(MDSR(scales=SCALES, **size), device=device, bf16=bf16)
    if options.no_pre:
        assert isinstance(mdsr.network, MDSR)
        for name in mdsr.network.pre_process:
            mdsr.network.pre_process[name] = nn.Identity()
        mdsr = Trained(mdsr.network, device=device, bf16=bf16)
    single = {s: Trained(EDSR(scale=s, res_scale=1.0, **size), device=device, bf16=bf16) for s in SCALES}
    side = options.lr_patch
    lr = torch.rand(options.batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    hr = {s: torch.rand(options.batch, 3, s * side, s * side, device=device) for s in SCALES}
    one: dict[int, list[float]] = {s: [] for s in SCALES}
    three: dict[int, list[float]] = {s: [] for s in SCALES}
    for round_ in range(options.rounds + 1):
        for s in SCALES:
            times = (
                seconds(lambda s=s: mdsr.step(lr, hr[s], s), options.block),
                seconds(lambda s=s: single[s].step(lr, hr[s]), options.block),
            )
            if round_:  # the first round is the warm-up
                one[s].append(times[0])
                three[s].append(times[1])
    networks = [t.network for t in single.values()]
    print(
        f"{device}, {torch.get_num_threads()} threads, {'bf16' if bf16 else 'fp32'}, {size}, batch {options.batch} x {side} px"
    )
    print(f"parameters: MDSR {parameters(mdsr.network):,}, three EDSR {parameters(*networks):,}")
    print(f"{'scale':>6}  {'MDSR ms':>9}  {'EDSR ms':>9}  {'ratio':>6}")
    for s in SCALES:
        print(row(f"x{s}", one[s], three[s]))
    print(row("all", *([float(sum(x)) for x in zip(*t.values(), strict=True)] for t in (one, three))))


def row(name: str, a: Sequence[float], b: Sequence[float]) -> str:
    ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
    return f"{name:>6}  {statistics.median(a) * 1e3:>9.1f}  {statistics.median(b) * 1e3:>9.1f}  {ratio:>6.2f}"


if __name__ == "__main__":
    main()
