"""Outcome of changed keys for a run that continues: applied and visible, or refused with the folder unchanged.

    python scripts/bench/continue_pairs.py

A tiny run of two stages (PSNR, then GAN) is trained to step 4. For every pair (key, new value) a copy of it is extended to
step 6 with ``resume=force``, and another copy without the change. A refusal must leave every byte of the copy as it was. A
continued run must differ from the unchanged one in what the key governs: weights, optimizer state, rows or files. The
script ends with exit code 1 if a pair does neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from sr_train import train
from sr_train.console import is_users_error
from sr_train.runs.checkpoints import list_checkpoints, read_checkpoint
from sr_train.runs.metrics import read_rows

BASE = (
    "experiment=quickstart", "name=run", "model.channels=8", "model.growth=4", "model.blocks=1", "data.lr_patch=8",
    "data.batch=4",
    "checkpoint.every=2", "validate.every=1000", "record.every=1", "gan.task.discriminator.size=32", "sets=[]", "logger=csv",
    "gan.task.discriminator.channels=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.precision=32",
    "curve=constant", "trainer.max_steps=4",
)  # fmt: skip
PAIRS = (
    "gan.task.rate=1e-3", "gan.task.ema=0.1", "gan.task.ema=null", "gan.task.optimizer.betas=[0.5,0.9]",
    "gan.task.optimizer.eps=1e-3", "gan.task.optimizer.weight_decay=0.1", "gan.optimizer=adamw",
    "gan.task.discriminator_rate=1e-3",
    "gan.task.discriminator_optimizer={betas:[0.0,0.99]}", "gan.task.discriminator_clip=1e-3", "gan.task.discriminator_steps=2",
    "gan.task.discriminator_first=6", "gan.task.discriminator_trainable=[]", "gan.task.trainable=[conv_last*]",
    "gan.task.rate_scale={conv_last*:0.1}", "gan.task.penalty={_target_:sr_train.losses.penalties.R1,weight:10}",
    "gan.task.discriminator.channels=8", "gan.discriminator=unet_sn", "gan.adversarial=hinge", "gan.loss.weights.pixel=0.5",
    "gan.loss.weights.ssim=0.5", "gan.loss.pixel={_target_:torch.nn.MSELoss}", "gan.curve=cosine_restarts",
    "gan.curve.warmup=6",
    "model.channels=16", "model.blocks=2", "data.lr_patch=16", "data.batch=8", "data.augment=false", "gan.degrade=blind",
    "data.usm=true", "seed=1", "trainer.gradient_clip_val=1e-3", "trainer.precision=bf16-mixed",
    "trainer.accumulate_grad_batches=2", "data.train=[{hr:'toy:coffee'}]", "record.every=3", "checkpoint.every=1",
    "sets=[toy]", "gan.init.discriminator=runs/run/gan", "gan.trainer.max_steps=2",
)  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def state(folder: Path) -> dict[str, Any]:
    """Return what a continued GAN stage consists of, by name, to compare two of them."""
    stage = folder / "runs" / "run" / "gan"
    content = read_checkpoint(list_checkpoints(stage / "checkpoints")[0][1]).content
    tensors = {k: v for k, v in content["state_dict"].items() if isinstance(v, torch.Tensor)}
    groups = [
        {k: v for k, v in g.items() if k != "params"} for o in content["optimizer_states"] for g in o["param_groups"]
    ]
    rows = [(s, n, v) for s, n, v in read_rows(stage / "metrics.csv") if not n.startswith("speed/")]
    names = sorted(str(p.relative_to(stage)) for p in stage.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return {"weights": digest.hexdigest(), "optimizer": groups, "rows": rows, "files": names}


def command(folder: Path, *arguments: str) -> tuple[str | None, str]:
    """Run sr-train in a folder. Return (message of its error or None, printed text)."""
    before, printed = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            train([*BASE, *arguments])
    except Exception as error:
        if not is_users_error(error):
            raise
        return " ".join(str(error).split()), printed.getvalue()
    finally:
        os.chdir(before)
    return None, printed.getvalue()


def main() -> None:
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="continue-") as temporary:
        base, same = Path(temporary) / "base", Path(temporary) / "same"
        base.mkdir()
        assert command(base)[0] is None
        shutil.copytree(base, same)
        assert command(same, "gan.trainer.max_steps=6")[0] is None
        expected = state(same)
        for pair in PAIRS:
            folder = Path(temporary) / "changed"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base, folder)
            before = digests(folder)
            steps = () if "max_steps" in pair else ("gan.trainer.max_steps=6",)
            error, printed = command(folder, *steps, "resume=force", pair)
            if error is not None:
                changed = sorted(k for k in {**before, **digests(folder)} if before.get(k) != digests(folder).get(k))
                wrong += bool(changed)
                print(
                    f"{pair:<75}refused; {'CHANGED: ' + ', '.join(changed) if changed else 'folder unchanged'}: {error[:110]}"
                )
                continue
            if digests(folder) == before:
                print(f"{pair:<75}already finished; folder unchanged")
                continue
            differs = [name for name, value in state(folder).items() if value != expected[name]]
            said = "without effect" in printed
            wrong += not (differs or said)
            what = (
                f"applied: {', '.join(differs)}"
                if differs
                else "said to be without effect"
                if said
                else "WITHOUT EFFECT"
            )
            print(f"{pair:<75}{what}", flush=True)
    print(f"{len(PAIRS)} pairs, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
