import warnings

import lightning as L
import pytest
import torch
from torch import nn

from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.losses.adversarial import RelativisticAverage
from sr_train.losses.gan import GANLoss
from sr_train.models.edsr import EDSR
from sr_train.tasks.curves import MultiStep
from sr_train.tasks.gan import GANTask
from sr_train.tasks.parameters import freeze, split, suffixes
from sr_train.tasks.pixel import PixelTask
from sr_train.training.callbacks import StepLog

SMALL = (
    "model=edsr_baseline", "data=toy", "sets=[]", "model.blocks=1", "model.channels=8", "data.workers=0",
    "data.batch=2", "data.lr_patch=12", "trainer.accelerator=cpu", "trainer.precision=32", "logger=csv", "record.every=1",
    "validate.pictures=0", "name=run",
)  # fmt: skip


def network():
    torch.manual_seed(0)
    return EDSR(scale=2, channels=4, blocks=2)


def pixel(**more):
    given = {"rate": 1e-2, "curve": MultiStep(milestones=[3], gamma=0.1), "optimizer": torch.optim.Adam, "ema": 0.9}
    return PixelTask(model=network(), loss=nn.L1Loss(), **{**given, **more})


def gan(**more):
    parts = {
        "model": network(),
        "discriminator": nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    weights = {"pixel": 0.1, "adversarial": 1.0}
    loss = GANLoss(adversarial=RelativisticAverage(), pixel=nn.L1Loss(), weights=weights)
    given = {"rate": 1e-2, "curve": MultiStep(milestones=[3], gamma=0.1), "optimizer": torch.optim.Adam, "ema": 0.9}
    return GANTask(**parts, loss=loss, **{**given, **more})


class Seen(L.Callback):
    """Rates of each step by group."""

    def __init__(self):
        self.rates = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.rates.append({g["suffix"]: g["lr"] for g in optimizer.param_groups})


def fit(task, steps, *, resume=None, callbacks=(), **options):
    generator = torch.Generator().manual_seed(1)
    batches = [
        {"lr": torch.rand(2, 3, 8, 8, generator=generator), "hr": torch.rand(2, 3, 16, 16, generator=generator),
         "key": ["a", "b"], "scale": 2} for _ in range(8)
    ]  # fmt: skip
    seen = Seen()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=-1,
        enable_model_summary=False, max_steps=steps, callbacks=[seen, *callbacks], **options,
    )  # fmt: skip
    start = 0 if resume is None else torch.load(resume, weights_only=True)["global_step"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = torch.utils.data.DataLoader(batches[start:] + batches[:start], batch_size=None)
        trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    return seen.rates, [str(w.message) for w in said]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trainable": ["upsmaple.*"]}, r"task\.trainable: 'upsmaple\.\*' matches no parameter; did you mean upsample"),
        ({"trainable": ["body.*", "body.9.*"]}, r"'body\.9\.\*' matches no parameter; did you mean body"),
        (
            {"trainable": ["zzz"]},
            r"names of parameters begin with conv_first, body, conv_after_body, upsample, conv_last",
        ),
        ({"rate_scale": {"*dcn*": 0.1}}, r"task\.rate_scale: '\*dcn\*' matches no parameter \("),
        (
            {"rate_scale": {"body.*": 0}},
            r"'body\.\*': 0 is not a positive number; to freeze parameters use task\.trainable",
        ),
        ({"rate_scale": {"body.*": "half"}}, "'half' is not a positive number"),
        (
            {"rate_scale": {"body.*": 0.1, "body.0.*": 1}},
            r"'body\.0\.\*': all parameters that match this glob match an earlier glob",
        ),
        ({"trainable": ["body.*"], "rate_scale": {"conv_*": 0.1}}, r"'conv_\*': all parameters that match"),
    ],
)
@pytest.mark.parametrize("task", [pixel, gan])
def test_invalid_globs_are_refused_with_similar_names(task, given, message):
    with pytest.raises(ValueError, match=message):
        task(**given)


def test_only_a_gan_may_freeze_its_network():
    with pytest.raises(ValueError, match=r"task\.trainable=\[\] freezes all parameters; give task\.trainable=\['\*'\]"):
        pixel(trainable=[])
    assert [group["suffix"] for group in gan(trainable=[]).parameter_groups()] == ["_d"]


@pytest.mark.parametrize("make", [pixel, gan])
def test_frozen_parameters_have_no_gradient_and_no_state_and_do_not_change(make):
    task = make(trainable=["upsample.*", "conv_last.bias"])
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    fit(task, 4)
    trained = {n for n, p in task.model.named_parameters() if p.requires_grad}
    assert trained == {"upsample.0.weight", "upsample.0.bias", "conv_last.bias"}
    assert all(p.grad is None for n, p in task.model.named_parameters() if n not in trained)
    assert task.ema is not None
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trained), name
        assert torch.equal(task.ema.module.state_dict()[name], before[name]) == (name not in trained), name
    (optimizer,) = task.trainer.optimizers
    known = {id(p) for g in optimizer.param_groups for p in g["params"]}
    others = list(task.discriminator.parameters()) if make is gan else []
    assert known == {id(p) for p in [*(p for p in task.model.parameters() if p.requires_grad), *others]}
    assert len(optimizer.state) == len(known)


@pytest.mark.parametrize("make", [pixel, gan])
def test_each_group_has_its_own_rate_on_the_same_curve(make):
    more = {"discriminator_rate": 3e-3, "discriminator_curve": MultiStep(milestones=[1])} if make is gan else {}
    rates, _ = fit(make(rate_scale={"body.0.*": 0.5, "body.*": 2.0}, **more), 5)
    expected = {"": 1e-2, "_scaled_body_0": 5e-3, "_scaled_body": 2e-2}
    for step, found in enumerate(rates):
        curve = {k: v * (0.1 if step >= 3 else 1.0) for k, v in expected.items()}
        if make is gan:
            curve["_d"] = 3e-3 * (0.5 if step >= 1 else 1.0)
        assert found == pytest.approx(curve)
    assert len(rates) == 5


def test_a_factor_scales_the_step_of_its_group():
    plain, scaled = (pixel(optimizer=torch.optim.SGD, rate_scale=s) for s in ({}, {"*conv2.*": 0.25}))
    start = {k: v.clone() for k, v in plain.model.state_dict().items()}
    for task in (plain, scaled):
        fit(task, 1)
    for name, value in scaled.model.state_dict().items():
        factor = 0.25 if "conv2" in name else 1.0
        expected = start[name] + factor * (plain.model.state_dict()[name] - start[name])
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("make", [pixel, gan])
def test_a_resumed_run_equals_an_uninterrupted_run(make, tmp_path):
    given = {"trainable": ["body.*", "upsample.*"], "rate_scale": {"upsample.*": 0.1}}
    whole, first, second = make(**given), make(**given), make(**given)
    rates, _ = fit(whole, 5)
    fit(first, 2)
    first.trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert fit(second, 5, resume=tmp_path / "a.ckpt")[0] == rates[2:]
    assert all(torch.equal(second.state_dict()[k], v) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("make", [pixel, gan])
def test_a_resumed_run_uses_the_new_rate(make, tmp_path):
    first = make(rate_scale={"body.*": 0.1})
    fit(first, 2)
    first.trainer.save_checkpoint(tmp_path / "a.ckpt")
    more = {"discriminator_rate": 7e-4} if make is gan else {}
    rates, _ = fit(make(rate=4e-3, rate_scale={"body.*": 0.5}, **more), 3, resume=tmp_path / "a.ckpt")
    assert rates == [pytest.approx({"": 4e-3, "_scaled_body": 2e-3, **({"_d": 7e-4} if make is gan else {})})]


def test_a_forced_resume_uses_the_new_rate(invoke, tmp_path):
    assert invoke("sr-train", *SMALL, "curve=constant", "trainer.max_steps=2", "task.rate=3e-3").returncode == 0
    done = invoke("sr-train", *SMALL, "curve=constant", "trainer.max_steps=4", "task.rate=1e-3", "resume=force")
    assert done.returncode == 0, done.stderr
    rows = next(tmp_path.glob("runs/run/*/metrics.csv")).read_text().splitlines()
    rates = [float(r.split(",")[-1]) for r in rows if "train/rate" in r]
    assert rates == pytest.approx([3e-3, 3e-3, 1e-3, 1e-3])


def test_the_gradient_of_a_network_is_clipped_over_all_groups():
    plain, grouped = (pixel(optimizer=torch.optim.SGD, rate_scale=s) for s in ({}, {"body.*": 1.0}))
    for task in (plain, grouped):
        fit(task, 3, gradient_clip_val=1e-3)
    states = [t.model.state_dict() for t in (plain, grouped)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    norm = torch.stack([p.grad.norm() for p in grouped.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_names_of_groups_are_unique():
    assert suffixes(["*dcn*", "dcn", "d*", "*"]) == {
        "*dcn*": "_scaled_dcn", "dcn": "_scaled_dcn__2", "d*": "_scaled_d", "*": "_scaled_all"
    }  # fmt: skip
    assert [glob for glob, _ in split(network(), {"*": 0.5})] == ["*"]  # no group is empty


def test_frozen_parameters_stay_frozen():
    net = network()
    net.conv_last.requires_grad_(False)
    freeze(net, ["*"])
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {"conv_last.weight", "conv_last.bias"}


class Alarming(EDSR):
    """Says something of itself from the second step on."""

    def numbers(self):
        return {"height": torch.tensor(2.5)}

    def alarm(self):
        return "too high; jump"


def test_numbers_of_a_network_are_logged_and_its_alarm_is_printed_once(monkeypatch, tmp_path):
    monkeypatch.setattr(StepLog, "_log", lambda *_: None)  # it needs a data module
    logs = [StepLog(every=2, folder=str(tmp_path)) for _ in range(2)]
    tasks = [pixel() for _ in range(2)]
    for task in tasks:
        task.model.__class__ = Alarming
    _, said = fit(tasks[0], 5, callbacks=logs[:1])
    assert [s for s in said if "too high" in s] == ["step 2: too high; jump"]
    assert float(tasks[0].numbers["train/height"]) == 2.5
    tasks[0].trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, said = fit(tasks[1], 8, resume=tmp_path / "a.ckpt", callbacks=logs[1:])
    assert not any("too high" in s for s in said)


def test_globs_with_dots_pass_through_a_stage_and_the_command_line():
    typed = [
        "experiment=quickstart",
        "stages={a: {task.rate_scale: {body.0.*: 0.5}}, b: {task: {trainable: [body.*]}}}",
        "b.task.rate_scale={*conv2*:0.1,body.1.*:2}",
    ]
    a, b = (s.config["task"] for s in plan(typed).stages)
    assert (a["rate_scale"], a["trainable"]) == ({"body.0.*": 0.5}, ["*"])
    assert (b["rate_scale"], b["trainable"]) == ({"*conv2*": 0.1, "body.1.*": 2}, ["body.*"])
    with pytest.raises(ConfigError, match=r"task\.trainable=\"body\": expected a list of strings"):
        plan(["experiment=quickstart", "task.trainable=body"])


def test_a_glob_that_matches_nothing_is_refused_before_anything_is_trained(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, "trainer.max_steps=2", "task.trainable=[bodi.*]")
    assert done.returncode == 2
    assert "'bodi.*' matches no parameter; did you mean body" in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))
