"""Measure a report of a long run: 300,000 steps, 3,000 rows of 30 numbers, 60 validations with 10 pictures.

    python scripts/bench/report.py
    python scripts/bench/report.py runs/quickstart    # of another run

Prints the page's bytes, the seconds to write it, the seconds until Chromium has drawn it, and the numbers of requests
and console messages. Needs Chromium and playwright, as the tests of the report do.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sr_train.data.images import write_image
from sr_train.evaluation.report.write import write_report

STEPS, ROWS, VALIDATIONS, IMAGES, SIDE = 300_000, 3_000, 60, 10, 192

TRAIN = [
    "loss", "generator", "pixel", "perceptual", "adversarial", "discriminator", "real_logit", "fake_logit", "accuracy",
    "grad_norm", "grad_norm_d", "rate", "rate_d", "refused", "skipped", "color_shift", *(f"term{i}" for i in range(11)),
]  # fmt: skip
NAMES = [*(f"train/{name}" for name in TRAIN), "speed/steps_per_s", "speed/pairs_per_s", "speed/wait"]
SCORES = [f"{s}/{p}/{m}" for s in ("set5", "set14") for p in ("y", "rgb") for m in ("psnr", "ssim")]


def write_run(run: Path) -> None:
    """Write the folder of a run of one stage with random numbers and pictures of smooth patterns with noise."""
    rng = np.random.default_rng(0)
    stage = run / "gan"
    stage.mkdir(parents=True)
    lines = ["step,name,value\n"]
    for step in range(STEPS // ROWS, STEPS + 1, STEPS // ROWS):
        values = (1 + np.arange(len(NAMES))) * math.exp(-2 * step / STEPS) + 0.1 * rng.standard_normal(len(NAMES))
        lines += [f"{step},{name},{float(value)!r}\n" for name, value in zip(NAMES, values, strict=True)]
        if step % (STEPS // VALIDATIONS) == 0:
            lines += [f"{step},{name},{28 + step / STEPS!r}\n" for name in SCORES]
    (stage / "metrics.csv").write_text("".join(lines))
    target = "sr_train.models.rrdbnet.RRDBNet"
    (stage / "config.yaml").write_text(f"trainer: {{max_steps: {STEPS}}}\nmodel: {{_target_: {target}, scale: 4}}\n")
    y, x = np.mgrid[:SIDE, :SIDE]
    gap = np.full((SIDE, 4, 3), 255, np.uint8)
    for i in range(IMAGES):
        pattern = 128 + 90 * np.sin(x * (i + 1) / 9) * np.cos(y * (i + 2) / 17)
        hr = (pattern[..., None] + rng.normal(0, 8, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
        folder = stage / "images" / f"set5-image{i}"
        folder.mkdir(parents=True)
        for v in range(1, VALIDATIONS + 1):
            sr = (hr + rng.normal(0, 20 * math.exp(-v / 20), hr.shape)).clip(0, 255).astype(np.uint8)
            strip = np.hstack([hr // 4 * 4, gap, hr // 2 * 2, gap, sr, gap, hr])
            write_image(folder / f"step_{v * STEPS // VALIDATIONS:08d}.png", strip)


def opened(page: Path) -> tuple[float, int, list[str]]:
    """Open a page in Chromium. Return the seconds until it is drawn, the number of requests, and console messages."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    requests: list[str] = []
    messages: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.on("request", lambda r: None if r.url.startswith(("data:", "blob:", "file:")) else requests.append(r.url))
        tab.on("console", lambda m: messages.append(f"{m.type}: {m.text}"))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        begin = time.perf_counter()
        tab.goto(page.as_uri())
        tab.locator("html[data-ready]").wait_for(state="attached")
        tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seconds = time.perf_counter() - begin
        browser.close()
    return seconds, len(requests), messages


def main() -> None:
    """Write the run unless one is given, and measure its report."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "long"
        if len(sys.argv) < 2:
            write_run(run)
        out = Path(scratch) / "report.html"
        wall, cpu = time.perf_counter(), time.process_time()
        write_report([run], out)
        print(f"written in {time.perf_counter() - wall:.2f} s ({time.process_time() - cpu:.2f} s of CPU)")
        print(f"{out.stat().st_size:,} bytes")
        seconds, requests, messages = opened(out.resolve())
        print(f"drawn in {seconds:.2f} s, {requests} requests, {len(messages)} console messages", *messages, sep="\n")


if __name__ == "__main__":
    main()
