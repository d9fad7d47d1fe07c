"""Memory of a GAN step of ``experiment=esrgan_x4``: one backward pass for both losses, against one for each.

    python scripts/bench/gan_memory.py
    python scripts/bench/gan_memory.py --recompute

RRDBNet of 23 blocks, the VGG-style discriminator, VGG19's conv5_4 features, L1, Adam and an EMA of G, batch 16, HR patches of
128 px, in fp32 and with bf16 autocast. The memory of the second step is counted, with Adam's state.

- joint: the step of sr-train. The graphs of G, of the features and of three passes of D exist at the same time.
- apart: each loss is differentiated directly after its forward pass, G's loss up to the images; only G's own graph remains
  until ``backward()``. The gradients are the same.

The tensors are torch's fake tensors: nothing is computed or allocated, and the numbers are the same on every machine. The
sum is over the storages that exist after each operation; temporary memory inside an operation is not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from sr_train.losses.adversarial import RelativisticAverage
from sr_train.losses.gan import GANLoss
from sr_train.losses.perceptual import PerceptualLoss
from sr_train.models import features
from sr_train.models.discriminators import VGGStyleDiscriminator
from sr_train.models.rrdbnet import RRDBNet
from sr_train.tasks.curves import Constant
from sr_train.tasks.gan import GANTask
from sr_train.training.step_memory import LiveBytes, make_fake

LIMIT = 0.10  # sr-train uses joint unless apart saves more than this


class _Settled(torch.autograd.Function):
    """A loss with known gradients: forward returns its value, backward these gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, gradients: list[torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(g.mul_(outer[0]) for g in gradients)


def settled(loss: torch.Tensor, inputs: Sequence[torch.Tensor]) -> Any:
    """Differentiate ``loss`` by ``inputs`` now, so that its graph is freed before the next one is built."""
    with torch.autocast("cpu", enabled=False):  # as backward passes are
        gradients = list(torch.autograd.grad(loss, inputs))
    return _Settled.apply(loss.detach(), gradients, *inputs)


class Apart(nn.Module):
    """A GANLoss that differentiates each of its two losses directly."""

    def __init__(self, loss: GANLoss, discriminator: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.needs_real = loss.needs_real
        self._of_d = lambda: list(discriminator.parameters())

    def generator(
        self, sr: torch.Tensor, hr: torch.Tensor, **logits: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, parts = self.loss.generator(sr, hr, **logits)
        return settled(loss, [sr]), parts

    def discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, parts = self.loss.discriminator(real, fake)
        return (settled(loss, self._of_d()) if loss.requires_grad else loss), parts  # the watch asks without a graph


def build(form: str, args: argparse.Namespace) -> GANTask:
    """Return the task of the recipe with zero weights in the feature network: memory does not depend on them."""
    shapes = {"weight": lambda n: (n.outputs, n.inputs, n.kernel, n.kernel), "bias": lambda n: (n.outputs,)}
    features._read = lambda network, needed, weights: {
        f"{n.name}_{part}": torch.zeros(shape(n)) for n in needed if n.kind == "conv" for part, shape in shapes.items()
    }
    extractor = features.FeatureExtractor(network="vgg19", layers=["conv5_4"])
    loss = GANLoss(
        adversarial=RelativisticAverage(),
        pixel=nn.L1Loss(),
        perceptual=PerceptualLoss(extractor=extractor, layers={"conv5_4": 1.0}),
        weights={"perceptual": 1.0, "adversarial": 5e-3, "pixel": 1e-2},
    )
    discriminator = VGGStyleDiscriminator(size=4 * args.patch)
    task = GANTask(
        model=RRDBNet(scale=4, channels=64, growth=32, blocks=args.blocks),
        discriminator=discriminator,
        loss=loss if form == "joint" else Apart(loss, discriminator),
        optimizer=torch.optim.Adam,
        rate=1e-4,
        curve=Constant(),
        recompute=args.recompute,
    )
    task._trainer = SimpleNamespace(accumulate_grad_batches=1, global_step=0, is_global_zero=True)  # pyright: ignore[reportAttributeAccessIssue]
    return task


def count(form: str, bf16: bool, args: argparse.Namespace) -> tuple[int, int]:
    """Return (bytes before the second step, most bytes in it)."""
    task = build(form, args)
    before, live = 0, LiveBytes()
    with FakeTensorMode(), live:
        make_fake(task, "cpu")
        optimizer = torch.optim.Adam([p for group in task.parameter_groups() for p in group["params"]])
        for _ in range(2):
            optimizer.zero_grad()
            before = live.most = live.now
            sizes = {"lr": args.patch, "hr": 4 * args.patch}
            batch: Any = {k: torch.empty(args.batch, 3, n, n, dtype=torch.uint8) for k, n in sizes.items()}
            with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
                loss = task.training_step(batch, 0)
            loss.backward()
            optimizer.step()
            task.numbers.clear()
            task.guard.end()
            del batch, loss
    return before, live.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="pairs per step (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=32, help="LR patch: 8, 16, 32 or 64 (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=23, help="blocks of RRDBNet (default: %(default)s)")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing of G (task.recompute=true)")
    args = parser.parse_args()
    print("MB           before   joint   apart   saved")
    for bf16 in (False, True):
        (before, joint), (_, apart) = (count(form, bf16, args) for form in ("joint", "apart"))
        saved = 1 - apart / joint
        print(
            f"{'bf16' if bf16 else 'fp32':10} {before / 1e6:8.1f}{joint / 1e6:8.1f}{apart / 1e6:8.1f}{saved:8.1%}  "
            f"({'over' if saved > LIMIT else 'below'} {LIMIT:.0%})"
        )


if __name__ == "__main__":
    main()
