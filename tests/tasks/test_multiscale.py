"""One scale a step: its branch and the shared body move, the others stay bit for bit, as one would write it by hand."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F

from sr_train.batch import to_float
from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.models.edsr import EDSR
from sr_train.models.mdsr import MDSR
from sr_train.tasks.curves import Constant
from sr_train.tasks.multiscale import MultiScaleTask
from sr_train.tasks.pixel import PixelTask
from sr_train.training.outline import outline
from sr_train.training.preflight import preflight
from sr_train.training.stage import build_task
from sr_train.training.step_callback import StepCallback
from sr_train.training.trainer import build_trainer

pytestmark = pytest.mark.slow

SMALL = (
    "experiment=quickstart_mdsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=4", "data.lr_patch=8",
    "trainer.accelerator=cpu", "trainer.precision=32", "curve=constant", "task.rate=1e-3", "logger=none",
)  # fmt: skip


def train(steps, *overrides, callbacks=(), tmp_path):
    (ready,) = preflight(plan([*SMALL, f"trainer.max_steps={steps}", *overrides]))
    stage, data = ready.stage, ready.data
    task = build_task(stage.config, stage.name, None)
    trainer = build_trainer(stage.config, list(callbacks), tmp_path)
    trainer.fit(task, datamodule=data)
    return task, data, trainer


def untrained():
    """The network that ``train`` starts from."""
    stage = plan(list(SMALL)).stages[0]
    return build_task(stage.config, stage.name, None).model


def branch_of(name):
    """The scale that a parameter belongs to; None of what all share."""
    found = re.match(r"(?:pre_process|upsample|conv_last)\.(\d)\.", name)
    return int(found[1]) if found else None


class Snapshots(StepCallback):
    """Weights, gradients and optimizer state around every step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.before = self.take(trainer, pl_module)

    def take(self, trainer, task):
        adam = trainer.optimizers[0].state
        return {
            n: (p.detach().clone(), copy.deepcopy(dict(adam[p])) if p in adam else {})
            for n, p in task.model.named_parameters()
        }

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.gradients = {n for n, p in pl_module.model.named_parameters() if p.grad is not None}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.at_step = {n for n, p in pl_module.model.named_parameters() if p.grad is not None}

    def on_step_end(self, trainer, task, step):
        after = self.take(trainer, task)
        self.steps.append((self.before, after, self.at_step))
        self.before = after


def equal(a, b):
    return (
        torch.equal(a[0], b[0])
        and a[1].keys() == b[1].keys()
        and all(torch.equal(torch.as_tensor(a[1][k]), torch.as_tensor(b[1][k])) for k in a[1])
    )


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.shared_tail=true",),
        ("trainer.accumulate_grad_batches=2",),
        ("optimizer=adamw",),
        ("task.recompute=true",),
    ],
    ids=" ".join,
)
def test_a_step_changes_only_its_branch_and_the_shared_body(overrides, tmp_path):
    seen = Snapshots()
    _, data, _ = train(12, *overrides, callbacks=[seen], tmp_path=tmp_path)
    assert len(seen.steps) == 12
    assert {data.step_scales(t) for t in range(12)} == {2, 3, 4}
    for step, (before, after, gradients) in enumerate(seen.steps):
        scale = data.step_scales(step)
        for name in before:
            if branch_of(name) in (None, scale):
                assert name in gradients
                assert not torch.equal(before[name][0], after[name][0]), f"step {step}: {name} did not move"
            else:
                assert name not in gradients
                assert equal(before[name], after[name]), f"step {step}: {name} was touched"
    updates = {name: int(state["step"]) for name, (_, state) in seen.steps[-1][1].items()}
    for name, count in updates.items():  # Adam counts a branch's own steps, so its bias correction is right
        assert count == sum(branch_of(name) in (None, data.step_scales(t)) for t in range(12)), name


def test_training_equals_a_manual_loop(tmp_path):
    task, data, _ = train(8, "task.ema=null", tmp_path=tmp_path)
    network = untrained()
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for step in range(8):
        batch = data.dataset.__getitems__(list(range(4 * step, 4 * step + 4)))
        adam.zero_grad(set_to_none=True)
        F.l1_loss(network(to_float(batch["lr"]), batch["scale"]), to_float(batch["hr"])).backward()
        adam.step()
    for (name, a), b in zip(task.model.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_every_scale_learns(tmp_path):
    """Each branch's loss on a batch of its own falls to less than two thirds."""
    task, data, _ = train(80, "task.ema=null", "task.rate=3e-3", tmp_path=tmp_path)
    start = untrained()
    for scale, patches in data.dataset.patches.items():
        batch = patches.__getitems__(list(range(50)))
        with torch.no_grad():
            before, after = (
                F.l1_loss(n(to_float(batch["lr"]), scale), to_float(batch["hr"])) for n in (start, task.model)
            )
        assert after < before * 2 / 3, f"x{scale}: {before:.4f} -> {after:.4f}"


def test_scale_weights_decide_how_often_each_scale_is_trained(tmp_path):
    seen = Snapshots()
    train(24, "data.scale_weights=[1,1,10]", callbacks=[seen], tmp_path=tmp_path)
    trained = [next(branch_of(n) for n in g if branch_of(n)) for _, _, g in seen.steps]
    assert trained.count(4) > 14


def test_a_network_and_a_task_that_do_not_belong_together_are_refused():
    options = {"loss": torch.nn.L1Loss(), "optimizer": torch.optim.Adam, "rate": 1e-4, "curve": Constant()}
    with pytest.raises(ValueError, match=r"MDSR has branches for the scales \[2, 3\]: give task=multiscale"):
        PixelTask(model=MDSR(scales=[2, 3], channels=4, blocks=1), **options)
    with pytest.raises(ValueError, match="task=multiscale: EDSR has one scale; give task=pixel"):
        MultiScaleTask(model=EDSR(scale=2, channels=4, blocks=1), **options)
    PixelTask(model=MDSR(scales=[3], channels=4, blocks=1), **options)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["scale=3"], r"scale=3 and scales=\[2, 3, 4\]: a network has one or the other; for MDSR give scales=\[3\]"),
        (["scales=null"], r"give scale=4, or for a network of several scales \(mdsr\) scales=\[2,3,4\]"),
        (["scales=[2,x]"], r"scales=\[2, \"x\"\]: expected a list of integers or null"),
        (["scales=3"], "scales=3: expected a list"),
    ],
)
def test_scale_and_scales_are_checked_before_anything_is_built(typed, message):
    with pytest.raises(ConfigError, match=message):
        plan([*SMALL, *typed])


def test_ddp_looks_for_unused_parameters_for_this_task_alone():
    def strategy(*typed):
        return outline(plan(list(typed)).stages[0], []).stage.config["trainer"]["strategy"]

    for task, end in ((SMALL, "_find_unused_parameters_true"), (["experiment=quickstart_edsr", *SMALL[1:]], "")):
        assert strategy(*task, "trainer.strategy=ddp", "trainer.devices=2") == f"ddp{end}"
        assert strategy(*task, "trainer.devices=1") == "auto"
    assert strategy(*SMALL, "trainer.devices=2") == "ddp_find_unused_parameters_true"
