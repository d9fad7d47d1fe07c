import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import MISSING, fields
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.config.type_hints import hints_of
from sr_train.console import ConfigError
from sr_train.models.edsr import EDSR
from sr_train.runs.resume import differences
from sr_train.tasks.curves import Constant
from sr_train.tasks.gan import GANTask
from sr_train.tasks.options import Options
from sr_train.tasks.pixel import PixelTask

NEWER = {  # of the discriminator: configs of earlier versions do not have them
    "discriminator_steps", "discriminator_first", "discriminator_trainable", "discriminator_optimizer", "discriminator_clip",
    "penalty",
}  # fmt: skip
GROUPS = {"optimizer", "curve"}  # options that are config groups


def test_an_option_is_a_field_and_a_line_of_yaml_with_the_same_default():
    lines = yaml.safe_load((conf_folder() / "task" / "base.yaml").read_text(encoding="utf-8"))
    assert {f.name for f in fields(Options)} - GROUPS == lines.keys() - {"_target_"}
    own = {f.name: f.default for f in fields(Options) if f.default is not MISSING}
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items() if k not in ("protocols", "tile")}
    assert {k: lines[k] for k in lists} == {**lists, "rate_scale": {}}


class Longer(PixelTask):
    def __init__(self, *, margin: int = 2, **options):
        super().__init__(**options)
        self.margin = margin


def test_the_signature_of_a_task_contains_all_keywords():
    shared = {f.name for f in fields(Options)} | {"model"}
    assert set(inspect.signature(GANTask).parameters) == shared | {
        "loss", "discriminator", "discriminator_rate", "discriminator_curve", *NEWER,
    }  # fmt: skip
    assert set(inspect.signature(Longer).parameters) == shared | {"loss", "margin"}
    hints = hints_of(Longer)
    assert (hints["margin"], hints["patience"], hints["rate_scale"]) == (int, int, Mapping[str, float] | None)


def test_a_keyword_that_no_task_has_is_refused():
    given = {"loss": nn.L1Loss(), "optimizer": torch.optim.Adam, "rate": 1e-3, "curve": Constant()}
    task = Longer(model=EDSR(scale=2, channels=4, blocks=1), margin=3, patience=2, **given)
    assert (task.margin, task.options.patience, task.guard.patience) == (3, 2, 2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'patiance'"):
        Longer(model=EDSR(scale=2, channels=4, blocks=1), patiance=2, **given)


@pytest.mark.parametrize(
    ("typed", "message"),
    {
        "task.patiance=2": r"did you mean patience\?",
        "task.patience=2.5": r"task\.patience=2\.5: expected an integer",
        "task.discriminator_rate=1e-4": "no stage has this key",
        "task=base": "task._target_ has no value",
    }.items(),
)
def test_keys_and_values_of_the_options_are_checked_before_anything_is_built(typed, message):
    with pytest.raises(ConfigError, match=message):
        plan([typed])


SHARED = {
    "rate": 1e-4, "ema": 0.999, "protocols": ["y", "rgb"], "patience": 10, "compile": False, "recompute": False,
    "trainable": ["*"], "rate_scale": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "before"),
    [
        (["task=pixel"], {"_target_": "sr_train.tasks.pixel.PixelTask"}),
        (
            ["task=multiscale", "model=mdsr", "scale=null", "scales=[2]"],
            {"_target_": "sr_train.tasks.multiscale.MultiScaleTask"},
        ),
        (
            ["task=gan", "loss=gan"],
            {"_target_": "sr_train.tasks.gan.GANTask", "discriminator_rate": None, "discriminator_curve": None},
        ),
    ],
)
def test_a_run_started_before_tasks_shared_their_options_continues(typed, before):
    now = plan(typed).stages[0].config["task"]
    assert (now.keys() >= NEWER) == ("discriminator_rate" in before)
    parts = {key: now[key] for key in ("optimizer", "discriminator") if key in now}
    assert differences({"task": {**SHARED, **before, **parts}}, {"task": {**now, "parts": 1}}) == []
    assert (
        now.keys() - NEWER - {"tile", "parts", "ema_device"} == {**SHARED, **before, **parts}.keys()
    )  # and no free key was added or lost


@pytest.mark.parametrize(("typed", "message"), [
    ({"ema_device": "gpu"}, "task.ema_device=gpu: choose from same, cpu"),
    ({"ema_device": "cpu", "ema": None}, "has no effect with task.ema=null"),
])  # fmt: skip
def test_a_device_of_the_ema_that_cannot_be_used_is_refused(typed, message):
    with pytest.raises(ValueError, match=message):
        Options(optimizer=torch.optim.Adam, rate=1e-3, curve=Constant(), **typed)


@pytest.mark.parametrize(("kind", "world", "refused"), [("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)])
def test_an_ema_on_the_host_needs_one_gpu(kind, world, refused):
    given = {"loss": nn.L1Loss(), "optimizer": torch.optim.Adam, "rate": 1e-3, "curve": Constant()}
    task = PixelTask(model=EDSR(scale=2, channels=4, blocks=1), ema_device="cpu", **given)
    task._trainer = SimpleNamespace(world_size=world, strategy=SimpleNamespace(root_device=torch.device(kind)))
    with pytest.raises(ValueError, match="one GPU") if refused else nullcontext():
        task.setup("fit")
    task.to("meta")
    assert task.model.body[0].conv1.weight.is_meta
    assert not any(t.is_meta for t in task.averaged().state_dict().values())
    moves = []
    task.ema.module.to = moves.append
    with task._evaluating(2):
        assert moves == [torch.device("meta")], "it visits the device for an evaluation"
    assert moves == [torch.device("meta"), "cpu"]
