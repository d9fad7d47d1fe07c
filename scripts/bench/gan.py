"""Time and memory of a GAN step: ``sr-train experiment=esrgan_x4 stage=gan`` against BasicSR's ESRGAN model.

    python scripts/bench/gan.py --images DIR --basicsr-python bsr/bin/python

RRDBNet of 23 blocks, the VGG-style discriminator for 128 px, VGG19's conv5_4 features, L1, EMA of 0.999, batch 2. The
programs run in separate processes and alternate blocks of ``--block`` steps while the others wait, as in step.py; the first
block of each is not counted. sr-train runs as the command does (store, two loader processes, loggers, checkpoints, guard) in
precision ``auto`` (bf16 if the CPU has it), then 32. BasicSR is ``train_pipeline`` in fp32 with the settings of its
train_ESRGAN_x4.yml on folders of PNG. Memory is the peak of each training process from the second block on.

VGG19's weights are random numbers in torchvision's key format: time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision
from peer import Program, Turns
from step import prepare, verdict

from sr_train import Weights, save_weights
from sr_train.models.rrdbnet import RRDBNet


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Run the command in this process."""
    from sr_train import train

    folder = Path(job["folder"])
    code = train(
        [
            "experiment=esrgan_x4",
            "stage=gan",
            "init.stage=null",
            f"init.weights={folder}/start.safetensors",
            f"model.blocks={job['blocks_of_net']}",
            f"callbacks.clock={{_target_: step.Clock, block: {job['block']}, blocks: {job['blocks']}}}",
            f"name=gan_{job['precision']}",
            f"data.train=[{{hr: '{folder}/pairs.lmdb', lr: '{folder}/pairs.lmdb'}}]",
            f"loss.perceptual.extractor.weights='{folder}/experiments/pretrained_models/vgg19-dcbb9e9d.pth'",
            f"task.discriminator.size={4 * job['patch']}",
            "sets=[]",
            f"paths.runs={folder}/runs",
            f"data.batch={job['batch']}",
            f"data.lr_patch={job['patch']}",
            f"trainer.max_steps={job['steps']}",
            f"trainer.precision={job['precision']}",
        ]
    )
    assert code == 0
    return {"peak": Turns.most}


def start_files(folder: Path, blocks: int) -> None:
    """Write the initial generator and the weights of VGG19."""
    arguments: dict[str, Any] = {"scale": 4, "channels": 64, "growth": 32, "blocks": blocks}
    network = RRDBNet(**arguments)
    target = f"{RRDBNet.__module__}.{RRDBNet.__name__}"
    save_weights(folder / "start.safetensors", Weights({"_target_": target, **arguments}, network.state_dict(), {}))
    file = folder / "experiments" / "pretrained_models" / "vgg19-dcbb9e9d.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.vgg19().state_dict(), file)


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print("\n" + json.dumps(ours(json.loads(sys.argv[1]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs (default: the toy photographs)")
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR")
    parser.add_argument(
        "--basicsr-workers", type=int, default=6, help="loader processes of BasicSR (default: %(default)s)"
    )
    parser.add_argument("--net-blocks", type=int, default=23, help="blocks of RRDBNet (default: %(default)s)")
    parser.add_argument("--block", type=int, default=2, help="steps per block (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=6, help="blocks per program (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads per program; 1 if others use the cores (default: all)")
    parser.add_argument("--batch", type=int, default=2, help="pairs per step (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=32, help="LR patch (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for temporary files (default: the system's)")
    args = parser.parse_args()
    if args.threads:
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads)))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-gan-") as name:
        folder = Path(name)
        prepare(args.images, folder, scale=4)
        start_files(folder, args.net_blocks)
        job = {
            "folder": name,
            "blocks_of_net": args.net_blocks,
            **{k: getattr(args, k) for k in ("batch", "patch", "block")},
        }
        job |= {"blocks": args.blocks + 1, "steps": args.block * (args.blocks + 1) + 1}
        sides = {p: (sys.executable, __file__, {**job, "precision": p}) for p in ("auto", "32")}
        if args.basicsr_python:
            theirs = {
                "kind": "loop",
                "recipe": "esrgan",
                "scale": 4,
                **job,
                "workers": args.basicsr_workers,
                "ema": 0.999,
            }
            theirs["gpus"] = torch.cuda.device_count()
            sides["basicsr"] = (args.basicsr_python, str(Path(__file__).with_name("peer.py")), theirs)
        programs = {n: Program(*side, folder / f"{n}.log") for n, side in sides.items()}
        rounds = [{n: p.turn() / args.block for n, p in programs.items()} for _ in range(job["blocks"])][1:]
        peaks = {n: program.end()["peak"] / 1e9 for n, program in programs.items()}
    for n in sides:
        seconds = [r[n] for r in rounds]
        print(
            f"{n:8} {statistics.median(seconds):7.3f} s/step ({min(seconds):.3f}-{max(seconds):.3f})  peak {peaks[n]:.2f} GB"
        )
    if args.basicsr_python:
        for mine, aim in (("auto", 1.8), ("32", 1.0)):
            ratio = statistics.median(r["basicsr"] / r[mine] for r in rounds)
            print(f"{mine}: {ratio:.2f} times as fast as BasicSR; {verdict(ratio >= aim, f'>= {aim}')}")
        print(f"memory in fp32: {verdict(peaks['32'] <= peaks['basicsr'], 'no more than BasicSR')}")


if __name__ == "__main__":
    main()
