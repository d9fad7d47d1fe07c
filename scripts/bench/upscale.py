"""Seconds of RRDBNet x4 and EDSR baseline x2 on one whole image in fp32 on a CPU: each choice of kernels=, and BasicSR.

    python scripts/bench/upscale.py --width 384 --height 288 --basicsr BASICSR_PYTHON

All ways take turns in one run, each in its own process; medians are printed. Without ``--basicsr`` BasicSR is left out.
``--tiny`` is for a trial.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from typing import Any

import torch
from peer import child

SIZES = {
    "rrdbnet": {"blocks": 23, "peer": "rrdbnet_arch.RRDBNet", "ours": "rrdbnet.RRDBNet"},
    "edsr": {"blocks": 16, "peer": "edsr_arch.EDSR", "ours": "edsr.EDSR"},
}


def network(job: dict[str, Any]) -> torch.nn.Module:
    """Build the network of a job: BasicSR's for kernels "basicsr", else ours."""
    blocks, name = job["blocks"], job["network"]
    peer = job["kernels"] == "basicsr"
    file, kind = SIZES[name]["peer" if peer else "ours"].split(".")
    build = getattr(importlib.import_module(f"basicsr.archs.{file}" if peer else f"sr_train.models.{file}"), kind)
    if peer and name == "rrdbnet":
        return build(3, 3, scale=4, num_feat=64, num_block=blocks, num_grow_ch=32)
    if peer:
        return build(3, 3, num_feat=64, num_block=blocks, upscale=2, res_scale=1.0)
    return (
        build(scale=4, blocks=blocks)
        if name == "rrdbnet"
        else build(scale=2, channels=64, blocks=blocks, res_scale=1.0)
    )


def seconds(job: dict[str, Any]) -> float:
    """Return the seconds of the second of two calls; the first one is shorter and warms up."""
    torch.manual_seed(0)
    model = network(job).eval()
    spent = 0.0
    for height, width in ((job["height"] // 4, job["width"] // 4), (job["height"], job["width"])):
        lr = torch.rand(3, height, width)
        start = time.perf_counter()
        if job["kernels"] == "basicsr":
            with torch.no_grad():
                model(lr[None])
        else:
            run = importlib.import_module("sr_train.inference.images").super_resolve
            run(model, lr, choice=job["kernels"])
        spent = time.perf_counter() - start
    return spent


def main() -> None:
    """Measure all ways in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--basicsr", help="Python of an environment with BasicSR 1.4.2")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    ways = {"exact": sys.executable, "winograd": sys.executable, "auto": sys.executable}
    ways |= {"basicsr": options.basicsr} if options.basicsr else {}
    for name, size in SIZES.items():
        job = {"network": name, "blocks": size["blocks"], "width": options.width, "height": options.height}
        job |= {"blocks": 1, "width": 32, "height": 24} if options.tiny else {}
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(1 if options.tiny else options.runs):
            for way, python in ways.items():
                found[way].append(child(python, __file__, {**job, "kernels": way})["seconds"])
        medians = {way: statistics.median(times) for way, times in found.items()}
        print(name, ", ".join(f"{way} {s:.3g} s" for way, s in medians.items()), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps({"seconds": seconds(json.loads(sys.argv[1]))}))
    else:
        main()
