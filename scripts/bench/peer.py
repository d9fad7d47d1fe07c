"""Jobs of step.py, learning.py and clips.py that run BasicSR 1.4.2 with its own Python (see loader.py for the venv).

    BASICSR_PYTHON scripts/bench/peer.py JOB

JOB is JSON. The result is the last line printed. This file does not import sr_train, which is not in that venv.
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
from children import run_child, start_child


def child(python: str, file: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job of a script in its own process. The result is the last line that it prints."""
    done = run_child([python, file, json.dumps(job)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{file} {job} failed:\n{done.stdout[-2000:]}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def clear_peak() -> None:
    """Reset the peak memory of this process, so that its start is not counted."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the peak memory of this process since :func:`clear_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


class Turns:
    """Alternate blocks of steps of several programs: ``begin`` is called at the start of each step and waits after a block.

    The time of a block is measured from the start of its first step to the start of the next block. The messages are "go"
    on stdin and "TURN seconds" on stdout; :class:`Program` is the other side.

    Args:
        block: steps per block.
        blocks: number of blocks; after them the program runs without waiting.
    """

    most = 0  #: peak memory of this process in the counted blocks, in bytes

    def __init__(self, block: int, blocks: int) -> None:
        self.block, self.blocks = block, blocks
        self.step, self.since = 0, 0.0

    def begin(self) -> None:
        """Report the start of a step."""
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
    """A job of a script in its own process, whose loop calls :class:`Turns`. It waits before its first step.

    Jobs of sr-train's Python get OMP_WAIT_POLICY as sr-train's commands set it (sr_train/runs/openmp.py), unless ``asis``.
    """

    def __init__(self, python: str, file: str, job: dict[str, Any], log: Path, *, asis: bool = False) -> None:
        self.log = log
        ours = not asis and python == sys.executable and "OMP_WAIT_POLICY" not in os.environ
        with log.open("w") as errors:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            pipes["env"] = os.environ | ({"OMP_WAIT_POLICY": "PASSIVE"} if ours else {})
            self.process = start_child([python, file, json.dumps(job)], text=True, **pipes)
        self._wait()

    def _wait(self) -> float:
        for line in self.process.stdout or ():
            if line.startswith("TURN "):
                return float(line.split()[1])
        raise SystemExit(f"{self.log.stem} ended early:\n{self.log.read_text()}")

    def turn(self) -> float:
        """Run the next block and return its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._wait()

    def end(self) -> dict[str, Any]:
        """Run the program to its end and return the last line that it prints."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"{self.log.stem} failed:\n{self.log.read_text()}")
        return json.loads(output.splitlines()[-1])


def stand_in() -> None:
    """Define the function that BasicSR 1.4.2 imports from a module that torchvision has removed."""
    import torchvision.transforms.functional as functional

    module: Any = types.ModuleType("torchvision.transforms.functional_tensor")
    module.rgb_to_grayscale = functional.rgb_to_grayscale
    sys.modules[module.__name__] = module


def esrgan_options(job: dict[str, Any]) -> dict[str, Any]:
    """Return the options of train_ESRGAN_x4.yml, with VGG19's weights in experiments/pretrained_models."""
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
    """Return BasicSR's options for an EDSR and its training."""
    if job.get("recipe") == "esrgan":
        return esrgan_options(job)
    network = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": job["channels"], "num_block": job["blocks"]}
    network |= {"upscale": 2, "res_scale": 1, "img_range": 255.0, "rgb_mean": [0.4488, 0.4371, 0.4040]}
    if job.get("recipe") == "rrdbnet":
        network = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 23}
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
        "scale": job.get("scale", 2),
        "num_gpu": job["gpus"],
        "manual_seed": 0,
    }
    return {**opt, "network_g": network, "train": train, "path": {"pretrain_network_g": None, "resume_state": None}}


def loop(job: dict[str, Any]) -> dict[str, Any]:
    """Run BasicSR's training program without validation, alternating with other programs."""
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
    os.chdir(job["folder"])  # the parent of experiments/pretrained_models
    importlib.import_module("basicsr.train").train_pipeline(str(root))
    return {"version": importlib.import_module("basicsr.version").__version__, "peak": Turns.most}


def learn(job: dict[str, Any]) -> dict[str, Any]:
    """Train BasicSR's SRModel from given weights on given crops in their order, and write the raw weights."""
    stand_in()
    opt = {**options(job), "dist": False, "is_train": True, "rank": 0, "world_size": 1}
    opt["path"]["pretrain_network_g"] = job["start"]
    model = importlib.import_module("basicsr.models").build_model(opt)
    lr, hr = (np.load(Path(job["folder"], f"{name}.npy"), mmap_mode="r") for name in ("lr", "hr"))
    start = time.perf_counter()
    for step in range(job["steps"]):
        part = slice(step * job["batch"], (step + 1) * job["batch"])
        images = (torch.from_numpy(np.moveaxis(x[part], -1, 1) / np.float32(255)).contiguous() for x in (lr, hr))
        model.update_learning_rate(step + 1)
        model.feed_data(dict(zip(("lq", "gt"), images, strict=True)))
        model.optimize_parameters(step + 1)
    seconds = time.perf_counter() - start
    torch.save(model.net_g.state_dict(), job["out"])
    return {"version": importlib.import_module("basicsr.version").__version__, "seconds": seconds}


def video(job: dict[str, Any]) -> dict[str, Any]:
    """Train BasicSR's EDVRModel on a clip in memory, as in train_EDVR_M_x4_SR_REDS.yml, alternating with others."""
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
