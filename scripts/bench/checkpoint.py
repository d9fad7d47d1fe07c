"""Seconds that a checkpoint takes from the training thread: written in it, and by another thread, side by side.

    python scripts/bench/checkpoint.py --count 7

The run is ``experiment=edsr_x4 stage=x2``: EDSR with 41 million parameters, Adam and EMA. Between steps of the run, one
checkpoint is written in the training thread and one is copied for the writing thread, in turn. Also measured: the time until
the file of the thread is complete, and the time of a step with and without a write at the same time.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch

from sr_train import train
from sr_train.files import sync_folder, write_bytes
from sr_train.training.checkpointing import CheckpointWriter, dump

RESULT: dict[str, list[float]] = {k: [] for k in ("in the thread", "copied", "complete", "step", "step during a write")}
SIZE: list[int] = []
SMALL = (
    "experiment=edsr_x4", "stage=x2", "data=toy", "sets=[]", "data.batch=1", "data.workers=0", "trainer.accelerator=auto",
    "trainer.devices=1", "logger=csv", "name=bench", "checkpoint.every=1000000", "record.every=1000000",
)  # fmt: skip


class Clock(L.Callback):
    """Callback that writes checkpoints in both ways and times them. The first of each kind is not counted."""

    def __init__(self) -> None:
        self.kind = "warm"
        self.since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.folder = Path(trainer.default_root_dir) / "bench"
        self.folder.mkdir()
        self.writer = CheckpointWriter(self.folder, 2, self._written)

    def _written(self, step: int) -> None:
        if step > 1:
            RESULT["complete"].append(time.perf_counter() - self.started)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        _wait(pl_module)
        step, number = time.perf_counter() - self.since, trainer.global_step
        if self.kind == "during":  # the thread writes during a part of this step, or longer
            self.writer.collect(wait=True)
            if number > 3:
                RESULT["step during a write"].append(step)
            self.kind = "alone"
            return
        if self.kind == "alone":
            RESULT["step"].append(step)
        start = time.perf_counter()
        path, temporary = self.folder / "before.ckpt", self.folder / ".before.part"
        trainer.save_checkpoint(temporary)  # includes fsync
        temporary.replace(path)
        sync_folder(self.folder)
        write_bytes(self.folder / "last", b"before.ckpt\n")
        before = time.perf_counter() - start
        SIZE[:] = [path.stat().st_size]
        self.started = time.perf_counter()
        self.writer.start(dump(trainer), number)
        copied = time.perf_counter() - self.started
        if self.kind != "warm":
            RESULT["in the thread"].append(before)
            RESULT["copied"].append(copied)
        self.kind = "during"


def _wait(module: L.LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=7, help="checkpoints of each kind")
    parser.add_argument("--folder", help="folder on the disk to write to (default: a temporary one)")
    parser.add_argument("--patch", type=int, default=48, help="side of a patch in LR pixels: the length of a step")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(dir=options.folder)
    try:
        steps = 2 * options.count + 2
        clock = f"callbacks.clock={{_target_: {__name__}.Clock}}"
        more = (f"paths.runs={folder}", f"trainer.max_steps={steps}", f"data.lr_patch={options.patch}")
        if train([*SMALL, clock, *more]):
            raise SystemExit(1)
    finally:
        shutil.rmtree(folder)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {SIZE[0] / 1e6:.0f} MB")
    for name, seconds in RESULT.items():
        if seconds:
            shown = f"{median(seconds):8.3f} s (median of {len(seconds)}, {min(seconds):.3f} to {max(seconds):.3f})"
            print(f"{name:19} {shown}")


if __name__ == "__main__":
    main()
