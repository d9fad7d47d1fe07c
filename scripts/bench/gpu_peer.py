"""A job of gpu.py: steps of BasicSR 1.4.2 for the networks of our recipes, in fp32 as its own models run them.

    BASICSR_PYTHON scripts/bench/gpu_peer.py JOB

It calls ``feed_data`` and ``optimize_parameters`` of SRModel, ESRGANModel and EDVRModel with random pixels on the host, as its
training loop does. This file does not import sr_train.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

import torch
from dispatch import peer_options
from peer import peak, stand_in


def real_size(job: dict[str, Any]) -> tuple[dict[str, Any], int, int]:
    """Return the options with the networks of the papers, the batch and the LR patch of the recipe."""
    task, opt = job["task"], peer_options(job["task"])
    if job["tiny"]:
        if task == "gan":
            opt["network_g"]["num_block"] = 1
        return opt, 1, 32 if task == "gan" else 16
    opt["network_g"]["num_feat"] = 64
    if task == "gan":
        opt["network_g"]["num_grow_ch"] = 32
        opt["network_d"]["num_feat"] = 64
    return opt, job["batch"], job["lr_patch"]


def main() -> None:
    job = json.loads(sys.argv[1])
    device, tiny, task = job["device"], job["tiny"], job["task"]
    stand_in()
    importlib.import_module("basicsr.archs")
    vgg: Any = importlib.import_module("torchvision.models.vgg")
    build = vgg.vgg19
    vgg.vgg19 = lambda **_: build(weights=None, init_weights=False)
    opt, batch, side = real_size(job)
    opt["num_gpu"] = 1 if device == "cuda" else 0
    model: Any = importlib.import_module("basicsr.models").build_model(opt)
    window = (5,) if task == "video" else ()
    large = side * opt["scale"]
    images = {"lq": torch.rand(batch, *window, 3, side, side), "gt": torch.rand(batch, 3, large, large)}
    torch.backends.cudnn.benchmark = True  # as its train.py

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def take(number: int) -> None:
        model.feed_data(images)
        model.optimize_parameters(number)

    for number in range(1, 2 if tiny else 5):
        take(number)
    wait()
    done, start = 0, time.perf_counter()
    while done == 0 or (not tiny and time.perf_counter() - start < 2):
        take(done + 5)
        done += 1
        wait()
    rate = done / (time.perf_counter() - start)
    most = torch.cuda.max_memory_allocated() if device == "cuda" else peak()
    version = importlib.import_module("basicsr.version").__version__
    print(json.dumps({"steps_per_s": rate, "peak_bytes": most, "version": version}))


if __name__ == "__main__":
    main()
