"""Memory of a training step of every recipe at its real size, by the bytes of its tensors, and the GPUs that hold it.

    python scripts/bench/memory.py
    python scripts/bench/memory.py --markdown > table.md
    python scripts/bench/memory.py --experiments esrgan_x4 edvr_l_x4

Nothing is computed or allocated: sr_train.training.step_memory counts torch's fake tensors, forward and backward, with Adam's
state and the EMA, in bf16 (autocast) and fp32, with and without ``task.recompute``. A GPU also needs CUDA's context and what
the allocator and cuDNN add; for these 15 % and 0.7 GB are added, an assumption until a GPU has been measured
(scripts/bench/gpu.py prints both). One device, without accumulation.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.models import contract
from sr_train.training.step_memory import count_step, fits, outline_task

PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}


def steps(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return {experiment and stage: config} of each stage whose step differs from those before."""
    found, seen = dict[str, dict[str, Any]](), set[str]()
    for name in names:
        stages = plan([f"experiment={name}"]).stages
        for stage in stages:
            config = stage.config
            task = {k: v for k, v in config["task"].items() if k not in ("rate", "optimizer")}
            key = repr((config["model"], task, config["loss"], config["data"]["lr_patch"], config["data"]["batch"]))
            if key not in seen:
                seen.add(key)
                found[name if len(stages) == 1 else f"{name} {stage.name}"] = dict(config)
    return found


def cells(config: dict[str, Any]) -> list[str]:
    """Return the cells of a row: GB for each precision, plain and with recomputation, and the GPU for it."""
    blocks = contract.checkpoint_units(outline_task(config, recompute=False).model)
    found: list[str] = []
    for precision in PRECISIONS.values():
        for recompute in (False, True):
            if recompute and not blocks:
                found.append("-")
                continue
            memory = count_step(config, precision, recompute=recompute)
            found.append(f"{memory.most / 1e9:.1f} ({fits(memory).removesuffix(' GB').replace('more than ', '> ')})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (p.stem for p in (conf_folder() / "experiment").rglob("*.yaml"))
    known = sorted(name for name in names if not name.startswith("quickstart"))
    text = "default: all recipes but the quickstarts"
    parser.add_argument("--experiments", nargs="+", choices=known, default=known, metavar="NAME", help=text)
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/gpu.md")
    args = parser.parse_args()
    kinds = [f"{p}{', recompute' if r else ''}" for p in PRECISIONS for r in (False, True)]
    head = ["recipe", "batch, LR patch", *kinds]
    rows, start = [head], time.perf_counter()
    for name, config in steps(args.experiments).items():
        data = config["data"]
        rows.append([name, f"{data['batch']}, {data['lr_patch']}", *cells(config)])
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if args.markdown:
        rows.insert(1, ["---"] * len(head))
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    else:
        widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(head))]
        print("\n".join("".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows))


if __name__ == "__main__":
    main()
