"""Peak memory of sr-upscale on a short and a long video. It must not depend on the length.

    python scripts/bench/film_memory.py [--frames 20 200] [--size 640x360] [--precision bf16]

The script makes videos of moving noise and waves, saves a small EDSR x4 with random weights, and upscales each video with
the installed command in its own process. The table shows the peak resident memory of the process. The last line is the
ratio of the longest to the shortest video; the target is 1.10 at most.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from children import start_child

from sr_train import Weights, save_weights
from sr_train.models.edsr import EDSR

AIM = 1.10


def make_film(path: Path, frames: int, width: int, height: int) -> None:
    """Write a video of moving waves with noise, which is not trivial to encode."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            waves = 128 + 80 * np.sin((x + 3 * t) / 17) * np.cos((y - t) / 11)
            pixels = waves[..., None] + rng.normal(0, 6, (height, width, 3))
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), "rgb24")))
        film.mux(stream.encode(None))


def peak(folder: Path, frames: int, precision: str) -> tuple[float, float]:
    """Return (MB, seconds) of the command on one video."""
    command = [
        str(Path(sys.executable).with_name("sr-upscale")), "weights=net.safetensors", f"input={frames}.mp4", "output=large",
        f"precision={precision}", "device=cpu", "preset=veryfast",
    ]  # fmt: skip
    start = time.monotonic()
    process = start_child(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"sr-upscale failed on {frames} frames")
    return usage.ru_maxrss / 1024, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--precision", default="bf16")
    given = parser.parse_args()
    width, height = (int(n) for n in given.size.split("x"))
    torch.manual_seed(0)
    options = {"scale": 4, "channels": 4, "blocks": 1, "res_scale": 1.0}
    weights = Weights({"_target_": "sr_train.models.edsr.EDSR", **options}, EDSR(**options).state_dict())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_weights(folder / "net.safetensors", weights)
        peaks = []
        print(f"{'frames':>7} {'peak MB':>8} {'s':>7}")
        for frames in sorted(given.frames):
            make_film(folder / f"{frames}.mp4", frames, width, height)
            used, seconds = peak(folder, frames, given.precision)
            peaks.append(used)
            print(f"{frames:>7} {used:>8.0f} {seconds:>7.1f}", flush=True)
    ratio = peaks[-1] / peaks[0]
    print(f"ratio {ratio:.3f} (target: {AIM:.2f} at most): {'reached' if ratio <= AIM else 'missed'}")


if __name__ == "__main__":
    main()
