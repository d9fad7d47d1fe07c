"""Everything about sr-train on a GPU, in one command: correctness, waits, speed, memory. Needs one GPU and about 10 minutes.

    python scripts/bench/gpu.py --out gpu.json
    python scripts/bench/gpu.py --out gpu.json --only correctness waits
    python scripts/bench/gpu.py --device cpu --tiny

Needs what sr-train needs, and no data: pixels and VGG19's weights are random. Each row is written to ``--out`` when it is
measured. The same command again measures only rows that are not in the file: after a crash, or with more ``--minutes``. A
row that does not fit into memory says OOM, and the others follow.

- correctness: forward pass of each network, and loss and gradient of a step of each recipe, against the CPU in fp32
- waits: calls that wait for the GPU between log entries, by torch.cuda.set_sync_debug_mode, in Lightning's Trainer
- speed: steps/s and peak memory of every recipe at its real size, in bf16, fp32, TF32 and bf16 with torch.compile, with
  channels-last memory and for bf16 and fp32 also without; the share of the speed of a large matrix product (roofline); the
  bytes that sr_train.training.step_memory counts without a GPU
- loader: training pairs/s of the loader against those that the fastest step of EDSR baseline needs
- basicsr: the step of BasicSR 1.4.2 for the same networks (EDSR baseline, ESRGAN, EDVR-M), by its own models in fp32 as it
  runs them, if its package is installed here, or in the environment of ``--basicsr-python`` (see loader.py)

Send the file, or the table, with an issue: docs/measured.md says where. Exit code 1 if a result differs from the CPU's.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

SECTIONS = ("correctness", "waits", "speed", "loader", "basicsr")
LIMIT = {"forward": 1e-4, "loss": 1e-3, "gradient": 2e-2}  #: largest relative differences to the CPU


class Row(NamedTuple):
    """Something to measure. ``run`` returns the values of the row."""

    section: str
    name: str
    run: Callable[[], dict[str, Any]]


class Table:
    """Rows by section and name, written to a file after each row. Rows that are there already are not measured again."""

    def __init__(self, file: Path | None, about: dict[str, Any]) -> None:
        self.file = file
        self.rows: dict[str, dict[str, Any]] = {}
        if file is not None and file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [k for k, v in about.items() if before.get("about", {}).get(k) != v]
            if changed:
                raise SystemExit(f"{file}: was measured with other {', '.join(changed)}; give another --out")
            self.rows = before["rows"]
        self.about = about

    def add(self, row: Row, values: dict[str, Any]) -> None:
        """Keep a row, and write the file."""
        self.rows[f"{row.section}: {row.name}"] = values
        if self.file is not None:
            new = self.file.with_name(f"{self.file.name}.new")
            new.write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=1), encoding="utf-8")
            new.replace(self.file)

    def has(self, row: Row) -> bool:
        return f"{row.section}: {row.name}" in self.rows


def is_wrong(values: dict[str, Any]) -> bool:
    """Return true for a difference to the CPU, a wait, a refused step, or an error other than a lack of memory."""
    failed = values.get("error", "OOM") != "OOM"
    return failed or values.get("equal") is False or bool(values.get("waits") or values.get("refused"))


def shown(values: dict[str, Any]) -> str:
    """Return the values of a row as text."""
    units = {"peak_bytes": ("GB", 1e9, 2), "counted_bytes": ("GB counted", 1e9, 2), "flops_per_s": ("TFLOP/s", 1e12, 2)}
    texts: list[str] = []
    for name, value in values.items():
        unit, factor, digits = units.get(name, (name.replace("_per_s", "/s").replace("_", " "), 1, 2))
        if name == "roofline":
            texts.append(f"{value:.0%} of the matrix product")
        elif isinstance(value, float) and 0 < abs(value) < 0.01 and name not in units:
            texts.append(f"{unit} {value:.1e}")
        elif isinstance(value, float) or name in units:
            texts.append(f"{value / factor:,.{digits}f} {unit}")
        else:
            texts.append(f"{unit} {value}")
    return ", ".join(texts)


def measured(row: Row, device: torch.device) -> dict[str, Any]:
    """Measure a row. An error becomes a value of the row, so that the others are measured."""
    try:
        return row.run()
    except Exception as error:
        from sr_train.devices import memory_is_full

        if memory_is_full(error):
            return {"error": "OOM"}
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
    finally:
        gc.collect()  # a task is in reference cycles
        if device.type == "cuda":
            torch.cuda.empty_cache()
        torch.compiler.reset()


def correctness(recipe: Any, device: torch.device) -> dict[str, Any]:
    from gpu_steps import compare

    found = compare(recipe.config, device)
    return {**found, "equal": all(found[name] <= limit for name, limit in LIMIT.items())}


def speed_row(
    recipe: Any, mode: str, last: bool, device: torch.device, sizes: Any, peaks: dict[str, float]
) -> dict[str, Any]:
    from gpu_steps import counted, product, speed

    if mode not in peaks:
        peaks[mode] = product(mode, device, sizes)
    found = speed(recipe.config, mode, device, sizes, last=last)
    return {**found, "roofline": found["flops_per_s"] / peaks[mode], "counted_bytes": counted(recipe.config, mode)}


def loader_row(sizes: Any) -> dict[str, Any]:
    """Measure the loader of EDSR baseline on a photograph in memory, with a process for each core but one."""
    from sr_train.data.draws import PositionSampler
    from sr_train.data.module import SRData

    workers, batch = (0, 4) if sizes.tiny else (max(1, (os.cpu_count() or 2) - 1), 16)
    data = SRData(train=[{"hr": "toy:coffee"}], scale=2, lr_patch=48, batch=batch, workers=workers)
    batches = iter(data.loader(PositionSampler(batch), pin_memory=torch.cuda.is_available()))
    next(batches)
    done, start = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - start < 2 * sizes.seconds:
        next(batches)
        done += 1
    return {"pairs_per_s": done * batch / (time.perf_counter() - start), "processes": workers}


def loader_against_step(found: dict[str, dict[str, Any]], batch: int) -> str | None:
    """Return a line that compares the loader with the fastest step of EDSR baseline, if both were measured."""
    pairs = next((v.get("pairs_per_s") for k, v in found.items() if k.startswith("loader: ")), None)
    steps = [v.get("steps_per_s", 0) for k, v in found.items() if k.startswith("speed: edsr_baseline_x2,")]
    if pairs is None or not any(steps):
        return None
    return f"loader: {pairs / (max(steps) * batch):.1f} times the pairs that the fastest step of EDSR baseline x2 takes"


def basicsr_row(task: str, recipe: Any, python: str, device: torch.device, tiny: bool) -> dict[str, Any]:
    from peer import child

    job = {
        "task": task,
        "device": device.type,
        "tiny": tiny,
        **{k: recipe.config["data"][k] for k in ("batch", "lr_patch")},
    }
    try:
        return child(python, str(Path(__file__).with_name("gpu_peer.py")), job)
    except SystemExit as error:
        raise torch.OutOfMemoryError if "OutOfMemoryError" in str(error) else RuntimeError(str(error)[-200:]) from None


def rows(args: argparse.Namespace, device: torch.device, folder: Path) -> Iterator[Row]:
    """Yield the rows to measure, the most important ones first."""
    from gpu_steps import FULL, KINDS, TASKS, TINY, recipes, waits

    sizes = TINY if args.tiny else FULL
    found, peaks = recipes(sizes, folder), dict[str, float]()
    for recipe in found:
        yield Row("correctness", recipe.name, lambda recipe=recipe: correctness(recipe, device))
    if device.type == "cuda":
        for recipe in (r for r in found if r.name.split()[0] in TASKS.values()):
            yield Row("waits", recipe.name, lambda recipe=recipe: {"waits": waits(recipe.config, device)})
    yield Row("loader", "one toy photograph, HR 96", lambda: loader_row(sizes))
    python = args.basicsr_python or (sys.executable if importlib.util.find_spec("basicsr") else None)
    for task in ("pixel", "gan", "video") if python else ():
        same = next(r for r in reversed(found) if r.name.split()[0] == TASKS[task])
        yield Row("basicsr", same.name, lambda task=task, r=same: basicsr_row(task, r, str(python), device, args.tiny))
    for mode, last in KINDS[:2] if args.tiny else KINDS:
        for recipe in found:
            name = f"{recipe.name}, {mode}, {'channels-last' if last else 'NCHW'}"
            yield Row("speed", name, lambda r=recipe, m=mode, c=last: speed_row(r, m, c, device, sizes, peaks))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, help="JSON file; rows that it has are not measured again")
    found.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default: %(default)s)")
    found.add_argument("--tiny", action="store_true", help="tiny networks and one step each, to test this program")
    found.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (default: all)")
    found.add_argument("--minutes", type=float, default=10, help="no row begins later than this (default: %(default)s)")
    found.add_argument("--basicsr-python", help="Python of an environment with BasicSR 1.4.2")
    return found


def main() -> int:
    args = parser().parse_args()
    from sr_train.devices import device_of, hardware

    start = time.monotonic()
    try:
        device = device_of(args.device)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else hardware()[1].partition(";")[0]
    table = Table(args.out, {"torch": torch.__version__, "device": device.type, "machine": machine, "tiny": args.tiny})
    print("\n".join(hardware()), flush=True)
    left = 0
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(args, device, Path(folder)):
            if row.section not in args.only or table.has(row):
                continue
            if time.monotonic() - start > 60 * args.minutes:
                left += 1
                continue
            values = measured(row, device)
            table.add(row, values)
            print(f"{row.section:12}{row.name:44}{shown(values)}", flush=True)
    if line := loader_against_step(table.rows, 1 if args.tiny else 16):
        print(line)
    if left:
        print(f"{left} rows were not begun within {args.minutes:g} minutes: run the command again with the same --out")
    wrong = [key for key, values in table.rows.items() if is_wrong(values)]
    print(
        f"MISSED: {'; '.join(wrong)}"
        if wrong
        else f"{len(table.rows)} rows: no difference to the CPU, no wait, no error"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
