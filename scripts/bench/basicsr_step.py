"""Compare steps of task=gan with BasicSR's SRGANModel, ESRGANModel and RealESRGANModel, from equal networks and batches.

    python scripts/bench/basicsr_step.py --basicsr-python bsr/bin/python [--steps 3] [--folder DIR] [--cases srgan esrgan]

Both programs start from one file of weights of G and D, see the same images, and train with Adam in fp32 on the CPU with one
thread: ours in the real GANTask in Lightning's Trainer, built from conf/; theirs by calling ``optimize_parameters`` of BasicSR
1.4.2 (see loader.py for its venv). Printed for each step: the largest relative difference of G and of D (largest difference
in a tensor / largest value in it, the maximum over tensors), for the parameters and for Adam's mean of the gradients, which
is 0.1 times the gradient after the first step. Adam divides the gradient by its size, so a gradient of the size of its
rounding error decides a step of +rate or -rate: the parameters of such elements differ, and more so between two runs of ours
whose first weights differ in the last bit, which are printed as well. A larger ``--eps`` takes this away.

Four things are made equal, all stated here:

- Networks are small. VGG19 has random weights (He et al. 2015) in both.
- Spectral normalization is a function of the number of calls of D. BasicSR calls D on SR before HR, we the other way round,
  so ``InOrder`` gives each of BasicSR's calls the vectors of our call on the same images.
- ESRGAN's loss of D has detached averages in BasicSR: ``detach_means=true``.
- BasicSR's RealESRGANModel calls ``.cuda()``; it is replaced. Its targets are not sharpened (``l1_gt_usm: false`` and so on).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peer import child, stand_in

SCALE, SIDE, BATCH = 4, 32, 2  # LR patches of 32 px: HR of 128 px, which BasicSR's VGG-style discriminator needs

_VGG = {"model": "msrresnet", "discriminator": "vgg", "basicsr_d": "VGGStyleDiscriminator", "features": True}
_UNET = {"model": "rrdbnet", "discriminator": "unet_sn", "basicsr_d": "UNetDiscriminatorSN", "features": False}
_LOSS = {"pixel": 1e-2, "perceptual": 1.0, "adversarial": 5e-3}

_RAGAN = {"class": "ESRGANModel", "adversarial": "ragan", "weights": _LOSS, "calls": [1, 2, 3, 1, 3]}

#: calls: for each call of D by BasicSR, our call with the same images (1: HR, 2: SR for G's loss, 3: SR for D's loss)
CASES: dict[str, dict[str, Any]] = {
    "srgan": {**_VGG, "class": "SRGANModel", "adversarial": "vanilla", "weights": _LOSS, "calls": [2, 1, 3]},
    "esrgan": {**_VGG, "model": "rrdbnet", **_RAGAN},
    "realesrgan": {
        **_UNET, "features": True, "class": "RealESRGANModel", "adversarial": "vanilla", "calls": [2, 1, 3],
        "weights": {"pixel": 1.0, "perceptual": 1.0, "adversarial": 0.1},
    },
    "esrgan with unet_sn": {**_UNET, **_RAGAN},
    "hinge": {**_UNET, "class": "SRGANModel", "adversarial": "hinge", "weights": _LOSS, "calls": [2, 1, 3]},
    "lsgan": {**_UNET, "class": "SRGANModel", "adversarial": "lsgan", "weights": _LOSS, "calls": [2, 1, 3]},
    "wgan": {**_UNET, "class": "SRGANModel", "adversarial": "wgan", "weights": _LOSS, "calls": [2, 1, 3]},
}  # fmt: skip

Tensors = Mapping[str, torch.Tensor]
States = list[
    dict[str, dict[str, torch.Tensor]]
]  # per step: g and d, and the gradients' means g' and d', {name: tensor}


def state_of(
    networks: Mapping[str, torch.nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Return copies of the parameters and of Adam's means of their gradients, {network: {name: tensor}}."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, network in networks.items():
        state, parameters = optimizers[key].state, dict(network.named_parameters())
        found[key] = {n: p.detach().clone() for n, p in parameters.items()}
        found[f"{key}'"] = {n: state[p]["exp_avg"].clone() for n, p in parameters.items()}
    return found


# -- BasicSR ---------------------------------------------------------------------------------------------------------


class InOrder:
    """Hook that gives each call of a discriminator the vectors u and v of the power iteration of a given number.

    Args:
        network: discriminator whose weights do not change between the calls of a step.
        numbers: for each call of a step, the number of the power iteration, from 1.
    """

    def __init__(self, network: torch.nn.Module, numbers: list[int]) -> None:
        self.network, self.numbers, self.call = network, numbers, 0
        network.register_forward_pre_hook(self._before)

    def _vectors(self) -> dict[str, torch.Tensor]:
        return {n: b.clone() for n, b in self.network.named_buffers() if n.endswith(("weight_u", "weight_v"))}

    def _load(self, vectors: Mapping[str, torch.Tensor]) -> None:
        buffers = dict(self.network.named_buffers())
        for name, value in vectors.items():
            buffers[name].copy_(value)

    def _before(self, module: torch.nn.Module, images: Any) -> None:
        if self.call == 0:
            self.states = [self._vectors()]
            normed = [m for m in module.modules() if hasattr(m, "weight_orig")]
            for _ in range(max(self.numbers)):
                for layer in normed:
                    hook: Any = next(iter(layer._forward_pre_hooks.values()))
                    with torch.no_grad():
                        hook.compute_weight(layer, do_power_iteration=True)
                self.states.append(self._vectors())
        self._load(self.states[self.numbers[self.call] - 1])
        self.call += 1

    def end(self) -> None:
        """End a step: the next one continues from the last power iteration."""
        self._load(self.states[max(self.numbers)])
        self.call = 0


def options(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return BasicSR's options for a case."""
    case, weights = job["case"], job["case"]["weights"]
    adam = {"type": "Adam", "lr": job["rate"], "weight_decay": 0, "betas": [0.9, 0.99], "eps": job["eps"]}
    kind = {"ragan": "vanilla"}.get(case["adversarial"], case["adversarial"])
    gan = {"type": "GANLoss", "gan_type": kind, "real_label_val": 1.0, "fake_label_val": 0.0}
    train: dict[str, Any] = {
        "optim_g": dict(adam),
        "optim_d": dict(adam),
        "scheduler": {"type": "MultiStepLR", "milestones": [1000], "gamma": 0.5},
        "pixel_opt": {"type": "L1Loss", "loss_weight": weights["pixel"], "reduction": "mean"},
        "gan_opt": {**gan, "loss_weight": weights["adversarial"]},
    }
    if case["features"]:
        train["perceptual_opt"] = {
            "type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "vgg_type": "vgg19", "use_input_norm": True,
            "range_norm": False, "perceptual_weight": weights["perceptual"], "style_weight": 0, "criterion": "l1",
        }  # fmt: skip
    small: dict[str, Any] = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8}
    generators = {
        "rrdbnet": {"type": "RRDBNet", **small, "num_block": 1, "num_grow_ch": 4},
        "msrresnet": {"type": "MSRResNet", **small, "num_block": 1, "upscale": SCALE},
    }
    opt = {
        "name": "step",
        "model_type": case["class"],
        "scale": SCALE,
        "num_gpu": 0,
        "manual_seed": 0,
        "is_train": True,
    }
    opt |= {"dist": False, "l1_gt_usm": False, "percep_gt_usm": False, "gan_gt_usm": False}
    opt |= {"high_order_degradation": False}
    d = {"type": case["basicsr_d"], "num_in_ch": 3, "num_feat": 4}
    return {**opt, "network_g": generators[case["model"]], "network_d": d, "train": train, "path": {}}


def use_float64() -> None:
    """Let both programs compute in float64: new tensors have it, and ``float()`` converts to it."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # pyright: ignore[reportAttributeAccessIssue]


def basicsr(job: dict[str, Any]) -> dict[str, Any]:
    """Train a few steps with BasicSR; write the states after each step."""
    torch.set_num_threads(1)
    if job["double"]:
        use_float64()
    stand_in()
    importlib.import_module("basicsr.archs")
    start = torch.load(job["start"], weights_only=True)
    features, vgg = (
        torch.load(job["vgg"], weights_only=True),
        cast("Any", importlib.import_module("torchvision.models.vgg")),
    )
    build = vgg.vgg19

    def random_vgg19(**_: Any) -> torch.nn.Module:
        network = build(weights=None, init_weights=False)
        missing = network.load_state_dict(features, strict=False).missing_keys
        assert all(name.startswith("classifier") for name in missing)
        return network

    vgg.vgg19 = random_vgg19
    torch.nn.Module.cuda = lambda self, device=None: self  # pyright: ignore[reportAttributeAccessIssue]
    model = importlib.import_module("basicsr.models").build_model(options(job))
    model.usm_sharpener = lambda images: images  # not used with these options, and in float32 only
    networks = {"g": model.net_g, "d": model.net_d}
    for name, network in networks.items():
        network.load_state_dict(start[name])
    order = InOrder(model.net_d, job["case"]["calls"])
    states: States = []
    for number, batch in enumerate(start["batches"], 1):
        model.feed_data({"lq": batch["lr"].float() / 255, "gt": batch["hr"].float() / 255})
        model.optimize_parameters(number)
        order.end()
        states.append(state_of(networks, {"g": model.optimizer_g, "d": model.optimizer_d}))
    torch.save(states, job["out"])
    return {"steps": len(states)}


# -- sr-train --------------------------------------------------------------------------------------------------------


def arguments(case: Mapping[str, Any], args: argparse.Namespace, vgg: Path) -> list[str]:
    """Return the command line of a case."""
    weights = {name: w for name, w in case["weights"].items() if case["features"] or name != "perceptual"}
    typed = [
        "task=gan",
        "loss=esrgan",
        f"adversarial={case['adversarial']}",
        f"model={case['model']}",
        "model.blocks=1",
    ]
    typed += ["model.channels=8", *(["model.growth=4"] if case["model"] == "rrdbnet" else []), f"scale={SCALE}"]
    typed += [f"discriminator={case['discriminator']}", "task.discriminator.channels=4", f"data.lr_patch={SIDE}"]
    typed += [f"loss.weights.{name}={weight}" for name, weight in weights.items()]
    typed += [f"task.rate={args.rate}", "task.optimizer.betas=[0.9,0.99]", f"+task.optimizer.eps={args.eps}"]
    typed += ["task.ema=null", "stages={gan: {}}", f"task.optimizer.fused={not args.double}"]
    typed += [f"loss.perceptual.extractor.weights={vgg}"] if case["features"] else ["loss.perceptual=null"]
    return typed + (["loss.adversarial.detach_means=true"] if case["adversarial"] == "ragan" else [])


def ours(typed: list[str], start: Mapping[str, Any], nudge: float) -> States:
    """Train the same steps with task=gan. ``nudge`` is a relative change of the first weight of G and of D."""
    import lightning as L

    from sr_train.config.plan import plan
    from sr_train.training.stage import build_task

    task: Any = build_task(plan(typed).stages[0].config, "gan", None)
    task.model.load_state_dict(start["g"])
    task.discriminator.load_state_dict(start["d"])
    for network in (task.model, task.discriminator):
        with torch.no_grad():
            next(network.parameters())[0, 0, 0, 0].mul_(1 + nudge)
    states: States = []
    precision = "64-true" if torch.get_default_dtype() == torch.float64 else "32-true"

    class Keep(L.Callback):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            optimizer = task.trainer.optimizers[0]
            states.append(state_of({"g": task.model, "d": task.discriminator}, {"g": optimizer, "d": optimizer}))

    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
        enable_model_summary=False, max_steps=len(start["batches"]), precision=precision, callbacks=[Keep()],
    )  # fmt: skip
    trainer.fit(task, torch.utils.data.DataLoader(start["batches"], batch_size=None))
    return states


def begin(typed: list[str], steps: int) -> dict[str, Any]:
    """Return weights of new networks, and batches of images."""
    from sr_train.config.plan import plan
    from sr_train.training.stage import build_task

    task: Any = build_task(plan(typed).stages[0].config, "gan", None)
    generator = torch.Generator().manual_seed(1)
    batches: list[dict[str, Any]] = []
    for step in range(steps):
        low = torch.rand(BATCH, 3, SIDE // 4, SIDE // 4, generator=generator)
        hr = torch.nn.functional.interpolate(low, scale_factor=4 * SCALE, mode="bicubic")
        hr = (hr + 0.05 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
        lr = torch.nn.functional.interpolate(hr, scale_factor=1 / SCALE, mode="area")
        pixels = {"lr": (255 * lr).round().to(torch.uint8), "hr": (255 * hr).round().to(torch.uint8)}
        batches.append({**pixels, "key": [f"{step}/{i}" for i in range(BATCH)], "scale": SCALE})
    with torch.no_grad():
        task.discriminator.train()
        for _ in range(20):  # the power iteration starts with random vectors; a trained D has converged ones
            task.discriminator(torch.rand(2, 3, SCALE * SIDE, SCALE * SIDE))
    copies = {
        k: {n: v.clone() for n, v in m.state_dict().items()} for k, m in (("g", task.model), ("d", task.discriminator))
    }
    return {**copies, "batches": batches}


def write_vgg(path: Path) -> None:
    """Write convolutions of VGG19 with random weights by torchvision's names."""
    torch.manual_seed(5)
    layers, before, index = {}, 3, 0
    for outputs, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            layers[f"features.{index}.weight"] = (torch.randn(outputs, before, 3, 3) * (2 / (9 * before)) ** 0.5).to(
                torch.float32
            )
            layers[f"features.{index}.bias"] = torch.zeros(outputs, dtype=torch.float32)
            before, index = outputs, index + 2
        index += 1
    torch.save(layers, path)


def relative(a: Tensors, b: Tensors) -> float:
    """Return the largest difference in a tensor divided by its largest value, the maximum over tensors."""
    assert a.keys() == b.keys()
    return max(float((a[n] - v).abs().max() / v.abs().max().clamp_min(1e-30)) for n, v in b.items())


def compare(name: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run a case with both programs, print the differences, and return those after one step."""
    case, vgg = CASES[name], folder / "vgg.pth"
    typed = arguments(case, args, vgg)
    start = begin(typed, args.steps)
    torch.save(start, folder / "start.pt")
    job: dict[str, Any] = {"case": case, "rate": args.rate, "eps": args.eps, "vgg": str(vgg), "double": args.double}
    child(args.basicsr_python, __file__, {**job, "start": str(folder / "start.pt"), "out": str(folder / "out.pt")})
    theirs: States = torch.load(folder / "out.pt", weights_only=True)
    made, nudged = (ours(typed, start, nudge) for nudge in (0.0, 2e-7))
    steps = [({k: relative(a[k], b[k]) for k in a}, {k: relative(a[k], c[k]) for k in a})
             for a, b, c in zip(made, theirs, nudged, strict=True)]  # fmt: skip
    for step, (other, own) in enumerate(steps, 1):
        shown = ["  ".join(f"{k} {v:.0e}" for k, v in found.items()) for found in (other, own)]
        print(f"RESULT {name:<20} step {step}: {shown[0]}    ours, last bit changed: {shown[1]}", flush=True)
    return steps[0][0]


def main() -> None:
    """Compare all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basicsr-python", required=True, help="Python of the venv with BasicSR")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--eps", type=float, default=1e-8, help="Adam's")
    parser.add_argument("--double", action="store_true", help="in float64")
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.double:
        use_float64()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_vgg(folder / "vgg.pth")
        worst = {name: compare(name, args, folder) for name in args.cases}
    for part, what in {"g": "parameters of G", "d": "of D", "g'": "gradients of G", "d'": "of D"}.items():
        print(
            f"RESULT after one step, largest of all cases, {what}: {max(found[part] for found in worst.values()):.1e}"
        )


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(basicsr(json.loads(sys.argv[1]))))
    else:
        main()
