"""BasicSR 1.4.2 under its own Python (see loader.py for the venv): the jobs that step.py, learning.py and clips.py give it.

    BASICSR_PYTHON scripts/bench/peer.py JOB

JOB is JSON; the last line printed is the result. Nothing of sr-train is imported here: that venv does not have it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch


def child(python: str, file: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job by a script in a process of its own; the last line it prints is the result."""
    done = subprocess.run([python, file, json.dumps(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{file} {job} failed:\n{done.stdout[-2000:]}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def clear_peak() -> None:
    """Forget the most memory that this process ever had, so that what it took to start does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of memory that this process had at most since :func:`clear_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


class Turns:
    """Lets programs that run side by side take turns: told ``begin`` at each step's begin, waits when a block is over.

    A block of steps is told from the begin of its first to the begin of the next: everything that the loop does in between.
    Words go by stdin ("go") and stdout ("TURN seconds"); the parent's side is :class:`Program`.

    Args:
        block: steps of a block.
        blocks: how many; then the program runs on to its end.
    """

    most = 0  #: bytes that this process had at most in the blocks that count

    def __init__(self, block: int, blocks: int) -> None:
        self.block, self.blocks = block, blocks
        self.step, self.since = 0, 0.0

    def begin(self) -> None:
        """A step begins."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        done, within = divmod(self.step, self.block)
        self.step += 1
        if within == 0 and done <= self.blocks:
            print(f"\nTURN {time.perf_counter() - self.since if done else 0}", flush=True)
            if done == 1:
                clear_peak()
            Turns.most = peak()
            if done < self.blocks:
                sys.stdin.readline()
            self.since = time.perf_counter()


class Program:
    """A script's job in a process of its own, whose loop tells :class:`Turns` of its steps; waits before its first."""

    def __init__(self, python: str, file: str, job: dict[str, Any], log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.process = subprocess.Popen([python, file, json.dumps(job)], text=True, **pipes)
        self._wait()

    def _wait(self) -> float:
        for line in self.process.stdout or ():
            if line.startswith("TURN "):
                return float(line.split()[1])
        raise SystemExit(f"{self.log.stem} ended early:\n{self.log.read_text()}")

    def turn(self) -> float:
        """Seconds of the next block."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._wait()

    def end(self) -> dict[str, Any]:
        """Let it run to its end; the last line it prints is the result."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"{self.log.stem} failed:\n{self.log.read_text()}")
        return json.loads(output.splitlines()[-1])


def stand_in() -> None:
    """Give BasicSR 1.4.2 the one function that it imports from a module that torchvision no longer has."""
    import torchvision.transforms.functional as functional

    module: Any = types.ModuleType("torchvision.transforms.functional_tensor")
    module.rgb_to_grayscale = functional.rgb_to_grayscale
    sys.modules[module.__name__] = module


def esrgan_options(job: dict[str, Any]) -> dict[str, Any]:
    """The GAN stage of its train_ESRGAN_x4.yml, which has VGG19's weights from experiments/pretrained_models."""
    adam = {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]}
    vgg = {"layer_weights": {"conv5_4": 1}, "vgg_type": "vgg19", "use_input_norm": True, "range_norm": False}
    adversarial = {"gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0, "loss_weight": 5e-3}
    train = {
        "ema_decay": job["ema"],
        "optim_g": dict(adam),
        "optim_d": dict(adam),
        "scheduler": {"type": "MultiStepLR", "milestones": [50_000, 100_000, 200_000, 300_000], "gamma": 0.5},
        "total_iter": job["steps"],
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1e-2, "reduction": "mean"},
        "perceptual_opt": {
            "type": "PerceptualLoss", **vgg, "perceptual_weight": 1.0, "style_weight": 0, "criterion": "l1",
        },
        "gan_opt": {"type": "GANLoss", **adversarial},
        "net_d_iters": 1,
        "net_d_init_iters": 0,
    }  # fmt: skip
    generator = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": job["blocks_of_net"]}
    opt: dict[str, Any] = {"name": "peer", "model_type": "ESRGANModel", "scale": 4, "num_gpu": job["gpus"]}
    opt |= {"manual_seed": 0, "network_g": generator, "network_d": {"type": "VGGStyleDiscriminator"}}
    opt["network_d"] |= {"num_in_ch": 3, "num_feat": 64, "input_size": 4 * job["patch"]}
    return {**opt, "train": train, "path": {"pretrain_network_g": None, "resume_state": None}}


def options(job: dict[str, Any]) -> dict[str, Any]:
    """What its EDSR and the training of it are called in its options."""
    if job.get("recipe") == "esrgan":
        return esrgan_options(job)
    network = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": job["channels"], "num_block": job["blocks"]}
    network |= {"upscale": 2, "res_scale": 1, "img_range": 255.0, "rgb_mean": [0.4488, 0.4371, 0.4040]}
    train = {
        "ema_decay": job["ema"],
        "optim_g": {"type": "Adam", "lr": job["rate"], "weight_decay": 0, "betas": job["betas"]},
        "scheduler": {"type": "MultiStepLR", "milestones": [job["milestone"]], "gamma": job["gamma"]},
        "total_iter": job["steps"],
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    }
    opt: dict[str, Any] = {
        "name": "peer",
        "model_type": "SRModel",
        "scale": 2,
        "num_gpu": job["gpus"],
        "manual_seed": 0,
    }
    return {**opt, "network_g": network, "train": train, "path": {"pretrain_network_g": None, "resume_state": None}}


def loop(job: dict[str, Any]) -> dict[str, Any]:
    """Its whole training program (prefetcher, logs, TensorBoard; validation left out), in turns with others."""
    data = {
        "name": "photographs",
        "type": "PairedImageDataset",
        "dataroot_gt": str(Path(job["folder"], "hr")),
        "dataroot_lq": str(Path(job["folder"], "lr")),
        "filename_tmpl": "{}",
        "io_backend": {"type": "disk"},
        "gt_size": job.get("scale", 2) * job["patch"],
        "use_hflip": True,
        "use_rot": True,
        "use_shuffle": True,
        "num_worker_per_gpu": job["workers"],
        "batch_size_per_gpu": job["batch"],
        "dataset_enlarge_ratio": 1000,
        "prefetch_mode": None,
    }
    logger = {"print_freq": 100, "save_checkpoint_freq": 5000, "use_tb_logger": True}
    root = Path(job["folder"], "basicsr")
    root.mkdir(exist_ok=True)
    file = root / "options.yml"
    file.write_text(json.dumps({**options(job), "datasets": {"train": data}, "logger": logger}))  # JSON is YAML

    stand_in()
    model = importlib.import_module("basicsr.models.sr_model").SRModel
    feed, turns = model.feed_data, Turns(job["block"], job["blocks"])

    def feed_data(self: Any, batch: Any) -> None:
        turns.begin()
        feed(self, batch)

    model.feed_data = feed_data
    sys.argv = ["train.py", "-opt", str(file)]
    os.chdir(job["folder"])  # where it looks for experiments/pretrained_models
    importlib.import_module("basicsr.train").train_pipeline(str(root))
    return {"version": importlib.import_module("basicsr.version").__version__, "peak": Turns.most}


def learn(job: dict[str, Any]) -> dict[str, Any]:
    """Its SRModel from given weights, over given crops in their order; writes the raw weights."""
    stand_in()
    opt = {**options(job), "dist": False, "is_train": True, "rank": 0, "world_size": 1}
    opt["path"]["pretrain_network_g"] = job["start"]
    model = importlib.import_module("basicsr.models").build_model(opt)
    lr, hr = (np.load(Path(job["folder"], f"{name}.npy"), mmap_mode="r") for name in ("lr", "hr"))
    for step in range(job["steps"]):
        part = slice(step * job["batch"], (step + 1) * job["batch"])
        images = (torch.from_numpy(np.moveaxis(x[part], -1, 1) / np.float32(255)).contiguous() for x in (lr, hr))
        model.update_learning_rate(step + 1)
        model.feed_data(dict(zip(("lq", "gt"), images, strict=True)))
        model.optimize_parameters(step + 1)
    torch.save(model.net_g.state_dict(), job["out"])
    return {"version": importlib.import_module("basicsr.version").__version__}


def video(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of its EDVRModel on one clip in memory, with the settings of its train_EDVR_M_x4_SR_REDS.yml, in turns."""
    stand_in()
    network = {"type": "EDVR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": job["channels"], "num_frame": job["frames"]}
    network |= {
        "deformable_groups": 8,
        "num_extract_block": 5,
        "num_reconstruct_block": job["blocks"],
        "with_tsa": True,
    }
    rate = {"type": "CosineAnnealingRestartLR", "periods": [600_000], "restart_weights": [1], "eta_min": 1e-7}
    train = {
        "ema_decay": job["ema"],
        "optim_g": {"type": "Adam", "lr": 4e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
        "scheduler": rate,
        "total_iter": 600_000,
        "warmup_iter": -1,
        "dcn_lr_mul": 1,
        "tsa_iter": None,
        "pixel_opt": {"type": "CharbonnierLoss", "loss_weight": 1.0, "reduction": "sum"},
    }
    opt: dict[str, Any] = {
        "name": "peer",
        "model_type": "EDVRModel",
        "scale": 4,
        "num_gpu": job["gpus"],
        "manual_seed": 0,
    }
    opt |= {"network_g": network, "train": train, "path": {"pretrain_network_g": None, "resume_state": None}}
    opt |= {"dist": False, "is_train": True, "rank": 0, "world_size": 1}
    model = importlib.import_module("basicsr.models").build_model(opt)
    side, turns = job["patch"], Turns(job["block"], job["blocks_of_steps"])
    lr = torch.rand(job["batch"], job["frames"], 3, side, side)
    hr = torch.rand(job["batch"], 3, 4 * side, 4 * side)
    for step in range(1, job["steps"] + 1):
        turns.begin()
        model.update_learning_rate(step)
        model.feed_data({"lq": lr, "gt": hr})
        model.optimize_parameters(step)
    return {"version": importlib.import_module("basicsr.version").__version__}


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print("\n" + json.dumps({"loop": loop, "learn": learn, "video": video}[task["kind"]](task)))
