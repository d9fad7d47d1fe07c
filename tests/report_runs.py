"""A run's folder as training leaves it, made without training, and the data of a page."""

import json

import numpy as np
import yaml

from sr_train.data.images import write_image
from sr_train.runs.history import add_line

HOSTILE = "</script>"
COMMAND = ["experiment=quickstart", "model.scale=4", "name=it's"]


def made_run(folder, *, stages=("psnr", "gan"), rows=40, seed=0):
    """Write a run with curves, events, pictures, a history and configs; return its folder."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(stages):
        stage = folder / name
        stage.mkdir(parents=True)
        lines = ["step,name,value\n"]
        for step in range(1, rows + 1):
            lines += [f"{step},train/loss,{1 / step + 0.01 * rng.random()!r}\n", f"{step},train/rate,{1e-4!r}\n"]
            lines += [f"{step},speed/steps_per_s,{3.5!r}\n", f"{step},train/refused,{0.0!r}\n"]
            if step % 10 == 0:
                lines += [
                    f"{step},set5/y/psnr,{28 + step / 50!r}\n",
                    f"{step},set5/perceptual/lpips,{0.4 - step / 500!r}\n",
                ]
        (stage / "metrics.csv").write_text("".join(lines))
        (stage / "events.csv").write_text("7,refused: loss not finite,chelsea coffee\n")
        init = {"stage": stages[number - 1] if number else None}
        config = {
            "name": folder.name, "stage": name, "init": init, "trainer": {"max_steps": rows}, "seed": seed,
            "model": {"_target_": "sr_train.models.rrdbnet.RRDBNet", "scale": 4}, "data": {"train": [{"hr": HOSTILE}]},
        }  # fmt: skip
        (stage / "config.yaml").write_text(yaml.safe_dump(config))
        begin = {"begin": 1e9 + 100 * number, "first_step": 0, "command": COMMAND,
                 "changed": ["model.scale"], "host": "node1", "device": "CPU", "versions": {"torch": "2"}}  # fmt: skip
        add_line(stage, begin)
        add_line(stage, {"end": 1e9 + 100 * number + 75, "last_step": 20, "outcome": "stopped by SIGTERM at step 20"})
        add_line(stage, {**begin, "begin": 1e9 + 100 * number + 80, "first_step": 20})
        add_line(stage, {"end": 1e9 + 100 * number + 95, "last_step": rows, "outcome": "finished"})
        for image in ("chelsea", "coffee"):
            hr = rng.integers(0, 256, (32, 32, 3), np.uint8)
            for step in (20, 40):
                sr = np.clip(hr.astype(int) + 60 // (step // 20), 0, 255).astype(np.uint8)
                gap = np.full((32, 4, 3), 255, np.uint8)
                path = stage / "images" / f"set5-{image}" / f"step_{step:08d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, np.hstack([hr // 4 * 4, gap, hr // 2 * 2, gap, sr, gap, hr]))
    return folder


def data_in(page):
    """Return the data inside a page."""
    text = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(text)
